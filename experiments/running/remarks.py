"""Sentences on what the score of a run does not say, for the person who has just seen it."""

from collections.abc import Mapping
from typing import Any

from experiments.metrics.base import find_metric
from experiments.metrics.baseline import name_baseline

WIDE = 10.0  # points of a 95 % interval
FEW = 100  # examples


def remarks(primary: Mapping[str, Any]) -> list[str]:
    """One sentence for each thing that a score is not enough for."""
    return [said for said in (not_better(primary), too_small(primary)) if said is not None]


def not_better(primary: Mapping[str, Any]) -> str | None:
    """A sentence if the 95 % interval of the score is not above the baseline."""
    floor = primary.get("floor")  # results of earlier versions have none
    low, high = primary["interval"]
    if floor is None or low > floor:
        return None
    verb = "lies below" if high < floor else "does not lie above"
    return (
        f"Not shown to be better than the {name_baseline(primary['metric'])}: the 95 % interval "
        f"({low:.4f} to {high:.4f}) {verb} {floor:.4f}."
    )


def too_small(primary: Mapping[str, Any]) -> str | None:
    """A sentence if the scored examples are so few that only large differences show.

    They are if the 95 % interval is wider than 10 points, or if there are fewer than 100 of them:
    where all answers are right, an interval has no width.
    """
    metric, (low, high) = find_metric(primary["metric"]), primary["interval"]
    width, number = metric.scale * (high - low), primary["examples"]
    if not metric.raw and width > WIDE:
        why = f"the 95 % interval is {width:.0f} points wide (more than {WIDE:.0f})"
    elif number < FEW:
        why = f"fewer than {FEW}"
    else:
        return None
    return f"The scored split is small, {number:,} examples: {why}, so only large differences show."
