"""Metrics on other examples than those at hand: with one left out, or on many resamples at once.

A resample is a row of weights: how often each example comes. All but one metric follow from sums of
statistics over examples, so a thousand resamples of thirty runs are one matrix product; Spearman's
correlation is ranked anew in every resample. Undefined cases (0 / 0) count as 0.0, as they do where
runs are scored.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

RESAMPLES = 2000
CELLS = 1_000_000  # weights held in memory at once
TINY = 1e-12  # of a variance, below which it is rounding

# Sums of statistics [..., k] and the number of examples -> scores [...].
FromSums = Callable[[np.ndarray, int], np.ndarray]


@dataclass(frozen=True)
class Scorer:
    """Scores of runs [...] on any resample of the examples they share.

    `scores` makes [resamples, ...] of weights [resamples, examples]; `left_out` gives the scores
    [examples, ...] without each example in turn, if there is a faster way to them than by weights.
    """

    examples: int
    scores: Callable[[np.ndarray], np.ndarray]
    left_out: Callable[[], np.ndarray] | None = None

    def observed(self) -> np.ndarray:
        """The scores [...] on the examples themselves."""
        return self.scores(np.ones((1, self.examples)))[0]

    def pseudo_values(self) -> np.ndarray:
        """The jackknife's pseudo-values [examples, ...]; of a mean they are the values themselves.

        Their mean is the score, but for a bias of the order of 1 / examples, and their variance
        over the number of examples is that of the score (Miller, 1974, Biometrika 61, 1).
        """
        without = self.one_left_out() if self.left_out is None else self.left_out()
        return self.examples * self.observed() - (self.examples - 1) * without

    def one_left_out(self) -> np.ndarray:
        """The scores [examples, ...] without each example in turn, by weights."""
        size = max(1, CELLS // self.examples)
        found = []
        for start in range(0, self.examples, size):
            rows = np.arange(start, min(start + size, self.examples))
            # As heavy together as all examples are.
            weights = np.full((len(rows), self.examples), self.examples / (self.examples - 1))
            weights[np.arange(len(rows)), rows] = 0
            found.append(self.scores(weights))
        return np.concatenate(found)

    def bootstrap(self, generator: np.random.Generator, resamples: int = RESAMPLES) -> np.ndarray:
        """Scores [resamples, ...] on resamples of the examples, the same ones for every run."""
        size = max(1, CELLS // self.examples)
        parts = [min(size, resamples - start) for start in range(0, resamples, size)]
        found = [self.scores(draw_counts(self.examples, part, generator)) for part in parts]
        return np.concatenate(found)


def draw_counts(examples: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
    """How often each example comes in each resample, [resamples, examples]."""
    picks = generator.integers(examples, size=(resamples, examples))
    picks += examples * np.arange(resamples)[:, None]
    counts = np.bincount(picks.ravel(), minlength=resamples * examples)
    return counts.reshape(resamples, examples).astype(float)


def additive(rows: np.ndarray, score: FromSums) -> Scorer:
    """A metric of sums of statistics `rows` [examples, ..., k], as BLEU or a confusion matrix."""
    examples, *shape = rows.shape
    flat = rows.reshape(examples, -1).astype(float)
    return Scorer(
        examples,
        lambda weights: score((weights @ flat).reshape(-1, *shape), examples),
        lambda: score((flat.sum(axis=0) - flat).reshape(-1, *shape), examples - 1),
    )


def mean(values: np.ndarray) -> Scorer:
    """The mean of one number per example, `values` [examples, ...]."""
    return additive(values[..., None], lambda sums, examples: sums[..., 0] / examples)


def by_value(value: Callable[..., np.ndarray]) -> Callable[[np.ndarray, np.ndarray], Scorer]:
    """Scorers of a metric of which only the value for labels and predictions is known."""

    def make(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
        runs = np.moveaxis(predictions, 0, -1)

        def on(rows: np.ndarray) -> np.ndarray:
            own = np.broadcast_to(labels[rows], runs[..., rows].shape)
            return np.asarray(value(own, runs[..., rows], axis=-1), dtype=float)

        rows = np.arange(len(labels))
        return Scorer(
            len(labels),
            lambda weights: np.stack([on(np.repeat(rows, w.astype(int))) for w in weights]),
            lambda: np.stack([on(np.delete(rows, row)) for row in rows]),
        )

    return make


def beside(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Labels [examples] with as many axes as the predictions [examples, ...]."""
    return labels.reshape(-1, *[1] * (predictions.ndim - 1))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0.0 if `below` is 0."""
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    return np.divide(above, below, out=np.zeros_like(above), where=below != 0)
