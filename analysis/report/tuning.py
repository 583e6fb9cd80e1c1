"""How settings were chosen: curves over the tuned setting, chosen points, and what it took."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from analysis.load import study_of
from analysis.report.material import SEPARATOR, Material, Record

Point = tuple[float, float | None]
RATE = "effective learning rate"  # lr times the model's lr_scale, at which the optimizer runs


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
    scales = rate_scales(material)
    listed = [
        in_effective_rates(curve, scales.get((row["method"], row["protocol"], row["task"]), 1.0))
        for row in rows(material)
        if (curve := of_row(row, several)) is not None
    ]
    return [*listed, *from_trials(material)]


def rate_scales(material: Material) -> dict[tuple[str, str, str], float]:
    """The model's lr_scale by method, protocol and task."""
    runs = material.runs
    keys = runs[["base", "protocol", "task"]].to_numpy().tolist()
    scales = [float(run["config"]["model"].get("lr_scale") or 1.0) for run in material.results]
    return {
        (base, protocol, task.rpartition("/")[2]): scale
        for (base, protocol, task), scale in zip(keys, scales, strict=True)
    }


def in_effective_rates(curve: Curve, scale: float) -> Curve:
    """A curve over the learning rate with the rates at which the optimizer ran."""
    if curve.setting != "lr":
        return curve
    return replace(
        curve,
        setting=RATE,
        points=tuple((x * scale, y) for x, y in curve.points),
        chosen=None if curve.chosen is None else curve.chosen * scale,
    )


def rows(material: Material) -> Iterator[Record]:
    """The rows of all studies; selection scores are of the metric `tuned_by`."""
    for study in material.studies:
        for row in study["rows"]:
            tuned_by = row.get("tuned_by") or row["metric"]
            yield row | {"study": study["study"], "tuned_by": tuned_by}


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
        metric=row["tuned_by"] or "",
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
        lr=runs["effective_lr"],
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
            setting=RATE,
            metric=next(iter(group["metric"].dropna()), ""),
            points=points,
            chosen=best(points),
        )


def best(points: tuple[Point, ...]) -> float | None:
    """Where the highest score lies."""
    scored = [(y, -i, x) for i, (x, y) in enumerate(points) if y is not None]
    return max(scored)[2] if scored else None
