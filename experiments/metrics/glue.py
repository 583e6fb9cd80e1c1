"""GLUE's metrics over the last axis of arrays, so that one definition scores and bootstraps.

Equal to scikit-learn's and SciPy's, which are undefined (0 / 0) in some cases that happen here,
such as a model that predicts one class: those count as 0.0.
"""

from collections.abc import Callable

import numpy as np
from scipy import stats

RESAMPLES = 1000
BATCH = 100  # resamples held in memory at once


def accuracy(labels: np.ndarray, predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """The share of equal codes."""
    return np.mean(labels == predictions, axis=axis)


def f1(labels: np.ndarray, predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """The harmonic mean of precision and recall of class 1; 0.0 without any such code."""
    hits = np.sum((labels == 1) & (predictions == 1), axis=axis)
    return ratio(2 * hits, np.sum(labels == 1, axis=axis) + np.sum(predictions == 1, axis=axis))


def matthews(labels: np.ndarray, predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """The correlation of codes, for any number of classes; 0.0 where either side is constant.

    Gorodkin, 2004, doi:10.1016/j.compbiolchem.2004.09.006, Eq. (8).
    """
    codes = np.union1d(labels, predictions)
    true = np.stack([np.sum(labels == code, axis=axis) for code in codes]).astype(float)
    told = np.stack([np.sum(predictions == code, axis=axis) for code in codes]).astype(float)
    size = float(labels.shape[axis])
    hits = np.sum(labels == predictions, axis=axis)
    spread = (size**2 - np.sum(true**2, axis=0)) * (size**2 - np.sum(told**2, axis=0))
    return ratio(hits * size - np.sum(true * told, axis=0), np.sqrt(spread))


def pearson(labels: np.ndarray, predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """The linear correlation; 0.0 where either side is constant."""
    x, y = np.asarray(labels, dtype=float), np.asarray(predictions, dtype=float)
    # Not by the variance: that of equal numbers need not be 0 in floating point.
    varied = (np.ptp(x, axis=axis) > 0) & (np.ptp(y, axis=axis) > 0)
    x = x - np.mean(x, axis=axis, keepdims=True)
    y = y - np.mean(y, axis=axis, keepdims=True)
    spread = np.sqrt(np.sum(x * x, axis=axis) * np.sum(y * y, axis=axis))
    return np.clip(ratio(np.sum(x * y, axis=axis) * varied, spread), -1.0, 1.0)


def spearman(labels: np.ndarray, predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """The linear correlation of ranks, ties sharing one; 0.0 where either side is constant."""
    ranks = (stats.rankdata(values, axis=axis) for values in (labels, predictions))
    return pearson(*ranks, axis=axis)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0.0 where `below` is 0."""
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)


METRICS: dict[str, Callable[..., np.ndarray]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def interval(
    metric: str, labels: np.ndarray, predictions: np.ndarray, generator: np.random.Generator
) -> tuple[float, float]:
    """Ends of the 95 % percentile bootstrap interval over examples; one example has no width."""
    if len(labels) < 2:
        value = float(METRICS[metric](labels, predictions))
        return value, value
    result = stats.bootstrap(
        (labels, predictions),
        METRICS[metric],
        paired=True,
        vectorized=True,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=BATCH,
        method="percentile",
        rng=generator,
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)
