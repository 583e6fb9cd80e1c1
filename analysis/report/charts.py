"""The data of the page's own charts: quality against cost, and curves of tuning."""

import math
from collections.abc import Iterable
from typing import Any

from analysis import cost
from analysis.report.comparisons import Comparison
from analysis.report.material import Frame
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
Data = dict[str, Any]


def pareto(parts: Iterable[tuple[Comparison, Frame]]) -> list[Data]:
    """A chart for each comparison and stack: methods, scores, costs, and who is on the front."""
    found = []
    for one, costs in parts:
        for stack, table in costs.groupby(cost.STACK, sort=False, dropna=False):
            if len(table) < 2:
                continue
            named = dict(zip(cost.STACK, stack, strict=True))
            found.append(
                {
                    "title": one.group,
                    "stack": cost.describe(named),
                    "metric": one.metric,
                    "points": dots(one, table.reset_index(drop=True)),
                }
            )
    return found


def axes(found: Iterable[Data]) -> dict[str, Data]:
    """The costs that were measured in some chart, by what they are called."""
    points = [point for chart in found for point in chart["points"]]
    return {
        axis: {"title": title, "log": log}
        for axis, (title, log) in AXES.items()
        if any(point["costs"][axis] is not None for point in points)
    }


def dots(one: Comparison, table: Frame) -> list[Data]:
    """The methods on one machine and stack; scores with the intervals of the verdicts."""
    fronts = {axis: cost.front(table, axis) for axis in AXES}
    return [
        {
            "method": row["variant"],
            "score": triple(row, ("score", "score_low", "score_high"), one.metric),
            "costs": {axis: number(row[axis]) for axis in AXES},
            "ends": {axis: [number(row[f"{axis}_{e}"]) for e in ("low", "high")] for axis in AXES},
            "front": [axis for axis in AXES if fronts[axis][place]],
        }
        for place, row in enumerate(table.to_dict("records"))
    ]


def triple(row: Frame, keys: Iterable[str], metric: str) -> list[float | None]:
    """A score and its ends as they are read."""
    return [number(float(row[key]) * scale(metric)) for key in keys]


def number(value: float | None) -> float | None:
    """A number that JSON knows."""
    return None if value is None or not math.isfinite(value) else float(f"{float(value):.6g}")


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
