"""F1 of class 1, of two classes."""

import numpy as np

from experiments.metrics.base import LabelMetric
from experiments.metrics.resampling import Scorer, additive, beside, ratio


def f1(labels: np.ndarray, predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """The harmonic mean of precision and recall of class 1; 0.0 without any such code."""
    hits = np.sum((labels == 1) & (predictions == 1), axis=axis)
    return ratio(2 * hits, np.sum(labels == 1, axis=axis) + np.sum(predictions == 1, axis=axis))


def resample(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
    """Its scores on resamples."""
    true, told = beside(labels, predictions) == 1, predictions == 1
    rows = np.stack([true & told, true + np.zeros_like(told), told], axis=-1)
    return additive(rows, lambda sums, _: ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2]))


METRICS = (LabelMetric(name="f1", of="classes", value=f1, resample=resample),)
