"""The tables of costs: what methods take, who is best for how much, and what tuning took."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from analysis import cost
from analysis.report import words
from analysis.report.comparisons import Comparison, undecided
from analysis.report.html_tables import Cell, Column, Table, numeric, table, text
from analysis.report.material import Frame, Material, Record
from analysis.report.sections import (
    BASELINE,
    MACHINE,
    METHOD,
    MODEL,
    PROTOCOL,
    TASK,
    floor_cell,
    number,
    where,
)

Parts = list[tuple[Comparison, Frame]]


def costs(costs: Frame) -> Table:
    """Tabulate the cost of every method on one machine; means over seeds."""
    columns, fields = [*NAMES, *COUNTED, *MEASURED, SEEDS, MACHINE], cost.differing_fields(costs)
    body = [
        [*names(row), *counted(row), *measured(row), *numbers_and_machine(row, fields)]
        for row in costs.to_dict("records")
    ]
    return table("costs", columns, body)


def counted_costs(costs: Frame) -> Table:
    """Tabulate the costs that do not depend on the machine; means over all seeds."""
    body = [[*names(row), *counted(row), numeric(row["seeds"])] for row in costs.to_dict("records")]
    return table("costs", [*NAMES, *COUNTED, SEEDS], body)


def measured_costs(costs: Frame) -> Table:
    """Tabulate the costs that were measured, on each machine apart; means over its seeds."""
    columns, fields = [*NAMES[:-2], *MEASURED, SEEDS, MACHINE], cost.differing_fields(costs)
    body = [
        [*names(row)[:-2], *measured(row), *numbers_and_machine(row, fields)]
        for row in costs.to_dict("records")
    ]
    return table("measured", columns, body)


NAMES = (TASK, MODEL, PROTOCOL, METHOD, number("score"), BASELINE)
COUNTED = (
    number("trained", "parameters of the method, without the head"),
    number("operations", "floating-point operations of training"), number("adapter"),
)  # fmt: skip
MEASURED = (
    number("training, s", "on the wall: others may have used the machine too"),
    number("processor, s", "of training, all threads together"), number("peak MiB"),
    number("ms in place", "one forward pass of a batch with the adapter in place"),
    number("ms merged", "the same with the adapter merged"),
)  # fmt: skip
SEEDS = Column(title="seeds", numbers=True, shared=True)


def names(row: Record) -> list[Cell]:
    """Where a method was run, and its score."""
    return [
        *(text(row[key]) for key in ("task", "model", "protocol")),
        text(row["variant"], strong=True),
        *(
            numeric(row.get(key), lambda value: words.score(value, row["metric"]))
            for key in ("score", "floor")
        ),
    ]


def numbers_and_machine(row: Record, fields: list[str]) -> list[Cell]:
    """The number of runs, and in what their machine and stack differ from the others."""
    return [numeric(row["seeds"]), text(cost.describe(row, fields))]


def counted(row: Record) -> list[Cell]:
    """The costs that are the same on every machine."""
    return [
        numeric(row["trained"], lambda value: f"{value:,.0f}"),
        numeric(row["train_flops"], words.quantity),
        numeric(row["adapter_bytes"], kibibytes),
    ]


def measured(row: Record) -> list[Cell]:
    """The costs of one machine and stack."""
    return [
        spread(row, "train_seconds", lambda value: f"{value:,.1f}"),
        spread(row, "train_processor_seconds", lambda value: f"{value:,.1f}"),
        spread(row, "train_peak_mib", lambda value: f"{value:,.0f}"),
        spread(row, "adapted_ms", lambda value: f"{value:.1f}"),
        spread(row, "merged_ms", lambda value: f"{value:.1f}"),
    ]


def spread(row: Record, column: str, show: Any) -> Cell:
    """A mean, and half of its interval where there is one."""
    mean, low = row[column], row[f"{column}_low"]
    if pd.isna(low):
        return numeric(mean, show)
    return numeric(mean, lambda value: f"{show(value)} ±{words.NO_BREAK}{half(value - low)}")


def half(value: float) -> str:
    """Half of an interval, in few digits."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def kibibytes(value: float) -> str:
    """Bytes as they are read."""
    if value < 2**20:
        return f"{value / 2**10:,.0f}{words.NO_BREAK}KiB"
    return f"{value / 2**20:,.1f}{words.NO_BREAK}MiB"


def budgets(parts: Parts, counted: Parts | None = None) -> Table:
    """The best method within each budget, and which others show no significant difference.

    `parts` are the costs of each comparison on each machine. With `counted`, their costs over all
    machines, budgets that do not depend on a machine are told once.
    """
    fields = cost.differing_fields(joined(table for _, table in parts))
    machines = [
        name for name, column in cost.BUDGETS.items() if not counted or column not in cost.COUNTED
    ]
    columns = [
        TASK, MODEL, PROTOCOL, Column(title="budget", pick=True), number("up to"),
        Column(title="best", pick=True), number("score"), BASELINE,
        Column(title="no significant difference, within the budget", wrap=True), MACHINE,
    ]  # fmt: skip
    others = [name for name in cost.BUDGETS if name not in machines]
    body = [row for part in counted or [] for row in budget_rows(*part, others, [])]
    body += [row for part in parts for row in budget_rows(*part, machines, fields)]
    return table("budgets", columns, body)


def joined(tables: Iterable[Frame]) -> Frame:
    """Tables of costs as one, which may be empty."""
    found = list(tables)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=cost.COLUMNS)


def budget_rows(
    one: Comparison, costs: Frame, names: list[str], fields: list[str]
) -> Iterator[list[Cell]]:
    """The rows of one comparison, of one machine and stack or of all."""
    for budget in names:
        column = cost.BUDGETS[budget]
        known = costs.dropna(subset=[column])
        if len(known) < 2:
            continue
        for row in cost.within(known, column).to_dict("records"):
            affordable = known.loc[known[column] <= row["budget"], "variant"]
            yield [
                *where(one),
                text(budget),
                numeric(row["budget"], lambda value, c=column: budget_text(value, c)),
                text(row["variant"], strong=True),
                numeric(row["score"], lambda value: words.score(value, one.metric)),
                floor_cell(one),
                text(peers(one, row["variant"], set(affordable) - {row["variant"]})),
                text(cost.describe(known.iloc[0], fields) if fields else "any"),
            ]


def budget_text(value: float, column: str) -> str:
    """A budget as it is read."""
    return f"{value:,.0f} MiB" if column == "train_peak_mib" else words.quantity(value)


def peers(one: Comparison, method: str, others: set[str]) -> str | None:
    """Name the others that cannot be told apart from a method, if that is known."""
    if not others:
        return None
    pairs = others_of(one, method, others)
    if len(pairs) < len(others) or undecided(pairs).any():
        return "cannot be decided"
    return ", ".join(sorted(pairs.loc[~words.decided(pairs), "other"])) or None


def others_of(one: Comparison, method: str, others: set[str]) -> Frame:
    """The pairs of a method with some others."""
    if one.verdicts is None:
        return pd.DataFrame(columns=["outcome", "other"])
    pairs: Frame = one.verdicts.pairs
    first, second = pairs["a"] == method, pairs["b"] == method
    pairs = pairs.assign(other=pairs["b"].where(first, pairs["a"]))[first | second]
    return pairs[pairs["other"].isin(others)]


def tuning_costs(material: Material) -> Table:
    """Tabulate the cost of finding settings, by the trials that lie here."""
    trials = material.trials.assign(variant=material.trials["base"])
    fields = cost.differing_fields(trials)
    columns = [
        TASK, MODEL, PROTOCOL, METHOD, number("trials"),
        number("time on the wall", "all phases of all trials"),
        number("time of the processor", "all phases of all trials"),
        number("operations of training"), MACHINE,
    ]  # fmt: skip
    body = (
        [
            *(text(row[key]) for key in ("task", "model", "protocol")),
            text(row["variant"], strong=True),
            numeric(row["runs"]),
            numeric(row["seconds"], words.duration),
            numeric(row["processor_seconds"], words.duration),
            numeric(row["train_flops"], words.quantity),
            text(cost.describe(row, fields)),
        ]
        for row in cost.tuning(trials).to_dict("records")
    )
    return table("tuning-costs", columns, body)
