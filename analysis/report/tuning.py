"""How settings were chosen: curves over the tuned setting, chosen points, and what it took."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from analysis.report.material import SEPARATOR, Material, Record, study_of

Point = tuple[float, float | None]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """Selection scores of one method over one tuned setting; None if a run was lost."""

    place: str  # what it is of beside the method: task, protocol and where needed more
    method: str
    setting: str
    metric: str
    points: tuple[Point, ...]
    chosen: float | None


def curves(material: Material) -> list[Curve]:
    """Every method's curve, as a study lists it, else from the trials themselves."""
    several = len(material.studies) > 1
    listed = [curve for row in rows(material) if (curve := of_row(row, several)) is not None]
    return [*listed, *from_trials(material)]


def rows(material: Material) -> Iterator[Record]:
    """The rows of all studies."""
    for study in material.studies:
        yield from (row | {"study": study["study"]} for row in study["rows"])


def of_row(row: Record, several: bool) -> Curve | None:
    """The curve of a study's row; None if not one number was tuned alone.

    Of several studies each is named.
    """
    points = [(parse(point), score) for point, score in row["curve"]]
    keys = {point[0] for point, _ in points if point is not None}
    if len(keys) != 1 or any(point is None for point, _ in points):
        return None
    chosen = parse(" ".join(row["chosen"])) if row["chosen"] else None
    return Curve(
        place=SEPARATOR.join([row["task"], row["protocol"], *([row["study"]] if several else [])]),
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
    """Curves over the learning rate from runs that chose settings, means over their seeds.

    What a study has listed is not among them.
    """
    listed = {study["study"] for study in material.studies}
    runs = material.trials
    trials = runs.assign(
        lr=[rate(material.results[i]) for i in runs.index],
        study=[study_of(material.results[i]) or "" for i in runs.index],
    )
    trials = trials[~trials["study"].isin(listed)].dropna(subset=["lr"])
    for (place, study, method), group in trials.groupby(["group", "study", "base"]):
        lost = group["status"].ne("complete").groupby(group["lr"]).any()
        means = group.groupby("lr")["score"].mean()
        points = tuple((float(x), None if lost[x] else float(means[x])) for x in means.index)
        yield Curve(
            place=SEPARATOR.join([str(place), *([str(study)] if study else [])]),
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


def best(points: tuple[Point, ...]) -> float | None:
    """Where the highest score lies."""
    scored = [(y, -i, x) for i, (x, y) in enumerate(points) if y is not None]
    return max(scored)[2] if scored else None
