"""The formulas behind verdicts: limits, inverses, and procedures worked out by hand or by force."""

from itertools import combinations

import numpy as np
import pytest
from scipy import integrate, stats

from analysis import decisions
from analysis.decisions import Variances
from experiments.metrics import resampling
from experiments.metrics.base import find_label_metric


def variances(
    between: float, beyond: float = 0.0, rest: float = 0.0, seeds: int = 5, examples: int = 872
) -> Variances:
    """Variances of one pair on one task."""
    one = np.ones((1, 1))
    return Variances(
        between=between * one, beyond=beyond * one, rest=rest * one,
        seeds=np.full((1, 1), seeds), examples=np.full((1, 1), examples),
    )  # fmt: skip


def table(
    seeds: float, examples: float, rest: float, n: int, s: int, g: np.random.Generator
) -> np.ndarray:
    """Differences [n, s] with these standard deviations."""
    return (
        examples * g.normal(size=(n, 1))
        + seeds * g.normal(size=(1, s))
        + rest * g.normal(size=(n, s))
    )


# One pair


@pytest.mark.parametrize("seeds", [3, 5, 8, 16])
def test_if_seeds_are_all_the_noise_it_is_the_t_test_over_seeds(seeds: int) -> None:
    scores = np.random.default_rng(seeds).normal(0.5, 1, seeds)
    found = decisions.estimate_variances(np.tile(scores, (50, 1)), scores)
    wanted = stats.ttest_1samp(scores, 0)
    p = decisions.two_sided(scores.mean(keepdims=True), found)
    assert p == pytest.approx(wanted.pvalue, rel=1e-6)
    half = decisions.half_width(0.025, found)
    assert scores.mean() + half == pytest.approx(wanted.confidence_interval().high)


def test_if_examples_are_all_the_noise_it_is_the_t_test_over_examples() -> None:
    values = np.repeat(np.random.default_rng(0).normal(0.1, 1, (40, 1)), 5, axis=1)
    found = decisions.estimate_variances(values, values.mean(axis=0))
    p = decisions.two_sided(values.mean(keepdims=True)[0], found)
    assert p == pytest.approx(stats.ttest_1samp(values[:, 0], 0).pvalue, rel=1e-6)


def test_variances_are_those_of_the_analysis_of_variance() -> None:
    g, n, s = np.random.default_rng(3), 150, 40
    values = table(0.3, 1.0, 2.0, n, s, g)
    found = decisions.estimate_variances(values, values.mean(axis=0))
    left = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    rest = (left**2).sum() / ((n - 1) * (s - 1)) / (n * s)
    assert found.rest == pytest.approx(rest)
    assert found.between == pytest.approx(values.mean(0).var(ddof=1) / s)
    assert found.beyond == pytest.approx(values.mean(1).var(ddof=1) / n - rest)


@pytest.mark.parametrize("seeds", [3, 4, 9])
def test_the_tail_is_the_integral_over_the_unknown_variance(seeds: int) -> None:
    between, beyond, far = 1.0, 0.7, 2.2
    found = decisions.tail(np.array([far]), variances(between, beyond, seeds=seeds, examples=10**6))

    def part(chi2: float) -> float:
        spread = np.sqrt(between * (seeds - 1) / chi2 + beyond)
        return float(stats.norm.sf(far / spread) * stats.chi2.pdf(chi2, seeds - 1))

    assert found == pytest.approx(integrate.quad(part, 0, np.inf)[0], rel=1e-4)


def test_interval_and_p_are_inverses() -> None:
    for level in (0.4, 0.025, 1e-3, 1e-5):
        for given in (variances(1.0, 0.3, 0.1, 3), variances(0.0, 1.0), variances(1e-12, 0, 0, 16)):
            half = decisions.half_width(level, given)
            assert decisions.tail(half, given) == pytest.approx(level, rel=1e-6)


def test_what_seeds_share_is_at_least_what_neither_explains() -> None:
    # By luck all seeds have the same mean, although each is a mean over few noisy examples.
    lucky = decisions.two_sided(np.array([2.0]), variances(0.0, 0.0, 1.0))
    assert lucky == pytest.approx(2 * stats.norm.sf(2.0), rel=1e-3)


def test_one_seed_tells_nothing_of_seeds() -> None:
    values = np.random.default_rng(0).random((20, 1))
    found = decisions.estimate_variances(values, values.mean(axis=0))
    assert decisions.two_sided(np.array([0.3]), found) == 1
    assert decisions.half_width(0.025, found) == np.inf


def test_equal_methods_have_no_difference_and_no_error() -> None:
    still = variances(0.0)
    assert decisions.two_sided(np.array([0.0]), still) == 1
    assert decisions.two_sided(np.array([0.1]), still) == 0
    assert decisions.half_width(0.025, still) == 0


def test_several_tasks_are_integrated_together() -> None:
    one = variances(1.0, seeds=6)
    same = decisions.mean_over_tasks([one, one], np.array([0.5, 0.5]))
    g = np.random.default_rng(0)
    W = g.chisquare(5, (400_000, 2)) / 5
    wanted = stats.norm.sf(1.5 / np.sqrt((0.25 / W).sum(axis=1))).mean()
    assert decisions.tail(np.array([1.5]), same) == pytest.approx(wanted, rel=0.01)
    alone = decisions.mean_over_tasks([one, one], np.array([1.0, 0.0]))
    assert decisions.tail(np.array([2.0]), alone) == pytest.approx(
        decisions.tail(np.array([2.0]), one), rel=2e-3
    )


@pytest.mark.parametrize("level", [0.05, 0.05 / 15])
@pytest.mark.parametrize("seeds", [3, 4, 5, 8, 16])
@pytest.mark.parametrize("ratio", [0.1, 1.0, 10.0, 100.0])
def test_a_pair_makes_no_more_false_claims_than_it_may(
    seeds: int, ratio: float, level: float
) -> None:
    # The true `between` is `ratio`, `beyond` is 1; a study sees the first times chi2 / degrees.
    chances = (np.arange(400) + 0.5) / 400
    seen = ratio * stats.chi2.ppf(chances, seeds - 1) / (seeds - 1)
    one = np.ones((400, 1))
    given = Variances(
        between=seen[:, None], beyond=one, rest=0 * one,
        seeds=np.full((400, 1), seeds), examples=np.full((400, 1), 10**6),
    )  # fmt: skip
    half = decisions.half_width(level / 2, given)
    assert 2 * stats.norm.sf(half / np.sqrt(ratio + 1)).mean() <= level * 1.005


# Pseudo-values


@pytest.mark.parametrize("metric", ["matthews", "f1", "pearson", "spearman"])
def test_pseudo_values_give_the_error_of_the_bootstrap(metric: str) -> None:
    g = np.random.default_rng(1)
    labels = g.integers(2, size=400)
    told = np.where(g.random((400, 3)) < 0.8, labels[:, None], 1 - labels[:, None])
    if metric in ("pearson", "spearman"):
        told = labels[:, None] + g.normal(size=(400, 3))
    scorer = find_label_metric(metric).scorer(labels, told)
    values = scorer.pseudo_values()
    assert values.mean(axis=0) == pytest.approx(scorer.observed(), abs=0.01)
    wanted = scorer.bootstrap(np.random.default_rng(0), 2000).std(axis=0)
    assert values.std(axis=0) / 20 == pytest.approx(wanted, rel=0.08)


def test_pseudo_values_of_a_mean_are_the_values() -> None:
    values = np.random.default_rng(0).random((30, 2, 3))
    assert resampling.mean(values).pseudo_values() == pytest.approx(values)


def test_leaving_out_by_sums_is_leaving_out_by_weights() -> None:
    g = np.random.default_rng(2)
    labels = g.integers(3, size=50)
    told = g.integers(3, size=(50, 4))
    for metric in ("accuracy", "f1", "matthews", "pearson"):
        scorer = find_label_metric(metric).scorer(labels, told)
        assert scorer.left_out is not None
        assert scorer.left_out() == pytest.approx(scorer.one_left_out())


# Families


def all_ways(methods: int) -> set[frozenset[tuple[int, int]]]:
    """By force, every set of pairs that can be equal while all others differ."""
    pairs = list(combinations(range(methods), 2))
    found = set()
    for number in range(1, 2 ** len(pairs)):
        equal = {pair for place, pair in enumerate(pairs) if number >> place & 1}
        group = list(range(methods))
        for a, b in equal:
            group = [group[a] if one == group[b] else one for one in group]
        if equal == {(a, b) for a, b in pairs if group[a] == group[b]}:
            found.add(frozenset(equal))
    return found


@pytest.mark.parametrize("methods", [2, 3, 4, 5])
def test_partitions_are_all_ways_to_be_equal(methods: int) -> None:
    pairs = list(combinations(range(methods), 2))
    found = {
        frozenset(pair for pair, equal in zip(pairs, row, strict=True) if equal)
        for row in decisions.partitions(methods)
    }
    assert found == all_ways(methods)
    assert {len(way) for way in found} | {0} == decisions.numbers_of_equal_pairs(methods)


def test_bergmann_and_hommel_by_hand() -> None:
    # Three methods: all equal (3 pairs), or one pair alone.
    p = decisions.adjust_all_pairs(np.array([0.01, 0.04, 0.03]), 3)
    assert p == pytest.approx([0.03, 0.04, 0.03])  # by Holm the two last have 0.06


@pytest.mark.parametrize("methods", [4, 6, 9, 12])
def test_the_sharper_procedures_reject_what_holm_rejects_and_more(methods: int) -> None:
    g, more = np.random.default_rng(methods), 0
    pairs = methods * (methods - 1) // 2
    for _ in range(50):
        p = g.random(pairs) ** 4
        sharp = decisions.adjust_all_pairs(p, methods)
        plain = decisions.holm(p)
        assert (sharp <= plain + 1e-12).all() and (sharp >= p).all()
        assert (sharp <= decisions.shaffer(p, methods) + 1e-12).all()
        more += int((sharp <= 0.05).sum() - (plain <= 0.05).sum())
    assert more > 0


def test_holm_by_hand() -> None:
    # 4 * 0.01, 3 * 0.02, then no less than that: 2 * 0.03, and 1 * 0.5.
    assert decisions.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert decisions.holm([0.8, 0.9]) == pytest.approx([1, 1])


# Equivalence and the best


def test_the_same_within_a_margin_is_an_interval_inside_it() -> None:
    given = variances(1.0, 0.5)
    half = float(decisions.half_width(0.05, given)[0])
    for difference in (0.3, -0.3):
        p = decisions.same_within(half + 0.3, np.array([difference]), given)
        assert p == pytest.approx(0.05, rel=1e-6)
    assert decisions.same_within(1.0, np.array([2.0]), given) > 0.5


def test_bounds_beside_the_best_by_hand() -> None:
    means, half = np.array([5.0, 4.0, 0.0]), 2.0
    difference = means[:, None] - means
    low, high = decisions.with_the_best(difference - half, difference + half)
    # The last is not the best; the others may be, and lose at most what their intervals allow.
    assert high.tolist() == [3.0, 1.0, 0.0]
    assert low.tolist() == [-1.0, -3.0, -7.0]
    low, _ = decisions.with_the_best(difference - 0.5, difference + 0.5)
    assert low.tolist() == [0.0, -1.5, -5.5]


def test_drawn_means_have_the_errors_that_pairs_have() -> None:
    g = np.random.default_rng(5)
    n, k, s = 300, 3, 6
    values = g.normal(size=(n, k, 1)) + 0.2 * g.normal(size=(1, k, s)) + g.normal(size=(n, k, s))
    scores = values.mean(axis=0)
    drawn = decisions.draw_means(scores, values, g, 100_000)
    for a, b in combinations(range(k), 2):
        apart = drawn[:, a] - drawn[:, b]
        found = decisions.estimate_variances(values[:, a] - values[:, b], scores[a] - scores[b])
        chance = decisions.tail(np.abs(scores[a] - scores[b]).mean(keepdims=True), found)
        assert apart.mean() == pytest.approx((scores[a] - scores[b]).mean(), abs=0.002)
        half = decisions.half_width(0.05, found)
        beyond = np.mean(np.abs(apart - (scores[a] - scores[b]).mean()) > half)
        assert beyond == pytest.approx(0.1, abs=0.01) and 0 < chance < 0.5
