"""The luck of tuning: what the best of few trials is worth, and if it would be chosen again.

The functions take scores of trials; `analysis.report.choices` finds them in finished studies.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np

from analysis.decisions import root

DRAWS = 4000


def expected_best(scores: Sequence[float]) -> np.ndarray:
    """The expected highest score [N] of 1, 2, ... N trials drawn from these N without repetition.

    Dodge et al., 2019, arXiv:1909.03004, draw with repetition, which takes the best too seldom;
    this is the unbiased form (Tang et al., 2020, arXiv:2004.13705).

    >>> expected_best([0.5, 0.7]).round(2).tolist()
    [0.6, 0.7]
    """
    ordered, N = np.sort(np.asarray(scores, dtype=float)), len(scores)
    chances = np.array(
        [[comb(i, n - 1) / comb(N, n) for i in range(N)] for n in range(1, N + 1)]
    ).reshape(N, N)
    return chances @ ordered


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A method's trials as they could come out again.

    `means` [P] are the scores of the points, NaN where one diverged. A trial's score varies with
    its seed by `sd_seeds`, and with the rows it is scored on by the covariance `by_rows` [P, P].
    `chosen` is the place of the point that was chosen.
    """

    means: np.ndarray
    sd_seeds: float
    by_rows: np.ndarray
    chosen: int

    def draw(self, generator: np.random.Generator, trials: int = 1) -> np.ndarray:
        """Scores [DRAWS, P] of a trial at each point, the mean of so many on the same rows."""
        shape = (DRAWS, len(self.means))
        rows = generator.standard_normal(shape) @ root(self.by_rows).T
        seeds = generator.standard_normal(shape) * self.sd_seeds / np.sqrt(trials)
        drawn = self.means + rows + seeds
        return np.where(np.isnan(drawn), -np.inf, drawn)


def repeat_plain(choice: Choice, trials: int) -> float:
    """The chance that the same point is chosen again from as many trials of each."""
    drawn = choice.draw(np.random.default_rng(0), trials)
    return float(np.mean(drawn.argmax(axis=1) == choice.chosen))


def repeat_race(choice: Choice, more: int) -> float:
    """The chance that a race chooses the same point again: one trial of each, more of the best two.

    Every trial of a race is scored on rows of its own.
    """
    generator = np.random.default_rng(0)
    first = choice.draw(generator)
    two = np.argsort(-first, axis=1)[:, :2]
    total = np.take_along_axis(first, two, axis=1)
    for _ in range(more):
        total = total + np.take_along_axis(choice.draw(generator), two, axis=1)
    best = np.take_along_axis(two, total.argmax(axis=1)[:, None], axis=1)[:, 0]
    return float(np.mean(best == choice.chosen))
