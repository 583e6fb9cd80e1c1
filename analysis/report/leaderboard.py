"""The leaderboard: methods by tasks, with what they train, how long it takes, and at which rate."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from analysis import cost
from analysis.report import words
from analysis.report.answers import on_main_stack
from analysis.report.comparisons import Comparison
from analysis.report.html_tables import Cell, Table, numeric, table
from analysis.report.material import SEPARATOR, Frame, Record
from analysis.report.overall import Overall
from analysis.report.sections import METHOD, RATE, floor_cell, number
from experiments.metrics.baseline import LOWEST, MAJORITY

Costs = Mapping[str, Frame]


@dataclass(frozen=True, kw_only=True)
class Leaderboard:
    """The tasks of one model and protocol as one table."""

    title: str
    table: Table


def leaderboards(
    found: list[Comparison], overall: list[Overall], costs: Costs
) -> list[Leaderboard]:
    """A table for each model and protocol."""
    sets: dict[tuple[str, str], list[Comparison]] = {}
    for one in found:
        sets.setdefault((one.model, one.protocol), []).append(one)
    whole = {(each.model, each.protocol): each for each in overall}
    return [
        Leaderboard(
            title=SEPARATOR.join(key),
            table=one_table(f"leaders{place or ''}", parts, whole.get(key), costs),
        )
        for place, (key, parts) in enumerate(sets.items())
    ]


def one_table(name: str, parts: Sequence[Comparison], whole: Overall | None, costs: Costs) -> Table:
    """Methods in rows, by their mean over tasks or else on the first task; the baseline last."""
    columns = [
        METHOD,
        *([number("all tasks", "mean over tasks, weighted as the verdict says")] if whole else []),
        *(number(task_title(one, parts), f"{one.metric}, {one.examples:,} examples")
          for one in parts),
        number("parameters", "trained, without the head; mean over tasks"),
        number("time", f"of training one run, mean over tasks: {machines(parts, costs)}"),
        RATE,
    ]  # fmt: skip
    methods = in_order(parts, whole)
    body = [method_row(method, parts, whole, costs) for method in methods]
    return table(name, columns, [*body, baseline_row(parts, whole)])


def task_title(one: Comparison, parts: Sequence[Comparison]) -> str:
    """The task, with its data if there are several of its name, and its metric."""
    data = SEPARATOR.join([one.task, *one.group.split(SEPARATOR)[3:]])
    short = (
        data.rpartition("/")[2]
        if len({part.task.partition("/")[0] for part in parts}) == 1
        else data
    )
    return f"{short}, {one.metric}"


def in_order(parts: Sequence[Comparison], whole: Overall | None) -> list[str]:
    """The methods, best first; those without a mean over the tasks come last."""
    ordered = (
        []
        if whole is None
        else whole.methods.sort_values("mean", ascending=False)["method"].tolist()
    )
    for one in parts:
        ordered += [name for name in one.methods["method"] if name not in ordered]
    return ordered


def method_row(
    method: str, parts: Sequence[Comparison], whole: Overall | None, costs: Costs
) -> list[Cell]:
    """One method."""
    rows = [row_of(one.methods, method) for one in parts]
    sizes = [row["trained"] for row in rows if row is not None]
    rates = [rate for one in parts for rate in effective_rates(one, method)]
    return [
        Cell(text=method, key=method, strong=True, look=method),
        *([mean_cell(row_of(whole.methods, method), "")] if whole else []),
        *(mean_cell(row, one.metric) for row, one in zip(rows, parts, strict=True)),
        numeric(mean(sizes), lambda value: f"{value:,.0f}"),
        numeric(mean(training_times(method, parts, costs)), words.duration),
        Cell(text=words.rates(rates), key=min(rates, default=math.inf)),
    ]


def baseline_row(parts: Sequence[Comparison], whole: Overall | None) -> list[Cell]:
    """The scores of one answer to all examples; of metrics of texts the lowest scores."""
    name = name_baseline(parts)
    return [
        Cell(text=name, key=name),
        *([numeric(whole.floor, lambda value: words.score(value, ""))] if whole else []),
        *(floor_cell(one) for one in parts),
        *[numeric(None)] * 3,
    ]


def name_baseline(parts: Sequence[Comparison]) -> str:
    """The name of the baselines of several tasks: the majority's, if some of them have labels."""
    return min((one.baseline_name for one in parts), key=[MAJORITY, LOWEST].index)


def row_of(methods: Frame, method: str) -> Record | None:
    """The row of a method in a table of methods."""
    rows = methods[methods["method"] == method]
    return rows.iloc[0].to_dict() if len(rows) else None


def mean_cell(row: Record | None, metric: str) -> Cell:
    """A mean with its letters, and its interval below."""
    if row is None:
        return numeric(None)
    shown = words.between(row["low"], row["high"], metric)
    return Cell(
        text=words.score(row["mean"], metric),
        key=float(row["mean"]),
        letters=words.span(row["letters"]),
        small="" if shown == words.NONE else shown,
    )


def training_times(method: str, parts: Sequence[Comparison], costs: Costs) -> list[float]:
    """Seconds of training a run on each task, on the machine that ran most of it."""
    found = []
    for one in parts:
        table = on_main_stack(costs[one.group])
        found += table.loc[table["variant"] == method, "train_seconds"].tolist()
    return found


def machines(parts: Sequence[Comparison], costs: Costs) -> str:
    """The machines and stacks that the times are of."""
    rows = [on_main_stack(costs[one.group]).iloc[0] for one in parts]
    return "; ".join(dict.fromkeys(cost.describe(row) for row in rows))


def effective_rates(one: Comparison, method: str) -> list[float]:
    """The rates at which a method's runs were trained."""
    own = one.runs.loc[one.runs["method"] == method, "effective_lr"]
    return sorted(set(own.dropna().tolist()))


def mean(values: Iterable[float]) -> float | None:
    """The mean of numbers, if there are any."""
    known = list(values)
    return sum(known) / len(known) if known else None
