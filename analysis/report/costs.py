"""The tables of costs: what methods take, who is best for how much, and what tuning took."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from analysis import cost
from analysis.report import words
from analysis.report.comparisons import Comparison, undecided
from analysis.report.material import Frame, Material, Record
from analysis.report.sections import MACHINE, METHOD, MODEL, PROTOCOL, TASK, number, where
from analysis.report.tables import Cell, Column, Table, numeric, table, text


def costs(costs: Frame) -> Table:
    """Tabulate the cost of every method; means over seeds."""
    columns = [
        TASK, MODEL, PROTOCOL, METHOD, number("score"),
        number("trained", "parameters of the method, without the head"),
        number("training, s", "on the wall: others may have used the machine too"),
        number("processor, s", "of training, all threads together"),
        number("operations", "floating-point operations of training"),
        number("peak MiB"), number("adapter"),
        number("ms in place", "one forward pass of a batch with the adapter in place"),
        number("ms merged", "the same with the adapter merged"),
        Column(title="seeds", numbers=True, shared=True), MACHINE,
    ]  # fmt: skip
    return table("costs", columns, (cost_row(row) for row in costs.to_dict("records")))


def cost_row(row: Record) -> list[Cell]:
    """The row of a method on one task, machine and stack."""
    return [
        *(text(row[key]) for key in ("task", "model", "protocol")),
        text(row["variant"], strong=True),
        numeric(row["score"], lambda value: words.score(value, row["metric"])),
        numeric(row["trained"], lambda value: f"{value:,.0f}"),
        spread(row, "train_seconds", lambda value: f"{value:,.1f}"),
        spread(row, "train_processor_seconds", lambda value: f"{value:,.1f}"),
        numeric(row["train_flops"], words.quantity),
        spread(row, "train_peak_mib", lambda value: f"{value:,.0f}"),
        numeric(row["adapter_bytes"], kibibytes),
        spread(row, "adapted_ms", lambda value: f"{value:.1f}"),
        spread(row, "merged_ms", lambda value: f"{value:.1f}"),
        numeric(row["seeds"]),
        text(cost.describe(row)),
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


def budgets(parts: list[tuple[Comparison, Frame]]) -> Table:
    """The best method within each budget, and who cannot be told apart from it."""
    columns = [
        TASK, MODEL, PROTOCOL, Column(title="budget", pick=True), number("up to"),
        Column(title="best", pick=True), number("score"),
        Column(title="cannot be told apart from it, within the budget", wrap=True), MACHINE,
    ]  # fmt: skip
    return table("budgets", columns, (row for part in parts for row in budget_rows(*part)))


def budget_rows(one: Comparison, costs: Frame) -> Iterator[list[Cell]]:
    """The rows of one comparison on one machine and stack."""
    for budget, column in cost.BUDGETS.items():
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
                text(peers(one, row["variant"], set(affordable) - {row["variant"]})),
                text(cost.describe(known.iloc[0])),
            ]


def budget_text(value: float, column: str) -> str:
    """A budget as it is read."""
    return f"{value:,.0f} MiB" if column == "train_peak_mib" else words.quantity(value)


def peers(one: Comparison, method: str, others: set[str]) -> str | None:
    """Which of the others cannot be told apart from a method, if any; or that it is not known."""
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
            text(cost.describe(row)),
        ]
        for row in cost.tuning(trials).to_dict("records")
    )
    return table("tuning-costs", columns, body)
