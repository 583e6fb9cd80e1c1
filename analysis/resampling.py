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
        found = [self.scores(drawn(self.examples, part, generator)) for part in parts]
        return np.concatenate(found)


def drawn(examples: int, resamples: int, generator: np.random.Generator) -> np.ndarray:
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


def accuracy(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
    """The share of equal codes."""
    return mean(beside(labels, predictions) == predictions)


def f1(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
    """The harmonic mean of precision and recall of class 1."""
    true, told = beside(labels, predictions) == 1, predictions == 1
    rows = np.stack([true & told, true + np.zeros_like(told), told], axis=-1)
    return additive(rows, lambda sums, _: ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2]))


def matthews(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
    """The correlation of codes, for any number of classes.

    Gorodkin, 2004, doi:10.1016/j.compbiolchem.2004.09.006, Eq. (8).
    """
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


def pearson(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
    """The linear correlation."""
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


def spearman(labels: np.ndarray, predictions: np.ndarray) -> Scorer:
    """The linear correlation of ranks, ties sharing one."""
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


def beside(labels: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Labels [examples] with as many axes as the predictions [examples, ...]."""
    return labels.reshape(-1, *[1] * (predictions.ndim - 1))


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below, and 0.0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros_like(above, dtype=float), where=below != 0)


# Labels [examples] and predictions [examples, ...] -> scores of the runs [...] on resamples.
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], Scorer]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}
