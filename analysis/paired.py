"""Tests of two methods in pairs: on the same examples, or on the same tasks and seeds.

The tests of task and seed are exact, so few pairs set a floor below which no p-value can fall;
where that floor is above what is asked, nothing can be decided, which is not the same as finding
no difference.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from experiments.metrics.resampling import TINY, Scorer

RESAMPLES = 10_000
EXACT = 13  # pairs up to which every pattern of signs is looked at
DIGITS = 12  # to which scores are told apart


@dataclass(frozen=True, kw_only=True)
class PairedComparison:
    """The result of a test of a difference; with too few pairs its ends are infinite."""

    test: str
    difference: float
    low: float
    high: float
    p: float  # two-sided
    pairs: int
    floor: float  # the smallest p that the test can give here


def mcnemar(right_a: np.ndarray, right_b: np.ndarray, alpha: float = 0.05) -> PairedComparison:
    """The exact test of accuracy on the same examples, of which each method got some right.

    The interval is conditional, as the test is, on how many examples one method alone got right.
    """
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    apart, examples = only_a + only_b, len(right_a)
    low = high = p = 1.0
    if apart:
        found = stats.binomtest(only_a, apart)
        low, high = found.proportion_ci(1 - alpha, method="exact")
        p = float(found.pvalue)
    return PairedComparison(
        test="McNemar, exact",
        difference=(only_a - only_b) / examples,
        low=(2 * low - 1) * apart / examples,
        high=(2 * high - 1) * apart / examples,
        p=p,
        pairs=examples,
        floor=smallest_p(examples),
    )


def paired_bootstrap(
    scorer: Scorer,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    alpha: float = 0.05,
) -> PairedComparison:
    """Any metric of two runs [2] on the same examples; percentile interval, p by its inversion."""
    first, second = scorer.observed()
    found = scorer.bootstrap(generator, resamples)
    differences = found[:, 0] - found[:, 1]
    low, high = np.quantile(differences, [alpha / 2, 1 - alpha / 2])
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return PairedComparison(
        test="paired bootstrap",
        difference=float(first - second),
        low=float(low),
        high=float(high),
        p=min(1.0, 2 * float(tail + 1) / (resamples + 1)),
        pairs=scorer.examples,
        floor=2 / (resamples + 1),
    )


def wilcoxon(differences: np.ndarray, alpha: float = 0.05) -> PairedComparison:
    """Wilcoxon's signed ranks, exact with ties too, and the Hodges-Lehmann estimate.

    Differences of 0 are left out of the test. The interval is that of differences without ties.
    """
    pairs = len(differences)
    rows, columns = np.triu_indices(pairs)
    walsh = np.sort((differences[rows] + differences[columns]) / 2)
    tail = np.cumsum(rank_sums(np.arange(1, pairs + 1)))
    low, high = between(walsh, int(np.searchsorted(tail, alpha / 2, "right")))
    return PairedComparison(
        test="Wilcoxon",
        difference=float(np.median(walsh)),
        low=low,
        high=high,
        p=signed_rank_p(differences[differences != 0]),
        pairs=pairs,
        floor=smallest_p(pairs),
    )


def signed_rank_p(differences: np.ndarray) -> float:
    """The exact p of signed ranks; scipy's is slow with ties, and normal beyond 13 pairs."""
    # Ranks that ties share are halves; ties are of numbers equal but for rounding.
    doubled = (2 * stats.rankdata(np.round(np.abs(differences), DIGITS))).astype(int)
    chances = rank_sums(doubled)
    reached = doubled[differences > 0].sum()
    return min(1.0, 2 * float(min(chances[: reached + 1].sum(), chances[reached:].sum())))


def rank_sums(ranks: np.ndarray) -> np.ndarray:
    """The chance of each sum 0, 1, ... of the positive ranks, when every sign is a coin."""
    chances = np.ones(1)
    for rank in ranks:
        moved = np.zeros(len(chances) + rank)
        moved[:-rank] = chances / 2
        moved[rank:] += chances / 2
        chances = moved
    return chances


def sign_flip(
    differences: np.ndarray,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    alpha: float = 0.05,
) -> PairedComparison:
    """The permutation test of the mean of paired differences, exact for up to 13 pairs.

    Means of subsets give p-value and interval at once: turning the signs of a subset around
    raises the sum if the subset's mean is negative (Hartigan, 1969, JASA 64, 1303).
    """
    pairs = len(differences)
    means = np.sort(subset_means(differences, generator, resamples))
    means[np.abs(means) < TINY * np.abs(differences).max(initial=0)] = 0
    count = len(means) + 1
    tail = min((means <= 0).sum(), (means >= 0).sum()) + 1
    low, high = between(means, int(alpha / 2 * count + TINY))
    return PairedComparison(
        test="sign flip",
        difference=float(np.mean(differences)),
        low=low,
        high=high,
        p=min(1.0, 2 * float(tail) / count),
        pairs=pairs,
        floor=max(smallest_p(pairs), 2 / count),
    )


def subset_means(
    differences: np.ndarray, generator: np.random.Generator, resamples: int
) -> np.ndarray:
    """Means over all subsets but the empty one, or over `resamples` drawn ones."""
    pairs = len(differences)
    if pairs <= EXACT:
        subsets = np.arange(1, 2**pairs)[:, None] >> np.arange(pairs) & 1
    else:
        subsets = generator.integers(2, size=(resamples, pairs))
    return subsets @ differences / np.maximum(subsets.sum(axis=1), 1)


def between(ordered: np.ndarray, rank: int) -> tuple[float, float]:
    """The values at `rank` from either end, counted from 1; at 0 nothing is excluded."""
    if rank == 0:
        return -np.inf, np.inf
    return float(ordered[rank - 1]), float(ordered[-rank])


def smallest_p(pairs: int) -> float:
    """The smallest two-sided p that a test of signs or signed ranks can give."""
    return min(1.0, 2.0 ** (1 - pairs))
