"""Accuracy: the share of examples whose predicted class is the label."""

import numpy as np

from experiments.metrics.base import LabelMetric
from experiments.metrics.resampling import Scorer, beside, mean


def accuracy(labels: np.ndarray, predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """The share of equal codes."""
    return np.mean(labels == predictions, axis=axis)


def resample(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
    """Its scores on resamples."""
    return mean(beside(labels, predictions) == predictions)


METRICS = (LabelMetric(name="accuracy", of="classes", value=accuracy, resample=resample),)
