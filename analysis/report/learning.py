"""Learning curves: means over the seeds of what runs logged, and thinned curves of single runs."""

import math
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.report.comparisons import Comparison
from analysis.report.material import Frame, Material, Record
from experiments.stored import history

POINTS = 60  # of a mean curve
MEANS = 10_000  # points of all mean curves together, if there are more than a few
FEW = 12  # of a single run's curve
FULL = 200  # of that of a run that is compared, if there are few of them
TOTAL = 30_000  # points of the curves of all compared runs together
BESIDE = ("step", "lr")  # columns that are the same for all methods, or no result
Data = dict[str, Any]


class Histories:
    """The histories of runs, each file read once; what cannot be read is listed."""

    def __init__(self, material: Material) -> None:
        self.material = material
        self.left_out: list[str] = []

    @cached_property
    def records(self) -> dict[int, list[Record]]:
        """The records of each run that has some, by its row in the table of runs."""
        found = {}
        for row, folder in self.material.runs["folder"].items():
            try:
                if own := history.read(Path(folder)):
                    found[row] = own
            except ValueError as error:
                self.left_out.append(str(error))
        return found


def learning(found: Iterable[Comparison], histories: Histories) -> list[Data]:
    """A chart for each comparison whose runs kept a history: a line per method and quantity."""
    charts = []
    for one in found:
        lines = [
            {"method": method, "values": values}
            for method, runs in one.runs.groupby("method")
            if (values := mean_curves([histories.records.get(row, []) for row in runs.index]))
        ]
        if lines:
            charts.append({"title": one.group, "lines": lines})
    every = [line["values"] for chart in charts for line in chart["lines"]]
    most = min(POINTS, max(FEW, MEANS // max(sum(map(len, every)), 1)))
    for values in every:
        values.update({name: history.thin(points, most) for name, points in values.items()})
    return charts


def quantities(charts: Iterable[Data]) -> list[str]:
    """Everything that some line shows: the loss first, then the metrics, telemetry last."""
    names = {name for chart in charts for line in chart["lines"] for name in line["values"]}
    kinds = ("loss", "train_", history.HELD_OUT)
    return sorted(names, key=lambda name: (*(not name.startswith(kind) for kind in kinds), name))


def mean_curves(runs: list[list[Record]]) -> dict[str, list[list[float]]]:
    """Of each quantity step, mean, least and most over the runs, at the steps that all have."""
    runs = [run for run in runs if run]
    if not runs:
        return {}
    table: Frame = pd.concat([pd.DataFrame(run) for run in runs])
    found = {}
    for name in table.columns.difference(BESIDE):
        values = table[["step", name]].dropna()
        steps = values.groupby("step")[name].agg(["mean", "min", "max", "size"])
        steps = steps[steps["size"] == len(runs)].reset_index()
        if len(steps) > 1:
            rows = steps[["step", "mean", "min", "max"]].to_numpy().tolist()
            found[name] = [[int(row[0]), *map(short, row[1:])] for row in rows]
    return found


def single_curves(histories: Histories, compared: set[int]) -> list[Any]:
    """The distinct lists of steps, and of each run the place of its own and its losses.

    Runs are in the order of the table of runs, None without a history.
    Those that are compared keep as many points as a page has room for, the others a dozen.
    """
    most = min(FULL, max(FEW, TOTAL // max(len(compared), 1)))
    known: dict[tuple[int, ...], int] = {}
    found: list[list[Any] | None] = []
    for row in histories.material.runs.index:
        records = [one for one in histories.records.get(row, []) if is_number(one.get("loss"))]
        kept = history.thin(records, most if row in compared else FEW)
        if len(kept) < 2:
            found.append(None)
            continue
        place = known.setdefault(tuple(one["step"] for one in kept), len(known))
        found.append([place, [short(one["loss"]) for one in kept]])
    return [list(known), found]


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def short(value: float) -> float:
    """A number in three digits, which is finer than a chart."""
    return float(f"{value:.3g}")
