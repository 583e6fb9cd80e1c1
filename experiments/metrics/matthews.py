"""Matthews' correlation of class codes.

Gorodkin, 2004, doi:10.1016/j.compbiolchem.2004.09.006, Eq. (8), for any number of classes.
"""

import numpy as np

from experiments.metrics.base import LabelMetric
from experiments.metrics.resampling import Scorer, additive, beside, ratio


def matthews(labels: np.ndarray, predictions: np.ndarray, axis: int = -1) -> np.ndarray:
    """The correlation of codes; 0.0 if either side is constant."""
    codes = np.union1d(labels, predictions)
    true = np.stack([np.sum(labels == code, axis=axis) for code in codes]).astype(float)
    told = np.stack([np.sum(predictions == code, axis=axis) for code in codes]).astype(float)
    size = float(labels.shape[axis])
    hits = np.sum(labels == predictions, axis=axis)
    spread = (size**2 - np.sum(true**2, axis=0)) * (size**2 - np.sum(told**2, axis=0))
    return ratio(hits * size - np.sum(true * told, axis=0), np.sqrt(spread))


def resample(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
    """Its scores on resamples."""
    codes = np.union1d(labels, predictions)
    true, told = np.searchsorted(codes, labels), np.searchsorted(codes, predictions)
    cells = np.eye(len(codes) ** 2)[beside(true, told) * len(codes) + told]

    def score(sums: np.ndarray, examples: int) -> np.ndarray:
        table = sums.reshape(*sums.shape[:-1], len(codes), len(codes))
        hits = np.trace(table, axis1=-2, axis2=-1)
        rows, columns = table.sum(axis=-1), table.sum(axis=-2)
        size = float(examples)
        spread = (size**2 - (rows**2).sum(-1)) * (size**2 - (columns**2).sum(-1))
        return ratio(hits * size - (rows * columns).sum(-1), np.sqrt(spread))

    return additive(cells, score)


METRICS = (
    LabelMetric(
        name="matthews", of="classes", value=matthews, resample=resample, bounds=(-1.0, 1.0),
        one_answer=False,
    ),
)  # fmt: skip
