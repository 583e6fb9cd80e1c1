"""The baseline of a score: what one answer to all examples gets, or the least a score can be."""

from typing import NamedTuple

import numpy as np

from experiments.metrics.base import LabelMetric, find_metric, list_metrics

MAJORITY, LOWEST = "majority baseline", "lowest score"


class Baseline(NamedTuple):
    """A score that takes no skill, and its name."""

    score: float
    name: str


def baseline_of(metric: str, floor: float | None) -> Baseline:
    """The floor, the score of the best single answer, if there is one; else the lowest score."""
    if floor is not None:
        return Baseline(floor, MAJORITY)
    known = list_metrics().get(metric)
    return Baseline(0.0 if known is None else known.bounds[0], LOWEST)


def baseline_for(metric: str, labels: np.ndarray) -> Baseline:
    """The baseline of a metric on examples with these labels [n]."""
    known = find_metric(metric)
    if not isinstance(known, LabelMetric):
        return baseline_of(metric, None)
    return baseline_of(metric, float(known.floor(labels).observed()))


def name_baseline(metric: str) -> str:
    """The name of a metric's baseline."""
    return MAJORITY if isinstance(list_metrics().get(metric), LabelMetric) else LOWEST
