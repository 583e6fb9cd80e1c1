"""How settings were chosen: curves over the tuned setting, chosen points, and what it took."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from analysis.report.material import Material, Record

Point = tuple[float, float | None]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Selection scores of one method over one tuned setting; None where a run was lost."""

    task: str
    protocol: str
    method: str
    setting: str
    metric: str
    points: tuple[Point, ...]
    chosen: float | None


def curves(material: Material) -> list[Curve]:
    """Every method's curve, as a study lists it, else from the trials themselves."""
    listed = [curve for row in rows(material) if (curve := of_row(row)) is not None]
    known = {(curve.protocol, curve.task, curve.method) for curve in listed}
    own = [c for c in from_trials(material) if (c.protocol, c.task, c.method) not in known]
    return [*listed, *own]


def rows(material: Material) -> Iterator[Record]:
    """The rows of all studies."""
    for study in material.studies:
        yield from (row | {"study": study["study"]} for row in study["rows"])


def of_row(row: Record) -> Curve | None:
    """The curve of a study's row; None where not one number was tuned alone."""
    points = [(parse(point), score) for point, score in row["curve"]]
    keys = {point[0] for point, _ in points if point is not None}
    if len(keys) != 1 or any(point is None for point, _ in points):
        return None
    chosen = parse(" ".join(row["chosen"])) if row["chosen"] else None
    return Curve(
        task=row["task"],
        protocol=row["protocol"],
        method=row["method"],
        setting=keys.pop(),
        metric=row["metric"] or "",
        points=tuple(sorted((point[1], score) for point, score in points if point is not None)),
        chosen=None if chosen is None else chosen[1],
    )


def parse(point: str) -> tuple[str, float] | None:
    """The setting and the number of `variant.lr=0.001`; None for anything else."""
    key, equals, value = point.partition("=")
    try:
        found = float(value)
    except ValueError:
        return None
    return (key.rpartition(".")[2], found) if equals and math.isfinite(found) else None


def from_trials(material: Material) -> Iterator[Curve]:
    """Curves over the learning rate from runs that chose settings, means over their seeds."""
    runs = material.trials
    trials = runs.assign(lr=[rate(material.results[i]) for i in runs.index])
    trials = trials.dropna(subset=["lr"])
    trials["label"] = [task_of(material.results[i]) for i in trials.index]
    for (task, protocol, method), group in trials.groupby(["label", "protocol", "base"]):
        lost = group["status"].ne("complete").groupby(group["lr"]).any()
        means = group.groupby("lr")["score"].mean()
        points = tuple((float(x), None if lost[x] else float(means[x])) for x in means.index)
        yield Curve(
            task=str(task),
            protocol=str(protocol),
            method=str(method),
            setting="lr",
            metric=next(iter(group["metric"].dropna()), ""),
            points=points,
            chosen=best(points),
        )


def rate(result: Record) -> float | None:
    """The learning rate of a run."""
    value: Any = result["config"]["variant"].get("lr")
    return float(value) if isinstance(value, int | float) else None


def task_of(result: Record) -> str:
    """What a study calls the task of a run."""
    tracker = result["config"].get("tracker") or {}
    tags = tracker.get("tags") or []
    return tags[1] if tracker.get("group") and len(tags) == 3 else result["label"]["task"]


def best(points: tuple[Point, ...]) -> float | None:
    """Where the highest score lies."""
    scored = [(y, -i, x) for i, (x, y) in enumerate(points) if y is not None]
    return max(scored)[2] if scored else None
