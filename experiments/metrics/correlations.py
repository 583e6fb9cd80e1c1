"""Pearson's and Spearman's correlation of scores."""

import numpy as np

from experiments.metrics.base import LabelMetric
from experiments.metrics.resampling import TINY, Scorer, additive, beside, ratio


def pearson(labels: np.ndarray, predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """The linear correlation; 0.0 if either side is constant."""
    x, y = np.asarray(labels, dtype=float), np.asarray(predictions, dtype=float)
    # Not by the variance: that of equal numbers need not be 0 in floating point.
    varied = (np.ptp(x, axis=axis) > 0) & (np.ptp(y, axis=axis) > 0)
    x = x - np.mean(x, axis=axis, keepdims=True)
    y = y - np.mean(y, axis=axis, keepdims=True)
    spread = np.sqrt(np.sum(x * x, axis=axis) * np.sum(y * y, axis=axis))
    return np.clip(ratio(np.sum(x * y, axis=axis) * varied, spread), -1.0, 1.0)


def spearman(labels: np.ndarray, predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """The linear correlation of ranks, ties sharing one; 0.0 if either side is constant."""
    from scipy import stats  # takes half a second, so only where it is used

    ranks = (stats.rankdata(values, axis=axis) for values in (labels, predictions))
    return pearson(*ranks, axis=axis)


def resample_pearson(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
    """Its scores on resamples."""
    x, y = (values - values.mean(axis=0) for values in (labels.astype(float), predictions))
    x = beside(x, y) + np.zeros_like(y)
    least = TINY * np.stack([(x * x).mean(axis=0), (y * y).mean(axis=0)])

    def score(sums: np.ndarray, examples: int) -> np.ndarray:
        x, y, xx, yy, xy = np.moveaxis(sums / examples, -1, 0)
        spread = np.stack([xx - x * x, yy - y * y], axis=1)
        varied = (spread > least).all(axis=1)
        below = np.sqrt(np.maximum(spread, 0).prod(axis=1))
        return np.clip(ratio((xy - x * y) * varied, below), -1.0, 1.0)

    return additive(np.stack([x, y, x * x, y * y, x * y], axis=-1), score)


def resample_spearman(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
    """Its scores on resamples, in each of which all are ranked anew."""
    runs = predictions.reshape(len(labels), -1)

    def scores(weights: np.ndarray) -> np.ndarray:
        x = ranks(weights, labels)
        weighted = weights * x
        spread = np.sum(weighted * x, axis=1)
        found = np.empty((len(weights), runs.shape[1]))
        for run in range(runs.shape[1]):
            y = ranks(weights, runs[:, run])
            below = np.sqrt(spread * np.einsum("rn,rn,rn->r", weights, y, y))
            found[:, run] = ratio(np.einsum("rn,rn->r", weighted, y), below)
        return found.reshape(-1, *predictions.shape[1:])

    return Scorer(len(labels), scores)


def ranks(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Ranks [resamples, examples] about their mean, ties sharing one, of weighted examples."""
    order = np.argsort(values, kind="stable")
    _, starts, group = np.unique(values[order], return_index=True, return_inverse=True)
    held = np.add.reduceat(weights[:, order], starts, axis=1)
    middle = np.cumsum(held, axis=1) - held / 2 - weights.sum(axis=1, keepdims=True) / 2
    place = np.empty_like(order)
    place[order] = group
    return middle[:, place]


METRICS = tuple(
    LabelMetric(
        name=name, of="scores", value=value, resample=resample, bounds=(-1.0, 1.0),
        one_answer=False,
    )
    for name, value, resample in (
        ("pearson", pearson, resample_pearson),
        ("spearman", spearman, resample_spearman),
    )
)  # fmt: skip
