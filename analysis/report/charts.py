"""The data of the page's own charts: quality against cost, and curves of tuning."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from analysis import cost
from analysis.report.cards import title_of_all
from analysis.report.comparisons import Comparison
from analysis.report.material import Frame
from analysis.report.overall import Overall
from analysis.report.tuning import Curve
from analysis.scales import scale

# Axis titles; costs that methods share up to orders of magnitude stand on a logarithmic axis.
AXES = {
    "trained": ("trained parameters", True),
    "train_seconds": ("training, seconds", False),
    "train_processor_seconds": ("processor in training, seconds", False),
    "train_peak_mib": ("peak memory, MiB", False),
    "adapter_bytes": ("adapter, bytes", True),
    "adapted_ms": ("latency in place, ms", False),
    "merged_ms": ("latency merged, ms", False),
    "train_flops": ("operations of training", True),
}
CROWD = 24  # methods; of more, a chart with a line for each is not drawn
Data = dict[str, Any]


def pareto(
    parts: Iterable[tuple[Comparison, Frame]], names: Sequence[str] = tuple(AXES)
) -> list[Data]:
    """A chart for each comparison and table: methods, scores, costs, and who is on the front.

    `names` are the costs that the chart is for. A table is of one machine and stack, or of costs
    that do not depend on it.
    """
    known = list(parts)
    apart = bool(known) and set(cost.STACK) <= set(known[0][1])
    fields = cost.differing_fields(pd.concat([table for _, table in known])) if apart else []
    return [
        {
            "title": one.group,
            "stack": cost.describe(table.iloc[0], fields) if apart else "",
            "metric": one.metric,
            "floor": number(one.baseline * scale(one.metric)),
            "axes": list(names),
            "points": dots(one, table.reset_index(drop=True), names),
        }
        for one, table in known
        if len(table) > 1
    ]


def axes(found: Iterable[Data]) -> dict[str, Data]:
    """The costs that were measured in some chart, by what they are called."""
    points = [point for chart in found for point in chart["points"]]
    return {
        axis: {"title": title, "log": log}
        for axis, (title, log) in AXES.items()
        if any(point["costs"].get(axis) is not None for point in points)
    }


def dots(one: Comparison, table: Frame, names: Sequence[str]) -> list[Data]:
    """The methods of one table; scores with the intervals of the verdicts."""
    fronts = {axis: cost.front(table, axis) for axis in names}
    return [
        {
            "method": row["variant"],
            "score": triple(row, ("score", "score_low", "score_high"), one.metric),
            "costs": {axis: number(row[axis]) for axis in names},
            "ends": {axis: [number(row[f"{axis}_{e}"]) for e in ("low", "high")] for axis in names},
            "front": [axis for axis in names if fronts[axis][place]],
        }
        for place, row in enumerate(table.to_dict("records"))
    ]


def triple(row: Frame, keys: Iterable[str], metric: str) -> list[float | None]:
    """A score and its ends as they are read."""
    return [number(float(row[key]) * scale(metric)) for key in keys]


def number(value: float | None) -> float | None:
    """A number that JSON knows."""
    return None if value is None or not math.isfinite(value) else float(f"{float(value):.6g}")


def profiles(found: Iterable[Overall]) -> list[Data]:
    """A chart over several tasks: of each method the share of runs above a score."""
    return [
        {
            "title": title_of_all(whole),
            "lines": [
                {
                    "method": str(method),
                    "points": [
                        list(map(number, row))
                        for row in part[["threshold", "share", "low", "high"]].to_numpy()
                    ],
                }
                for method, part in whole.profile.groupby("method")
            ],
        }
        for whole in found
        if len(whole.methods) <= CROWD
    ]


def tuning(curves: Iterable[Curve]) -> list[Data]:
    """A chart for each place that is tuned for, with a line for each method."""
    found: dict[tuple[str, str], Data] = {}
    for curve in curves:
        key = (curve.place, curve.setting)
        chart = found.setdefault(key, {"title": curve.place, "metric": curve.metric, "lines": []})
        chart["setting"] = curve.setting
        by = scale(curve.metric)
        line = [[number(x), None if y is None else number(by * y)] for x, y in curve.points]
        chart["lines"].append({"method": curve.method, "points": line, "chosen": curve.chosen})
    return [chart for chart in found.values() if any(len(c["points"]) > 1 for c in chart["lines"])]
