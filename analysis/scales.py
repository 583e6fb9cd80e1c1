"""How scores of a metric are read: what they can be, and in which unit they are printed."""

import numpy as np

from experiments.metrics.base import list_metrics


def bounds(metric: str) -> tuple[float, float]:
    """The lowest and the highest that a score can be; without a metric, 0 and no end."""
    known = list_metrics().get(metric)
    return (0.0, np.inf) if known is None else known.bounds


def is_raw(metric: str) -> bool:
    """Return whether a score is printed as it is, and not in points."""
    known = list_metrics().get(metric)
    return known is not None and known.raw


def scale(metric: str) -> float:
    """The factor from a score to what is printed: 100 for shares, which are printed in points."""
    known = list_metrics().get(metric)
    return 100.0 if known is None else known.scale
