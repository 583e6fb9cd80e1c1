"""Exact match: the share of answers that are equal to a reference, but for case and space."""

import numpy as np

from experiments.metrics.base import TextMetric, Words


def normalise(text: str) -> Words:
    """The words of an answer in small letters, without a full stop at the end."""
    return text.lower().strip().rstrip(".").split()


def match(outputs: list[Words], references: list[list[Words]]) -> np.ndarray:
    """1 for each output that is one of its references, else 0 [n, 1]."""
    found = [output in given for output, given in zip(outputs, references, strict=True)]
    return np.array(found, dtype=float)[:, None]


METRICS = (
    TextMetric(
        name="exact_match", words=normalise, columns=("equal",), rows=match,
        of_sums=lambda sums, examples: sums[..., 0] / examples,
    ),
)  # fmt: skip
