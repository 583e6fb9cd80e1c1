"""Verdicts on a task, and that they hold in simulated studies of known truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import paired, power, resampling
from analysis.crossed import Crossed, crossed, pigeonhole, together
from analysis.family import Family, Rule, on_seeds_and_examples, told_apart
from analysis.outcomes import Run, outcomes, read_predictions
from analysis.simulated import Study, components
from analysis.statistics import across, judge, verdicts
from experiments.metrics import nlg

QUICK = Rule(resamples=200)
FIELDS = ("difference", "error", "degrees", "low", "high", "p")
ALIKE = Study(accuracies=(0.85,) * 4, seeds=5, examples=150)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def recorded(study: Study, seed: int = 0) -> tuple[pd.DataFrame, dict[Run, pd.DataFrame]]:
    """A simulated study as a table of runs and their predictions."""
    right = study.right(generator(seed))
    labels = np.arange(study.examples) % 3
    rows, frames = [], {}
    for method in range(right.shape[1]):
        for s in range(study.seeds):
            told = np.where(right[:, method, s], labels, (labels + 1) % 3)
            run = (f"method_{method}", s)
            frames[run] = pd.DataFrame(
                {"split": "dev", "id": range(len(labels)), "label": labels, "prediction": told}
            )
            names = {"variant": run[0], "seed": s, "task": "mnli", "model": "mini"}
            rows.append({**names, "metric": "accuracy", "score": right[:, method, s].mean()})
    return pd.DataFrame(rows), frames


APART = Study(accuracies=(0.9, 0.7, 0.69), seeds=6, examples=400, chance=0.02, taste=0.1)


def test_one_call_says_what_differs_and_what_does_not() -> None:
    found = verdicts(*recorded(APART), generator())
    assert found.family == ("3 comparisons of 3 methods on mnli (accuracy), crossed, Holm at 0.05")
    assert found.methods["letters"].tolist() == ["a", "b", "b"]
    assert found.methods["method"][0] == "method_0"
    said = {frozenset((row.a, row.b)): row.verdict for row in found.pairs.itertuples()}
    assert said == {
        frozenset(("method_0", "method_1")): "method_0 is better than method_1",
        frozenset(("method_0", "method_2")): "method_0 is better than method_2",
        frozenset(("method_1", "method_2")): "cannot be told apart",
    }
    assert (found.pairs["difference"] >= 0).all()
    assert (found.pairs["p_holm"] >= found.pairs["p"]).all()
    assert 0 < found.visible < 0.2


def test_the_same_generator_gives_the_same_verdicts() -> None:
    first, second = (verdicts(*recorded(APART), generator(1)).pairs for _ in range(2))
    pd.testing.assert_frame_equal(first, second)


def test_the_order_of_rows_and_of_runs_does_not_matter() -> None:
    runs, frames = recorded(APART)
    mixed = {run: frame.sample(frac=1, random_state=1) for run, frame in frames.items()}
    first = verdicts(runs, frames, generator()).pairs
    second = verdicts(runs.sample(frac=1, random_state=1), mixed, generator()).pairs
    pd.testing.assert_frame_equal(first, second)


@pytest.mark.parametrize("test", ["sign_flip", "wilcoxon"])
def test_five_seeds_decide_nothing_by_an_exact_test(test: str) -> None:
    found = verdicts(*recorded(replace(APART, seeds=5)), generator(), Rule(test=test))
    assert set(found.pairs["verdict"]) == {"cannot be decided: 5 pairs"}
    assert set(found.methods["letters"]) == {"a"} and found.visible == np.inf


def test_two_seeds_may_decide_but_have_no_standardised_difference() -> None:
    found = verdicts(*recorded(replace(APART, seeds=2)), generator())
    assert found.pairs["d"].isna().all() and np.isfinite(found.visible)
    assert not found.pairs["verdict"].str.startswith("cannot be decided").any()


def test_the_floor_counts_the_family() -> None:
    # 2 / 2^6 < 0.05 decides one comparison, 3 * 2 / 2^6 > 0.05 not three.
    runs, frames = recorded(APART)
    rule = Rule(test="sign_flip")
    assert verdicts(runs, frames, generator(), rule).pairs["verdict"][0].startswith("cannot be dec")
    two = runs[runs["variant"] != "method_2"]
    found = verdicts(two, frames, generator(), rule)
    assert found.pairs["verdict"].tolist() == ["method_0 is better than method_1"]


def test_one_seed_decides_nothing() -> None:
    found = verdicts(*recorded(replace(APART, seeds=1)), generator())
    assert set(found.pairs["verdict"]) == {"cannot be decided: 1 pair"}
    assert found.pairs["d"].isna().all() and found.visible == np.inf


def test_what_was_visible_is_not_known_where_nothing_varied() -> None:
    runs, frames = recorded(APART)
    runs, first = runs.assign(score=0.5), frames["method_0", 0]
    same = first.assign(prediction=np.where(first["id"] % 2, first["label"], -1))
    found = verdicts(runs, dict.fromkeys(frames, same), generator())
    assert set(found.pairs["verdict"]) == {"cannot be told apart"}
    assert found.pairs["visible"].isna().all() and np.isnan(found.visible)


def test_comparisons_with_one_method_are_a_smaller_family_without_letters() -> None:
    found = verdicts(*recorded(APART), generator(), Rule(against="method_1"))
    assert len(found.pairs) == 2 and "letters" not in found.methods
    assert found.family.startswith("2 comparisons of 3 methods with method_1 on")
    full = verdicts(*recorded(APART), generator())
    assert found.visible < full.visible


def test_tasks_together_are_judged_on_their_mean() -> None:
    parts = [
        replace(outcomes(*recorded(replace(APART, seeds=3), seed)), task=f"task_{seed}")
        for seed in range(4)
    ]
    found = across(parts, generator(), QUICK)
    assert found.family == "3 comparisons of 3 methods on 4 tasks, crossed, Holm at 0.05"
    assert found.methods["letters"].tolist() == ["a", "b", "b"]
    scores = np.concatenate([part.scorer.observed() for part in parts], axis=1)
    row = found.pairs.set_index(["a", "b"]).loc[("method_0", "method_1")]
    apart = scores[0] - scores[1]
    assert row["difference"] == pytest.approx(apart.mean())
    exact = across(parts, generator(), Rule(test="sign_flip")).pairs.set_index(["a", "b"])
    p = exact.loc[("method_0", "method_1"), "p"]
    assert p == paired.sign_flip(apart, generator()).p == paired.smallest_p(12)
    fewer = outcomes(*recorded(replace(APART, seeds=2)))
    with pytest.raises(ValueError, match=r"^mnli has other methods or seeds than task_0; keep"):
        across([parts[0], fewer], generator())


def test_errors_of_tasks_add_up_as_those_of_means_of_independent_things() -> None:
    parts = [
        Crossed(**{key: np.array(value) for key, value in zip(FIELDS, row, strict=True)})
        for row in ((0.1, 0.03, 4.0, 0, 0, 0), (0.3, 0.04, 9.0, 0, 0, 0))
    ]
    found = together(parts)
    assert found.difference == pytest.approx(0.2) and found.error == pytest.approx(0.025)
    assert found.degrees == pytest.approx(25**2 / (9**2 / 4 + 16**2 / 9))
    still = replace(parts[0], error=np.array(0.0))
    assert together([still, still]).p == 0 and together([still, still]).degrees == 4
    unknown = replace(parts[0], error=np.array(np.inf))
    assert together([unknown, parts[1]]).p == 1


def test_a_metric_of_counts_takes_the_column_of_its_name() -> None:
    g = generator()
    rows, frames = [], {}
    for method, level in (("a", 0.9), ("b", 0.4)):
        for seed in range(3):
            counts = [(g.random(20) < level).astype(float).mean(keepdims=True) for _ in range(50)]
            frames[method, seed] = pd.DataFrame(
                {"split": "test", "id": range(50), "label": [["x", "y"]] * 50, "ROUGE_L": counts}
            )
            names = {"variant": method, "seed": seed, "task": "e2e", "model": "mini"}
            score = nlg.from_statistics("ROUGE_L", np.stack(counts))
            rows.append({**names, "metric": "ROUGE_L", "score": float(score)})
    found = verdicts(pd.DataFrame(rows), frames, generator(), score=nlg.SCORES["ROUGE_L"])
    assert found.pairs["verdict"].tolist() == ["a is better than b"]
    with pytest.raises(ValueError, match=r"^metric must be one of accuracy, .* got 'ROUGE_L'\.$"):
        outcomes(pd.DataFrame(rows), frames)


def test_rows_without_labels_do_not_count() -> None:
    runs, frames = recorded(APART)
    unlabelled = pd.DataFrame(
        {"split": "test", "id": [0, 1], "label": [np.nan, np.nan], "prediction": [0, 1]}
    )
    more = {run: pd.concat([frame, unlabelled]) for run, frame in frames.items()}
    assert outcomes(runs, more).scorer.examples == APART.examples


def test_predictions_are_read_from_the_folders_of_runs(tmp_path: Path) -> None:
    runs, frames = recorded(replace(APART, seeds=1))
    runs["folder"] = [str(tmp_path / variant) for variant in runs["variant"]]
    for (variant, _), frame in frames.items():
        (tmp_path / variant).mkdir()
        frame.to_parquet(tmp_path / variant / "predictions.parquet")
    found = read_predictions(runs)
    assert found.keys() == frames.keys()
    pd.testing.assert_frame_equal(found["method_1", 0], frames["method_1", 0], check_dtype=False)


def test_runs_that_cannot_be_compared_are_errors() -> None:
    runs, frames = recorded(APART)
    other = {**frames, ("method_1", 2): frames["method_1", 2].assign(label=0)}
    shorter = {**frames, ("method_1", 2): frames["method_1", 2].iloc[1:]}
    moved = runs.assign(score=runs["score"].where(runs.index != 4, 0.5))
    cases = [
        (
            runs,
            other,
            "method_1 with seed 2 was not scored on the examples of method_0",
        ),
        (runs, shorter, "method_1 with seed 2 was not scored on the examples of"),
        (runs.iloc[1:], frames, "method_0 has no score on mnli with seed 0."),
        (pd.concat([runs, runs]), frames, "method_0 has two runs on mnli with seed 0; keep one"),
        (
            moved,
            frames,
            "The predictions of method_0 with seed 4 give .*, and the table",
        ),
        (runs, {}, "There are no predictions of method_0 with seed 0."),
        (runs.assign(task=runs["seed"]), frames, "One task is compared at a time, got 0, 1, 2"),
        (runs[runs["variant"] == "method_0"], frames, "Two methods are needed at least, got m"),
    ]
    for table, predictions, message in cases:
        with pytest.raises(ValueError, match=f"^{message}"):
            verdicts(table, predictions, generator())


def test_a_rule_that_cannot_be_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^test must be one of crossed, .* got 'anova'\.$"):
        Rule(test="anova")
    with pytest.raises(ValueError, match=r"^alpha and power must be 0 < alpha < power < 1, got"):
        Rule(alpha=0.9)
    with pytest.raises(ValueError, match=r"^against must be one of method_0, .* got 'lora'\.$"):
        verdicts(*recorded(APART), generator(), Rule(against="lora"))


def share(hits: list[bool]) -> tuple[float, float]:
    """How often, and twice the Monte-Carlo standard error of it."""
    mean = float(np.mean(hits))
    return mean, 2 * float(np.sqrt(max(mean * (1 - mean), 0.01) / len(hits)))


def found_in(study: Study, g: np.random.Generator) -> pd.DataFrame:
    """All pairs of one simulated study."""
    made = study.draw(g)
    scores = made.scorer.observed()
    family = Family(methods=made.methods, scores=scores, where=made.task, rule=QUICK)
    return on_seeds_and_examples(family, [made], g)


def claims(study: Study, g: np.random.Generator) -> bool:
    """Whether any pair of one simulated study is told apart."""
    return bool(told_apart(found_in(study, g), QUICK).any())


@pytest.mark.parametrize(("seeds", "methods"), [(5, 2), (5, 6), (8, 4)])
def test_methods_that_are_alike_are_called_so(seeds: int, methods: int) -> None:
    study = replace(ALIKE, accuracies=(0.85,) * methods, seeds=seeds)
    g = generator(seeds + methods)
    quiet, doubt = share([not claims(study, g) for _ in range(400)])
    assert quiet >= 0.95 - doubt


def test_methods_that_are_alike_are_called_so_over_several_tasks() -> None:
    study, g, quiet = (
        replace(ALIKE, accuracies=(0.85,) * 2, seeds=10, examples=277),
        generator(),
        [],
    )
    for _ in range(300):
        found = across([study.draw(g), study.draw(g)], g, QUICK)
        quiet.append(set(found.pairs["verdict"]) == {"cannot be told apart"})
    held, doubt = share(quiet)
    assert held >= 0.95 - doubt


def test_without_correction_many_of_them_would_not_be() -> None:
    g, study = generator(), replace(ALIKE, accuracies=(0.85,) * 6)
    found = [bool((found_in(study, g)["p"] <= 0.05).any()) for _ in range(100)]
    assert share(found)[0] > 0.15


@pytest.mark.parametrize("seeds", [5, 8])
def test_a_planted_difference_is_found_with_the_power_of_the_formula(seeds: int) -> None:
    study = Study(accuracies=(0.8, 0.8), seeds=seeds, examples=300)
    g = generator(seeds)
    difference = power.smallest_difference(study.design(g))
    better = replace(study, accuracies=(0.8 + difference, 0.8))
    found, doubt = share([claims(better, g) for _ in range(400)])
    # The formula knows the variances; a study guesses them, and errs on the side of caution.
    assert found == pytest.approx(0.8, abs=doubt + 0.04)


# Standard deviations of seeds, examples and the rest.
NOISE = {
    "seeds": (0.1, 0.0, 0.5),
    "examples": (0.0, 0.7, 0.7),
    "both": (0.05, 0.7, 0.7),
    "the rest": (0.0, 0.0, 1.0),
}


def drawn(noise: tuple[float, float, float], seeds: int, g: np.random.Generator) -> np.ndarray:
    """Paired differences [100, seeds] whose true mean is 0."""
    a, b, e = noise
    rest = e * g.standard_normal((100, seeds))
    return a * g.standard_normal(seeds) + b * g.standard_normal((100, 1)) + rest


@pytest.mark.parametrize("noise", NOISE)
def test_crossed_intervals_cover_whatever_the_noise_is_of(noise: str) -> None:
    g, inside = generator(7), []
    for _ in range(400):
        scorer = resampling.mean(drawn(NOISE[noise], 5, g))
        found = crossed(scorer.observed(), scorer.bootstrap(g, 200), 100)
        inside.append(bool(found.low <= 0 <= found.high))
    covered, doubt = share(inside)
    assert covered >= 0.95 - doubt
    assert covered < 0.999  # nor are they endless


def test_simpler_intervals_do_not_cover() -> None:
    g = generator(8)
    held: dict[str, list[bool]] = {"seeds": [], "examples": [], "pigeonhole": []}
    for _ in range(300):
        seeds = resampling.mean(drawn(NOISE["seeds"], 3, g))
        examples = resampling.mean(drawn(NOISE["examples"], 8, g))
        ends = stats.ttest_1samp(examples.observed(), 0).confidence_interval()
        held["seeds"].append(bool(ends.low <= 0 <= ends.high))
        found = seeds.bootstrap(g, 200)
        for name, values in (
            ("examples", found.mean(axis=1)),
            ("pigeonhole", pigeonhole(found, g)),
        ):
            low, high = np.quantile(values, [0.025, 0.975])
            held[name].append(bool(low <= 0 <= high))
    shares = {name: share(values)[0] for name, values in held.items()}
    assert shares["seeds"] < 0.8 and shares["examples"] < 0.8 and shares["pigeonhole"] < 0.94


def test_the_paired_bootstrap_covers_for_a_metric_that_is_no_mean() -> None:
    g, inside = generator(9), []
    for _ in range(300):
        labels = g.integers(2, size=200)
        told = np.where(g.random((200, 2)) < 0.8, labels[:, None], 1 - labels[:, None])
        found = paired.paired_bootstrap(resampling.matthews(labels, told), g, 400)
        inside.append(bool(found.low <= 0 <= found.high))
    covered, doubt = share(inside)
    assert covered == pytest.approx(0.95, abs=doubt + 0.01)


def test_components_are_those_planted() -> None:
    values = 0.5 + generator().normal(0, 0.3, (1, 300)) + generator(1).normal(0, 0.7, (400, 1))
    found = components(values + generator(2).normal(0, 2, (400, 300)))
    assert found == pytest.approx((0.3, 0.7, 2.0), rel=0.1)


def test_a_simulated_accuracy_is_the_one_asked_for() -> None:
    study = Study(accuracies=(0.9, 0.6), seeds=300, examples=4000)
    assert study.right(generator()).mean(axis=(0, 2)) == pytest.approx([0.9, 0.6], abs=0.02)


def test_judging_a_simulated_study_needs_no_files() -> None:
    found = judge(ALIKE.draw(generator()), generator(), QUICK)
    assert len(found.pairs) == 6 and set(found.methods["letters"]) == {"a"}
