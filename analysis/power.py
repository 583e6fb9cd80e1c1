"""Power: the true difference that a comparison finds with a given chance.

The test is that of `analysis.decisions`. A study of too little power that finds nothing says
nothing, and what is known of its power is itself uncertain: the noise is estimated from the same
few seeds. So a finished study gets a range (`detectable_range`), from the noise pooled over its
pairs, and a plan a number (`smallest_difference`), from assumed noise.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from scipy import stats

from analysis import decisions
from analysis.decisions import MIN_SEEDS, Variances

NODES = 64  # of the distribution of estimated variances
CONFIDENCE = 0.95  # of a range


@dataclass(frozen=True, kw_only=True)
class Design:
    """A comparison of two methods; spreads are standard deviations of paired differences.

    The score is a mean over examples. `comparisons` is the number of pairs in the family; the first
    step of its procedure, which asks the most, is reckoned with.
    """

    seeds: int
    examples: int
    sd_seeds: float  # between seeds, were the test set endless
    sd_examples: float  # between examples, each the mean over endless seeds
    sd_rest: float  # of one example under one seed, beyond both
    alpha: float = 0.05
    comparisons: int = 1

    def __post_init__(self) -> None:
        if self.seeds < MIN_SEEDS or self.examples < 2:
            raise ValueError(
                f"{MIN_SEEDS} seeds and two examples are needed at least, got {self.seeds} and "
                f"{self.examples}."
            )

    def variances(self) -> Variances:
        """The true variances of the mean difference, [1, 1]."""
        rest = self.sd_rest**2 / (self.seeds * self.examples)
        return variances(
            self.sd_seeds**2 / self.seeds + rest,
            self.sd_examples**2 / self.examples,
            rest,
            self.seeds,
            self.examples,
        )


def variances(between: float, beyond: float, rest: float, seeds: int, examples: int) -> Variances:
    """Variances of one pair on one task."""
    return Variances(
        between=np.full((1, 1), between), beyond=np.full((1, 1), beyond),
        rest=np.full((1, 1), rest), seeds=np.full((1, 1), seeds),
        examples=np.full((1, 1), examples),
    )  # fmt: skip


def power(design: Design, difference: float) -> float:
    """The chance that this true difference is found."""
    return chance_found(design.variances(), design.alpha / design.comparisons)(difference)


def smallest_difference(design: Design, power: float = 0.8) -> float:
    """The true difference that is found with this chance.

    Raises ValueError for a power that needs no difference at all.
    """
    return difference_found(design.variances(), design.alpha / design.comparisons, power)


def difference_found(true: Variances, alpha: float, power: float) -> float:
    """The true difference that is found with this chance, given the true variances [1, tasks]."""
    if not alpha < power < 1:
        raise ValueError(f"power must lie between alpha={alpha} and 1, got {power}.")
    chance = chance_found(true, alpha)
    low, high = 0.0, float(np.sqrt(true.total[0]))
    while chance(high) < power:
        low, high = high, 2 * high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if chance(middle) < power else (low, middle)
    return high


def chance_found(true: Variances, alpha: float) -> Callable[[float], float]:
    """The chance that a true difference is found, as a function of it.

    A study sees `between` times chi2(S - 1) / (S - 1) where the truth is `between`; for each such
    estimate the test's own half width says from which mean difference on it finds one.
    """
    true = as_one_task(true)
    factors, weights = estimates(float(true.seeds[0, 0] - 1))
    seen = Variances(
        **{name: np.repeat(value, len(factors), axis=0) for name, value in vars(true).items()}
    )
    seen = Variances(**vars(seen) | {"between": seen.between * factors})
    edge = decisions.half_width(alpha / 2, seen)
    error = float(np.sqrt(true.total[0]))

    def chance(difference: float) -> float:
        above = stats.norm.sf((edge - difference) / error)
        below = stats.norm.cdf((-edge - difference) / error)
        return float(weights @ (above + below))

    return chance


@cache
def estimates(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Factors [nodes, 1] by which an estimated variance misses the true one, and weights."""
    chances = (np.arange(NODES)[:, None] + 0.5) / NODES
    return stats.chi2.ppf(chances, degrees) / degrees, np.full(NODES, 1 / NODES)


def as_one_task(true: Variances) -> Variances:
    """One task as noisy as the mean over several, by Satterthwaite's degrees of freedom.

    That is no way to test, as variances estimated from few seeds give wrong degrees; of variances
    that are taken as true they are right.
    """
    between = true.between.sum(axis=1, keepdims=True)
    each = np.sum(true.between**2 / (true.seeds - 1), axis=1, keepdims=True)
    few = (true.seeds - 1).min(axis=1, keepdims=True).astype(float)
    return Variances(
        between=between,
        beyond=true.beyond.sum(axis=1, keepdims=True),
        rest=true.rest.sum(axis=1, keepdims=True),
        seeds=1 + np.divide(between**2, each, out=few, where=each > 0),
        examples=true.examples.min(axis=1, keepdims=True),
    )


def detectable_range(
    pooled: Variances, degrees: np.ndarray, alpha: float, power: float, limit: float
) -> tuple[float, float]:
    """The ends of the true difference that is found with this chance, as far as noise is known.

    `pooled` [1, tasks] are variances averaged over pairs, and `degrees` [tasks] those of freedom of
    each `between`, whose confidence interval gives the range. `limit` is the most that
    scores can differ by: an end beyond it is infinite. NaN if nothing varied.
    """
    if not (pooled.seeds >= MIN_SEEDS).all():
        return np.inf, np.inf
    if pooled.total[0] == 0:
        return np.nan, np.nan
    between = pooled.between[0]
    whole = float(between.sum() ** 2 / np.sum(between**2 / degrees)) if between.any() else 1.0
    tails = stats.chi2.ppf([(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2], whole) / whole
    low, high = (
        difference_found(replace(pooled, between=pooled.between / tail), alpha, power)
        for tail in tails
    )
    return (low if low <= limit else np.inf), (high if high <= limit else np.inf)
