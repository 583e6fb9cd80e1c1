"""Every statistic against a number worked out by hand, or another implementation."""

from functools import partial
from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from analysis import aggregate, effects, letters, paired, power
from analysis.power import Design
from experiments.metrics import nlg, resampling
from experiments.metrics.base import LabelMetric, find_label_metric, find_text_metrics, names_of


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def labels_and_predictions(metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels [40] and predictions [40, 2, 3] of three classes, of two, or of scores with ties."""
    g, shape = generator(), (40, 2, 3)
    if metric in ("pearson", "spearman"):
        labels = np.round(g.random(40) * 5, 1)
        return labels, np.round(labels[:, None, None] + g.normal(size=shape), 1)
    classes = 3 if metric == "matthews" else 2
    labels = g.integers(classes, size=40)
    right = g.random(shape) < 0.7
    return labels, np.where(right, labels[:, None, None], g.integers(classes, size=shape))


@pytest.mark.parametrize("metric", names_of(LabelMetric))
def test_a_metric_on_weights_is_the_one_runs_are_scored_by_on_repeated_rows(metric: str) -> None:
    labels, told = labels_and_predictions(metric)
    scorer = find_label_metric(metric).scorer(labels, told)
    weights = resampling.draw_counts(40, 5, generator(1))
    found = scorer.scores(weights)
    assert found.shape == (5, 2, 3)
    for row, counts in enumerate(weights.astype(int)):
        picked = np.repeat(np.arange(40), counts)
        for method in range(2):
            for seed in range(3):
                wanted = find_label_metric(metric).value(labels[picked], told[picked, method, seed])
                assert found[row, method, seed] == pytest.approx(float(wanted), abs=1e-9)


@pytest.mark.parametrize("metric", ["f1", "matthews", "pearson", "spearman"])
def test_a_metric_that_is_undefined_counts_as_zero(metric: str) -> None:
    told = np.zeros((4, 1))
    assert find_label_metric(metric).scorer(np.array([0, 1, 0, 1]), told).observed() == 0


def test_a_metric_of_counts_is_that_of_their_sums() -> None:
    texts = ["the cat sat on the mat", "a dog ran home", "it rains a lot here", "we all go home"]
    told = ["the cat sat on a mat", "a dog ran far home", "it rains here", "we all go home"]
    rows = nlg.statistics(told, [[text] for text in texts], ["BLEU"])["BLEU"]
    scorer = resampling.additive(rows[:, None], find_text_metrics(["BLEU"])[0].of_sums)
    picked = np.array([0, 0, 3, 2])
    weights = np.bincount(picked, minlength=4)[None].astype(float)
    assert scorer.observed()[0] == pytest.approx(find_text_metrics(["BLEU"])[0].value(rows))
    assert scorer.scores(weights)[0, 0] == pytest.approx(
        find_text_metrics(["BLEU"])[0].value(rows[picked])
    )


def test_a_resample_has_as_many_examples_and_each_comes_as_often_on_average() -> None:
    weights = resampling.draw_counts(20, 4000, generator())
    assert (weights.sum(axis=1) == 20).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(20), abs=0.08)  # 5 standard errors
    assert weights.var() == pytest.approx(1 - 1 / 20, abs=0.03)


def test_resamples_in_parts_are_as_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "CELLS", 50)
    scorer = resampling.mean(np.arange(20.0))
    assert scorer.bootstrap(generator(), 7).shape == (7,)


def test_mcnemar_is_the_binomial_test_of_what_one_alone_got_right() -> None:
    a = np.array([True] * 8 + [False] * 2 + [True] * 10)
    b = np.array([False] * 8 + [True] * 2 + [True] * 10)
    found = paired.mcnemar(a, b)
    assert found.difference == pytest.approx(6 / 20)
    # 2 (C(10,0) + C(10,1) + C(10,2)) / 2^10
    assert found.p == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert found.low < 0 < found.high
    assert paired.mcnemar(a, a).p == 1


def test_the_interval_of_mcnemar_excludes_zero_where_the_test_rejects() -> None:
    a = np.arange(40) < 9
    b = np.arange(40) == 20
    found = paired.mcnemar(a, b)
    assert found.p == pytest.approx(2 * 11 / 1024) and found.low > 0


def test_the_paired_bootstrap_has_the_error_of_the_mean_difference() -> None:
    values = generator().normal(size=(300, 2)) + 0.1
    found = paired.paired_bootstrap(resampling.mean(values), generator(1))
    apart = values[:, 0] - values[:, 1]
    error = apart.std() / np.sqrt(300)
    assert found.difference == pytest.approx(apart.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.05)
    wanted = 2 * stats.norm.sf(abs(apart.mean()) / error)
    assert found.p == pytest.approx(wanted, abs=0.03)


def test_the_paired_bootstrap_of_equal_runs_finds_nothing() -> None:
    values = np.repeat(generator().random((50, 1)), 2, axis=1)
    found = paired.paired_bootstrap(resampling.mean(values), generator())
    assert (found.difference, found.low, found.high, found.p) == (0, 0, 0, 1)


@pytest.mark.parametrize("pairs", [3, 6, 9])
def test_sign_flip_is_the_permutation_test(pairs: int) -> None:
    x = generator(pairs).normal(0.5, 1, pairs)
    statistic = partial(np.mean, axis=-1)
    wanted = stats.permutation_test(
        (x,), lambda x, axis: statistic(x), permutation_type="samples", vectorized=True
    )
    assert paired.sign_flip(x, generator()).p == pytest.approx(wanted.pvalue)


def test_sign_flip_by_hand() -> None:
    found = paired.sign_flip(np.array([1.0, 2.0, 3.0, 4.0, 5.0, -0.5]), generator())
    # Sums of signs as far out as 14.5: none turned, only -0.5 turned; twice that.
    assert found.p == 2 * 2 / 64
    # At either end 0.025 * 64 = 1.6 places may be cut off, so the outermost subset means remain.
    assert (found.low, found.high) == (-0.5, 5.0)


def test_the_interval_of_sign_flip_holds_what_its_test_does_not_reject() -> None:
    x = generator(4).normal(0.4, 1, 9)
    found = paired.sign_flip(x, generator())
    for end, inside in ((found.low, 1e-6), (found.high, -1e-6)):
        assert paired.sign_flip(x - end - inside, generator()).p > 0.05
        assert paired.sign_flip(x - end + inside, generator()).p <= 0.05


def test_drawn_sign_flips_come_near_the_exact_test(monkeypatch: pytest.MonkeyPatch) -> None:
    x = generator(2).normal(0.4, 1, 12)
    exact = paired.sign_flip(x, generator())
    monkeypatch.setattr(paired, "EXACT", 5)
    drawn = paired.sign_flip(x, generator())
    assert drawn.p == pytest.approx(exact.p, abs=0.02)
    assert drawn.low == pytest.approx(exact.low, abs=0.05)


def test_differences_that_cancel_but_for_rounding_count_as_equal() -> None:
    # 0.1 + 0.2 - 0.3 is not 0 in floating point.
    assert paired.sign_flip(np.array([0.1, 0.2, -0.3]), generator()).p == 1


@pytest.mark.parametrize("pairs", [4, 8, 30])
def test_wilcoxon_is_that_of_scipy(pairs: int) -> None:
    x = generator(pairs).normal(0.3, 1, pairs)
    assert paired.wilcoxon(x).p == pytest.approx(stats.wilcoxon(x, method="exact").pvalue)


def test_wilcoxon_is_exact_with_ties() -> None:
    x = np.array([1.0, 1, -1, 2, 2, 3, 0, 4])
    assert paired.wilcoxon(x).p == pytest.approx(stats.wilcoxon(x).pvalue)  # by all permutations
    # Ranks 2, 2, -2, 4.5, 4.5, 6, 7: of 128 patterns those with negative ranks of at most 2.
    assert paired.wilcoxon(x).p == pytest.approx(2 * 4 / 128)


def test_the_interval_of_wilcoxon_by_hand() -> None:
    x = np.array([1.0, 2, 3, 5, 8, 13])
    found = paired.wilcoxon(x)
    # P(W = 0) = 1 / 64 alone is below 2.5 %, so the outermost Walsh averages are the ends.
    assert (found.low, found.high, found.p) == (1, 13, 2 / 64)
    assert found.difference == np.median([(a + b) / 2 for a in x for b in x if a <= b])


def test_no_exact_test_of_few_pairs_goes_below_its_floor() -> None:
    assert [paired.smallest_p(n) for n in (0, 1, 2, 5, 6)] == [1, 1, 0.5, 1 / 16, 1 / 32]
    clear = np.arange(1.0, 6)
    for found in (paired.wilcoxon(clear), paired.sign_flip(clear, generator())):
        assert found.p == found.floor == paired.smallest_p(5)
        assert (found.low, found.high) == (-np.inf, np.inf)


def test_cohen_by_hand() -> None:
    found = effects.cohen(np.array([1.0, 2, 3, 4, 5]))
    # 3 / sqrt(2.5), times Hedges' factor for 4 degrees of freedom: Gamma(2) sqrt(1/2) / Gamma(1.5).
    assert found.value == pytest.approx(3 / np.sqrt(2.5) * np.sqrt(0.5) / (np.sqrt(np.pi) / 2))
    t = 3 / np.sqrt(2.5 / 5)
    assert stats.nct.sf(t, 4, found.low * np.sqrt(5)) == pytest.approx(0.025)
    assert stats.nct.cdf(t, 4, found.high * np.sqrt(5)) == pytest.approx(0.025)


def test_an_effect_without_spread_is_nothing_or_endless() -> None:
    nothing, endless = effects.cohen(np.zeros(5)), effects.cohen(-np.ones(5))
    assert nothing.value == 0 and nothing.low == pytest.approx(-1.96 / np.sqrt(5), abs=1e-3)
    assert endless.value == -np.inf and endless.high == np.inf


@pytest.mark.parametrize("seeds", [3, 5, 9])
def test_a_spread_that_is_rounding_is_none(seeds: int) -> None:
    for difference in (145 / 621, 0.1, 1 / 3, 2 / 7):
        found = effects.cohen(np.full(seeds, difference))
        assert found.value == found.high == np.inf and found.low == -np.inf


def test_an_effect_far_out_goes_over_into_a_wider_one() -> None:
    noise = np.array([-1.0, 0.5, 0.3, 0.2])
    for sign in (1, -1):
        near, far = (effects.cohen(sign + size * noise) for size in (2.2e-4, 1e-6))
        for ends in (near, far):
            assert ends.low < ends.value < ends.high
        assert near.low / near.value == pytest.approx(far.low / far.value, rel=1e-3)
        assert near.high / near.value == pytest.approx(far.high / far.value, rel=1e-3)


def test_a_standardised_difference_needs_three_pairs() -> None:
    with pytest.raises(ValueError, match=r"^A standardised difference needs three pairs at least,"):
        effects.cohen(np.array([1.0, 2.0]))


def test_superiority_by_hand() -> None:
    found = effects.superiority(np.array([1.0, 2, 3, -1, 0]))
    low = stats.binomtest(3, 5).proportion_ci().low
    high = stats.binomtest(4, 5).proportion_ci().high
    assert found == effects.Effect(
        value=0.7, low=pytest.approx(low, abs=1e-6), high=pytest.approx(high, abs=1e-6)
    )
    assert effects.superiority(np.ones(3)).high == 1 and effects.superiority(-np.ones(3)).low == 0


def by_force(different: np.ndarray) -> set[frozenset[int]]:
    """All maximal sets without a pair that differs."""
    members = range(len(different))
    alike = [
        frozenset(chosen)
        for size in range(1, len(different) + 1)
        for chosen in combinations(members, size)
        if not any(different[pair] for pair in combinations(chosen, 2))
    ]
    return {one for one in alike if not any(one < other for other in alike)}


@pytest.mark.parametrize("seed", range(60))
def test_groups_are_all_maximal_sets_that_do_not_differ(seed: int) -> None:
    g = generator(seed)
    size = 1 + seed % 8
    upper = np.triu(g.random((size, size)) < g.random(), 1)
    found = letters.groups(upper | upper.T)
    assert set(found) == by_force(upper) and len(found) == len(set(found))


def test_letters_by_hand() -> None:
    # By mean 3, 1, 0, 2; only the best and the two last differ.
    different = np.zeros((4, 4), dtype=bool)
    different[3, 0] = different[3, 2] = True
    found = letters.letters([2.0, 3.0, 1.0, 4.0], different | different.T)
    assert found == ["b", "ab", "b", "a"]


def test_there_are_letters_beyond_z() -> None:
    assert [letters.letter(n) for n in (0, 25, 26, 53)] == ["a", "z", "a1", "b2"]


def test_power_is_that_of_the_paired_t_test() -> None:
    design = Design(seeds=10, examples=1000, sd_seeds=1.0, sd_examples=0.0, sd_rest=0.0)
    # G*Power: matched pairs, d_z = 1, n = 10, two-sided 0.05.
    assert power.power(design, 1.0) == pytest.approx(0.8031, abs=2e-3)
    assert power.power(design, 0.0) == pytest.approx(0.05, abs=1e-3)
    assert power.smallest_difference(design) == pytest.approx(0.9960, abs=3e-3)


def test_the_smallest_difference_is_found_with_the_power_asked_for() -> None:
    for comparisons, seeds in ((1, 3), (15, 5), (91, 16)):
        design = Design(
            seeds=seeds, examples=300, sd_seeds=0.01, sd_examples=0.2, sd_rest=0.4,
            comparisons=comparisons,
        )  # fmt: skip
        for wanted in (0.5, 0.9):
            difference = power.smallest_difference(design, wanted)
            assert power.power(design, difference) == pytest.approx(wanted)


def test_power_counts_seeds_examples_and_the_rest() -> None:
    design = Design(seeds=5, examples=100, sd_seeds=0.1, sd_examples=0.5, sd_rest=2.0)
    assert design.variances().total == pytest.approx(0.01 / 5 + 0.25 / 100 + 4 / 500)


def test_more_seeds_than_the_examples_allow_add_nothing() -> None:
    few, many = (
        power.smallest_difference(
            Design(seeds=seeds, examples=300, sd_seeds=0.01, sd_examples=0.4, sd_rest=0.2)
        )
        for seeds in (64, 4096)
    )
    assert many < few < 1.02 * many
    assert many == pytest.approx(0.4 / np.sqrt(300) * (1.96 + 0.84), rel=0.01)


def test_what_no_study_can_be_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"3 seeds and two examples are needed .* 2 and 10\.$"):
        Design(seeds=2, examples=10, sd_seeds=1.0, sd_examples=1.0, sd_rest=1.0)
    design = Design(seeds=5, examples=10, sd_seeds=1.0, sd_examples=1.0, sd_rest=1.0)
    with pytest.raises(ValueError, match=r"^power must lie between alpha=0.05 and 1, got 0.01\.$"):
        power.smallest_difference(design, 0.01)


def test_the_interquartile_mean_leaves_out_a_quarter_at_either_end() -> None:
    scores = np.array([[1.0, 100], [3, 4], [2, -50], [5, 6]])
    assert aggregate.iqm(scores) == pytest.approx((2 + 3 + 4 + 5) / 4)


def test_a_profile_is_the_share_of_runs_above() -> None:
    scores = np.array([[0.2, 0.9], [0.6, 0.8]])
    found = aggregate.profile(scores, np.array([0.0, 0.5, 0.6, 0.85, 1.0]))
    assert found.tolist() == [1, 0.75, 0.5, 0.25, 0]


def test_improvement_is_the_mann_whitney_statistic_of_every_task() -> None:
    scores = np.round(generator().random((2, 6, 3)), 1)
    wanted = np.mean([stats.mannwhitneyu(*scores[:, :, t]).statistic / 36 for t in range(3)])
    assert aggregate.improvement(scores) == pytest.approx(wanted)


def test_resampled_profiles_are_those_of_the_drawn_runs() -> None:
    scores = generator().normal(size=(3, 7, 2))
    picks = generator().integers(7, size=(50, 7, 2))
    statistic = aggregate.Profile(np.linspace(-2, 2, 9))
    found = statistic.resampled(scores, picks)
    drawn = statistic(scores[..., picks, np.arange(2)])
    assert found == pytest.approx(drawn, abs=1e-15) and found.shape == (9, 3, 50)


def test_stratified_resamples_keep_tasks_apart_and_methods_together() -> None:
    runs = np.array([[0.0, 10], [1, 11], [2, 12]])
    seen = []
    aggregate.stratified(
        np.stack([runs, runs]), lambda s: seen.append(s) or s.mean((-2, -1)), generator(), 50
    )
    assert seen[0].shape == (2, 50, 3, 2) and (seen[0][0] == seen[0][1]).all()
    assert set(seen[0][0, ..., 0].ravel()) == {0, 1, 2}
    assert set(seen[0][0, ..., 1].ravel()) == {10, 11, 12}


def test_the_stratified_interval_has_the_error_of_a_stratified_mean() -> None:
    scores = generator().normal(size=(20, 4)) + 10 * np.arange(4)
    low, high = aggregate.stratified(scores, lambda s: s.mean((-2, -1)), generator(), 4000)
    error = np.sqrt(scores.var(axis=0, ddof=1).sum() / 20) / 4
    assert (high - low) / 2 == pytest.approx(stats.t.isf(0.025, 76) * error, rel=0.06)


@pytest.mark.parametrize(("runs", "tasks"), [(3, 2), (5, 4)])
def test_the_stratified_interval_of_few_runs_covers(runs: int, tasks: int) -> None:
    g = generator(3)
    inside = []
    for _ in range(600):
        scores = g.normal(size=(runs, tasks))
        low, high = aggregate.stratified(scores, lambda s: s.mean((-2, -1)), g, 2000)
        inside.append(low <= 0 <= high)
    assert np.mean(inside) >= 0.93


def test_one_run_has_no_stratified_interval() -> None:
    low, high = aggregate.stratified(np.ones((1, 3)), aggregate.iqm, generator(), 10)
    assert np.isnan(low) and np.isnan(high)
