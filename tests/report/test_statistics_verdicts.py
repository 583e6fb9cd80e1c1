"""Verdicts on a task, and that they hold in simulated studies of known truth."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis import paired, power
from analysis.decisions import holm
from analysis.family import Family, Rule, compare_pairs, find_p
from analysis.simulated import SimulatedStudy, components
from analysis.statistics import (
    Outcome,
    Verdicts,
    across,
    claims_without,
    find_claims,
    judge,
    verdicts,
)
from analysis.task_scores import Run, TaskScores, of_scorer, read_predictions, read_scores
from experiments.metrics import resampling
from experiments.metrics.base import find_label_metric, find_text_metrics

pytestmark = pytest.mark.thorough

ALIKE = SimulatedStudy(accuracies=(0.85,) * 4, seeds=5, examples=150)


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def recorded(study: SimulatedStudy, seed: int = 0) -> tuple[pd.DataFrame, dict[Run, pd.DataFrame]]:
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


APART = SimulatedStudy(accuracies=(0.9, 0.7, 0.69), seeds=6, examples=400, chance=0.02, taste=0.1)


def outcomes(found: Verdicts) -> dict[tuple[str, str], str]:
    """The outcome of every pair of short names, in the order of names."""
    swap = {Outcome.BETTER: Outcome.WORSE, Outcome.WORSE: Outcome.BETTER}
    rows = {}
    for row in found.pairs.itertuples():
        a, b, said = row.a[-1], row.b[-1], Outcome(row.outcome)
        rows[min(a, b), max(a, b)] = said if a < b else swap.get(said, said)
    return rows


def test_one_call_says_what_differs_and_what_does_not() -> None:
    found = verdicts(*recorded(APART))
    assert found.family == (
        "3 comparisons of 3 methods on mnli (accuracy), crossed, Bergmann and Hommel at 0.05"
    )
    assert found.methods["letters"].tolist() == ["a", "b", "b"]
    assert found.methods["method"][0] == "method_0"
    assert outcomes(found) == {
        ("0", "1"): "better", ("0", "2"): "better", ("1", "2"): "not told apart"
    }  # fmt: skip
    assert (found.pairs["difference"] >= 0).all()
    assert (found.pairs["p_adjusted"] >= found.pairs["p"]).all()
    assert 0 < found.detectable[0] < found.detectable[1] < 0.2


def test_intervals_and_outcomes_never_contradict_each_other() -> None:
    g = generator(3)
    for _ in range(40):
        study = SimulatedStudy(
            accuracies=(0.9, 0.86, 0.85, 0.85), seeds=5, examples=200, chance=0.2
        )
        pairs = judge(study.draw(g)).pairs
        apart = pairs["outcome"].isin([Outcome.BETTER, Outcome.WORSE])
        assert ((pairs["low"] >= 0) | (pairs["high"] <= 0))[apart].all()
        assert ((pairs["low"] < 0) & (pairs["high"] > 0))[~apart].all()


def test_the_order_of_rows_and_of_runs_does_not_matter() -> None:
    runs, frames = recorded(APART)
    mixed = {run: frame.sample(frac=1, random_state=1) for run, frame in frames.items()}
    first = verdicts(runs, frames).pairs
    second = verdicts(runs.sample(frac=1, random_state=1), mixed).pairs
    pd.testing.assert_frame_equal(first, second)


def test_no_verdict_hangs_on_a_random_generator() -> None:
    np.random.seed(0)
    first = verdicts(*recorded(APART))
    np.random.seed(1)
    second = verdicts(*recorded(APART))
    pd.testing.assert_frame_equal(first.pairs, second.pairs)
    pd.testing.assert_frame_equal(first.methods, second.methods)


@pytest.mark.parametrize("test", ["sign_flip", "wilcoxon"])
def test_five_seeds_decide_nothing_by_an_exact_test(test: str) -> None:
    found = verdicts(*recorded(replace(APART, seeds=5)), Rule(test=test))
    assert set(found.pairs["outcome"]) == {Outcome.UNDECIDABLE}
    assert set(found.pairs["note"]) == {
        "5 common seeds: the exact test cannot reach 0.05 with so few"
    }
    assert set(found.methods["letters"]) == {"a"}


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_decide_nothing(seeds: int) -> None:
    found = verdicts(*recorded(replace(APART, seeds=seeds)), Rule(margin=50.0))
    assert set(found.pairs["outcome"]) == {Outcome.UNDECIDABLE}
    said = "1 common seed" if seeds == 1 else "2 common seeds"
    assert set(found.pairs["note"]) == {f"{said}, and a verdict takes 3"}
    assert found.pairs["d"].isna().all() and found.detectable == (np.inf, np.inf)
    assert found.methods["loses"].isna().all()


def test_the_floor_counts_the_family() -> None:
    # 2 / 2^6 < 0.05 decides one comparison, 3 * 2 / 2^6 > 0.05 not three.
    runs, frames = recorded(APART)
    rule = Rule(test="sign_flip")
    assert set(verdicts(runs, frames, rule).pairs["outcome"]) == {Outcome.UNDECIDABLE}
    two = runs[runs["variant"] != "method_2"]
    assert outcomes(verdicts(two, frames, rule)) == {("0", "1"): "better"}


def test_what_could_be_detected_is_not_known_where_nothing_varied() -> None:
    runs, frames = recorded(APART)
    runs, first = runs.assign(score=0.5), frames["method_0", 0]
    same = first.assign(prediction=np.where(first["id"] % 2, first["label"], -1))
    found = verdicts(runs, dict.fromkeys(frames, same))
    assert set(found.pairs["outcome"]) == {Outcome.NOT_TOLD_APART}
    assert np.isnan(found.detectable).all()


def test_a_detectable_difference_is_one_that_scores_can_have() -> None:
    found = judge(replace(ALIKE, seeds=3, chance=2.0, accuracies=(0.85,) * 6).draw(generator()))
    assert all(end <= 1 or end == np.inf for end in found.detectable)
    assert found.detectable[1] == np.inf


def test_comparisons_with_one_method_are_a_smaller_family_without_letters() -> None:
    found = verdicts(*recorded(APART), Rule(against="method_1"))
    assert len(found.pairs) == 2 and "letters" not in found.methods
    assert found.family.startswith("2 comparisons of 3 methods with method_1 on")
    assert "Holm" in found.family
    full = verdicts(*recorded(APART))
    assert found.detectable[0] < full.detectable[0]


# Equivalence and the best


def test_methods_that_are_alike_are_called_the_same_within_a_margin() -> None:
    study = SimulatedStudy(accuracies=(0.85,) * 3, seeds=8, examples=5000, chance=0.02, taste=0.1)
    found = judge(study.draw(generator()), Rule(margin=2.0))
    assert set(found.pairs["outcome"]) == {Outcome.SAME} and found.pairs["within"].all()
    found = judge(study.draw(generator()), Rule(margin=0.05))
    assert set(found.pairs["outcome"]) == {Outcome.NOT_TOLD_APART}
    assert judge(study.draw(generator())).pairs["p_same"].isna().all()


def test_a_difference_may_be_real_and_within_the_margin() -> None:
    study = SimulatedStudy(accuracies=(0.86, 0.85), seeds=8, examples=5000, chance=0.01, taste=0.05)
    (row,) = judge(study.draw(generator(1)), Rule(margin=3.0)).pairs.to_dict("records")
    assert row["outcome"] == Outcome.BETTER and row["within"]


def test_a_margin_is_in_the_unit_in_which_scores_are_printed() -> None:
    rule = Rule(margin={"points": 1.0, "matthews": 4.0, "NIST": 0.1})
    assert rule.margin_on(["accuracy"]) == pytest.approx(0.01)
    assert rule.margin_on(["matthews"]) == pytest.approx(0.04)
    assert rule.margin_on(["NIST"]) == pytest.approx(0.1)
    assert rule.margin_on(["CIDEr"]) is None
    assert rule.margin_on(["accuracy", "matthews"]) == pytest.approx(0.01)
    assert rule.margin_on(["accuracy", "NIST"]) is None
    assert Rule(margin=2.0).margin_on(["f1"]) == pytest.approx(0.02)


def test_what_choosing_a_method_loses_is_told_of_all_at_once() -> None:
    g, held = generator(11), []
    study = SimulatedStudy(accuracies=(0.88, 0.86, 0.86, 0.84), seeds=5, examples=400)
    truth = {f"method {n}": 0.88 - accuracy for n, accuracy in enumerate(study.accuracies)}
    for _ in range(120):
        methods = judge(study.draw(g)).methods
        held.append(all(row.loses >= truth[row.method] - 1e-9 for row in methods.itertuples()))
    covered, doubt = share(held)
    assert covered >= 0.95 - doubt


def test_the_chance_to_be_best_is_shared_by_methods_that_are_alike() -> None:
    study, g = replace(ALIKE, accuracies=(0.85,) * 3), generator(2)
    chances = np.mean([judge(study.draw(g)).methods.sort_values("method")["chance_best"]
                       for _ in range(60)], axis=0)  # fmt: skip
    assert chances == pytest.approx([1 / 3] * 3, abs=0.12) and chances.sum() == pytest.approx(1)
    (best, other) = judge(replace(APART, accuracies=(0.9, 0.7)).draw(g)).methods["chance_best"]
    assert best > 0.999 and other < 0.001


# Lost runs, and several settings


def with_losses(task: TaskScores, method: int, seeds: list[int], floor: float = 0.5) -> TaskScores:
    """A task in which a method's runs with these seeds diverged."""
    scores, values, lost = task.scores.copy(), task.values.copy(), task.lost.copy()
    scores[method, seeds], values[:, method, seeds], lost[method, seeds] = np.nan, np.nan, True
    labels = np.arange(task.examples) % 2
    return replace(
        task, scores=scores, values=values, lost=lost, floor=floor, floor_values=1.0 * labels
    )


def test_each_pair_is_judged_by_the_seeds_that_both_have() -> None:
    task = APART.draw(generator())
    scores, values = task.scores.copy(), task.values.copy()
    scores[2, :4], values[:, 2, :4] = np.nan, np.nan  # the third has two seeds left
    found = judge(replace(task, scores=scores, values=values))
    full = judge(task)
    assert outcomes(found)["0", "1"] == outcomes(full)["0", "1"] == "better"
    seeds = {(row.a, row.b): row.seeds for row in found.pairs.itertuples()}
    assert sorted(seeds.values()) == [2, 2, 6]
    assert outcomes(found)["0", "2"] == Outcome.UNDECIDABLE
    one, other = (
        table.pairs.set_index(["a", "b"]).loc[("method 0", "method 1")] for table in (found, full)
    )
    assert one["p"] == other["p"] and one["difference"] == other["difference"]
    best = found.methods.set_index("method")["loses"]
    assert np.isnan(best["method 2"]) and best["method 0"] == 0


def test_a_method_that_lost_runs_is_better_both_ways_or_not_at_all() -> None:
    study = SimulatedStudy(accuracies=(0.9, 0.86), seeds=8, examples=800, chance=0.02, taste=0.1)
    task = study.draw(generator())
    assert outcomes(judge(task)) == {("0", "1"): "better"}
    few = judge(with_losses(task, 0, [0]))
    assert outcomes(few) == {("0", "1"): "not told apart"}
    assert few.pairs["note"].tolist() == ["not claimed: it would rest on leaving out lost runs"]
    assert few.at_floor is not None
    other = judge(with_losses(task, 1, [0, 1, 2, 3]))
    assert outcomes(other) == {("0", "1"): "better"} and other.at_floor is not None


def test_calling_the_weakest_runs_diverged_does_not_make_a_winner() -> None:
    study = SimulatedStudy(accuracies=(0.85,) * 2, seeds=8, examples=800, chance=0.2)
    task = study.draw(generator(6))
    weakest = np.argsort(task.scores[0])[:4].tolist()
    kept = judge(with_losses(task, 0, weakest))
    assert kept.pairs["difference"].iloc[0] > 0 and kept.pairs["a"].iloc[0] == "method 0"
    assert outcomes(kept) == {("0", "1"): "not told apart"}


def test_a_claim_holds_in_every_setting_that_tuning_could_not_tell_apart() -> None:
    study = SimulatedStudy(
        accuracies=(0.9, 0.86, 0.9), seeds=6, examples=800, chance=0.02, taste=0.1
    )
    task = study.draw(generator())
    two = replace(task, methods=("x", "y"), settings=((0,), (1,)))
    assert outcomes(judge(two)) == {("x", "y"): "better"}
    both = replace(task, methods=("x", "y"), settings=((0,), (1, 2)))
    found = judge(both)
    assert outcomes(found) == {("x", "y"): "not told apart"}
    assert found.pairs["difference"].iloc[0] == judge(two).pairs["difference"].iloc[0]
    assert found.pairs["low"].iloc[0] < 0 < found.pairs["high"].iloc[0]
    assert found.methods["loses"].to_numpy()[0] > 0
    several = across([both, two])
    assert outcomes(several) == {("x", "y"): "better"}  # the other task is as clear


# Several tasks


def test_tasks_together_are_judged_on_their_weighted_mean() -> None:
    parts = [
        replace(read_scores(*recorded(replace(APART, seeds=3 + seed), seed)), task=f"task_{seed}")
        for seed in range(3)
    ]
    found = across(parts)
    assert found.family == (
        "3 comparisons of 3 methods on 3 tasks, crossed, Bergmann and Hommel at 0.05"
    )
    assert found.methods["letters"].tolist() == ["a", "b", "b"]
    assert found.weights.sum() == pytest.approx(1)
    row = found.pairs.set_index(["a", "b"]).loc[("method_0", "method_1")]
    each = [part.scores[0].mean() - part.scores[1].mean() for part in parts]
    assert row["difference"] == pytest.approx(found.weights @ each)
    exact = across(parts, Rule(test="sign_flip")).pairs.set_index(["a", "b"])
    assert exact.loc[("method_0", "method_1"), "p"] == paired.smallest_p(12)
    fewer = read_scores(*(recorded(replace(APART, accuracies=(0.9, 0.7)))))
    with pytest.raises(ValueError, match=r"^mnli has other methods than task_0; keep what both"):
        across([parts[0], fewer])


def test_a_noisy_task_does_not_decide_for_all() -> None:
    quiet = SimulatedStudy(accuracies=(0.9, 0.86), seeds=6, examples=2000, chance=0.02, taste=0.1)
    noisy = SimulatedStudy(accuracies=(0.7, 0.7), seeds=6, examples=100, chance=0.8)
    g = generator(4)
    found = across([quiet.draw(g), noisy.draw(g)])
    assert found.weights[0] > 4 * found.weights[1]
    assert outcomes(found) == {("0", "1"): "better"}


def test_every_task_is_left_out_in_turn() -> None:
    g = generator(4)
    parts = [replace(APART.draw(g), task=name) for name in ("x", "y", "z")]
    found = claims_without(parts, Rule())
    assert list(found) == ["x", "y", "z"] and not claims_without(parts[:2], Rule())
    assert found["x"] == find_claims(across(parts[1:])) and found["x"]


def test_claims_without_a_task_know_of_lost_runs() -> None:
    g = generator(4)
    parts = [replace(APART.draw(g), task=name) for name in ("x", "y", "z")]
    lost = parts[2].lost.copy()
    lost[0, :2] = True
    scores = np.where(lost, np.nan, parts[2].scores)
    parts[2] = replace(parts[2], lost=lost, scores=scores)
    found = claims_without(parts, Rule())
    assert found["x"] == find_claims(across(parts[1:]))
    assert found["z"] == find_claims(across(parts[:2])) != found["x"]


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
            score = find_text_metrics(["ROUGE_L"])[0].value(np.stack(counts))
            rows.append({**names, "metric": "ROUGE_L", "score": float(score)})
    found = verdicts(pd.DataFrame(rows), frames)
    assert found.pairs["outcome"].tolist() == ["better"]
    bare = {run: frame.drop(columns="ROUGE_L") for run, frame in frames.items()}
    with pytest.raises(ValueError, match="have no column 'ROUGE_L'"):
        read_scores(pd.DataFrame(rows), bare)
    with pytest.raises(ValueError, match=r"^metric must be one of .*accuracy, .* got 'ROGUE'\.$"):
        read_scores(pd.DataFrame(rows).assign(metric="ROGUE"), frames)


def test_rows_without_labels_do_not_count() -> None:
    runs, frames = recorded(APART)
    unlabelled = pd.DataFrame(
        {"split": "test", "id": [0, 1], "label": [np.nan, np.nan], "prediction": [0, 1]}
    )
    more = {run: pd.concat([frame, unlabelled]) for run, frame in frames.items()}
    assert read_scores(runs, more).examples == APART.examples


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
            verdicts(table, predictions)


def test_a_rule_that_cannot_be_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^test must be one of crossed, .* got 'anova'\.$"):
        Rule(test="anova")
    with pytest.raises(ValueError, match=r"^alpha and power must be 0 < alpha < power < 1, got"):
        Rule(alpha=0.9)
    with pytest.raises(ValueError, match=r"^against must be one of method_0, .* got 'lora'\.$"):
        verdicts(*recorded(APART), Rule(against="lora"))
    with pytest.raises(ValueError, match=r"^margin must be positive, got 0\.$"):
        Rule(margin=0)


def share(hits: list[bool]) -> tuple[float, float]:
    """How often, and twice the Monte-Carlo standard error of it."""
    mean = float(np.mean(hits))
    return mean, 2 * float(np.sqrt(max(mean * (1 - mean), 0.01) / len(hits)))


def p_values(study: SimulatedStudy, g: np.random.Generator) -> tuple[Family, np.ndarray]:
    """All pairs of one simulated study, and their p-values."""
    family = Family(parts=[study.draw(g)], where="simulated", rule=Rule())
    return family, find_p(family)["p"].to_numpy()


def claims(study: SimulatedStudy, g: np.random.Generator) -> bool:
    """Whether any pair of one simulated study is told apart."""
    family, p = p_values(study, g)
    return bool((family.adjust(p) <= 0.05).any())


HEAVY = {"chance": 0.1, "degrees": 2.0}
COLLAPSE = {"chance": 0.08, "collapse": 0.15}


@pytest.mark.parametrize(
    "methods, seeds, changes",
    [
        (2, 3, {"chance": 0.3}),
        (6, 3, {"chance": 0.2, "examples": 2000}),
        (2, 5, {"chance": 0.3}),
        (6, 5, HEAVY),
        (6, 5, {"chance": (0.02, 0.4) * 3}),
        (6, 8, COLLAPSE),
        (12, 4, {"chance": 0.3}),
        (2, 5, {"chance": 0.3, "metric": "matthews", "positive": 0.7}),
    ],
)
def test_methods_that_are_alike_are_called_so(methods: int, seeds: int, changes: dict) -> None:
    study = replace(ALIKE, accuracies=(0.85,) * methods, seeds=seeds, **changes)
    g = generator(seeds + methods)
    quiet, doubt = share([not claims(study, g) for _ in range(300)])
    assert quiet >= 0.95 - doubt


def test_methods_that_are_alike_are_called_so_over_several_tasks() -> None:
    study, g, quiet = replace(ALIKE, accuracies=(0.85,) * 3, seeds=4, chance=0.3), generator(), []
    for _ in range(150):
        parts = [study.draw(g), replace(study, examples=600).draw(g)]
        family = Family(parts=parts, where="", rule=Rule())
        quiet.append((family.adjust(find_p(family)["p"].to_numpy()) > 0.05).all())
    held, doubt = share(quiet)
    assert held >= 0.95 - doubt


def test_without_correction_many_of_them_would_not_be() -> None:
    g, study = generator(), replace(ALIKE, accuracies=(0.85,) * 6, chance=0.3)
    found = [bool((p_values(study, g)[1] <= 0.05).any()) for _ in range(100)]
    assert share(found)[0] > 0.15


def test_more_is_found_than_by_holm() -> None:
    g, sharp, plain = generator(), 0, 0
    study = SimulatedStudy(accuracies=(0.9, 0.9, 0.86, 0.86, 0.82, 0.82), seeds=5, examples=872)
    for _ in range(40):
        family, p = p_values(study, g)
        sharp += int((family.adjust(p) <= 0.05).sum())
        plain += int((holm(p) <= 0.05).sum())
    assert sharp > 1.1 * plain


def test_methods_that_differ_by_the_margin_are_seldom_called_the_same() -> None:
    g, study = (
        generator(3),
        SimulatedStudy(accuracies=(0.87, 0.85), seeds=5, examples=2000, chance=0.05),
    )
    rule, called = Rule(margin=2.0), []
    for _ in range(300):
        family = Family(parts=[study.draw(g)], where="", rule=rule)
        called.append(bool((find_p(family)["p_same"] <= 0.05).any()))
    called, doubt = share(called)
    assert called <= 0.05 + doubt


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_a_planted_difference_is_found_with_the_power_of_the_formula(seeds: int) -> None:
    study = SimulatedStudy(accuracies=(0.8, 0.8), seeds=seeds, examples=300)
    g = generator(seeds)
    difference = power.smallest_difference(study.design(g))
    better = replace(study, accuracies=(0.8 + difference, 0.8))
    found, doubt = share([claims(better, g) for _ in range(400)])
    assert found == pytest.approx(0.8, abs=doubt + 0.04)


@pytest.mark.parametrize("seeds", [3, 5, 8])
def test_the_range_of_what_was_detectable_holds_the_truth(seeds: int) -> None:
    study = SimulatedStudy(accuracies=(0.8,) * 3, seeds=seeds, examples=300, chance=0.2)
    g = generator(seeds)
    truth = power.smallest_difference(study.design(g, comparisons=3))
    ends = [judge(study.draw(g)).detectable for _ in range(150)]
    held, doubt = share([low <= truth <= high for low, high in ends])
    assert held >= 0.88 - doubt


# Standard deviations of seeds, examples and the rest.
NOISE = {
    "seeds": (0.1, 0.0, 0.5),
    "examples": (0.0, 0.7, 0.7),
    "both": (0.05, 0.7, 0.7),
    "the rest": (0.0, 0.0, 1.0),
}


@pytest.mark.parametrize("noise", NOISE)
def test_intervals_cover_whatever_the_noise_is_of(noise: str) -> None:
    (a, b, e), g, inside = NOISE[noise], generator(7), []
    for _ in range(400):
        rest = e * g.standard_normal((100, 2, 5))
        own = a * g.standard_normal((2, 5)) + b * g.standard_normal((100, 2, 1))
        task = of_scorer(resampling.mean(own + rest), "drawn", "accuracy", ("x", "y"))
        (row,) = compare_pairs(Family(parts=[task], where="", rule=Rule())).to_dict("records")
        inside.append(row["low"] <= 0 <= row["high"])
    covered, doubt = share(inside)
    assert covered >= 0.95 - doubt
    assert covered < 0.9999 or noise in ("examples", "the rest")  # nor are they endless


def test_the_paired_bootstrap_covers_for_a_metric_that_is_no_mean() -> None:
    g, inside = generator(9), []
    for _ in range(300):
        labels = g.integers(2, size=200)
        told = np.where(g.random((200, 2)) < 0.8, labels[:, None], 1 - labels[:, None])
        found = paired.paired_bootstrap(find_label_metric("matthews").scorer(labels, told), g, 400)
        inside.append(bool(found.low <= 0 <= found.high))
    covered, doubt = share(inside)
    assert covered == pytest.approx(0.95, abs=doubt + 0.01)


def test_components_are_those_planted() -> None:
    values = 0.5 + generator().normal(0, 0.3, (1, 300)) + generator(1).normal(0, 0.7, (400, 1))
    found = components(values + generator(2).normal(0, 2, (400, 300)))
    assert found == pytest.approx((0.3, 0.7, 2.0), rel=0.1)


def test_a_simulated_accuracy_is_the_one_asked_for() -> None:
    study = SimulatedStudy(accuracies=(0.9, 0.6), seeds=300, examples=4000)
    assert study.right(generator()).mean(axis=(0, 2)) == pytest.approx([0.9, 0.6], abs=0.02)


def test_judging_a_simulated_study_needs_no_files() -> None:
    found = judge(ALIKE.draw(generator()))
    assert len(found.pairs) == 6 and set(found.methods["letters"]) == {"a"}
