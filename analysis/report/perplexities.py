"""The table of forgetting: the perplexity of general text before and after training."""

from analysis.report.html_tables import Cell, Column, Table, numeric, table, text
from analysis.report.material import Frame
from analysis.report.sections import METHOD, MODEL, PROTOCOL, TASK, number

KEY = ["task", "model", "protocol", "method"]
VALUES = ["perplexity_before", "perplexity_after"]


def forgetting(tested: Frame) -> Table:
    """Tabulate the perplexities of every method whose runs measured them; means over seeds."""
    columns = [
        TASK, MODEL, PROTOCOL, METHOD,
        number("before", "perplexity of general text by the pretrained model"),
        number("after", "of the trained model: the mean over seeds"),
        number("lowest", "of the seeds"), number("highest", "of the seeds"),
        Column(title="seeds", numbers=True, shared=True),
    ]  # fmt: skip
    measured = tested.dropna(subset=VALUES)
    groups = measured.groupby(KEY, sort=False)
    return table("forgetting", columns, (row(key, runs) for key, runs in groups))


def row(key: tuple[str, ...], runs: Frame) -> list[Cell]:
    """The row of a method on one task."""
    after = runs["perplexity_after"].astype(float)
    values = (
        runs["perplexity_before"].astype(float).mean(),
        after.mean(),
        after.min(),
        after.max(),
    )
    *place, method = map(text, key)
    return [
        *place,
        text(method.text, strong=True),
        *(numeric(value, lambda value: f"{value:,.2f}") for value in values),
        numeric(len(runs)),
    ]
