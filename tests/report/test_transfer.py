"""Whether the order of methods in one study predicts that in another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis.simulated import SimulatedStudy
from analysis.task_scores import TaskScores
from analysis.transfer import FEWEST, compare_orders, describe, main, rank_interval, reliability

ROOT = Path(__file__).parents[2]
KIND = {"seeds": 5, "examples": 300}


def drawn(accuracies: list[float], seed: int, **kind) -> TaskScores:
    study = SimulatedStudy(accuracies=tuple(accuracies), **KIND | kind)
    return study.draw(np.random.default_rng(seed))


def known(means: list[float], names: list[str]) -> TaskScores:
    """A comparison with these means, whose seeds hardly differ."""
    scores = np.array(means)[:, None] + np.array([-1e-6, 0, 1e-6])
    values = np.broadcast_to(scores, (4, *scores.shape)).copy()
    return TaskScores(
        task="t", metric="accuracy", methods=tuple(names), seeds=(0, 1, 2), scores=scores,
        values=values, lost=np.zeros(scores.shape, dtype=bool),
        settings=tuple((row,) for row in range(len(means))),
    )  # fmt: skip


def test_figures_by_hand() -> None:
    names = list("abcdef")
    first = known([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], names)
    # The same order but for the first two, told in another order, with a method of its own.
    second = known([0.1, 0.2, 0.3, 0.4, 0.6, 0.5, 0.9], ["f", "e", "d", "c", "a", "b", "z"])
    found = compare_orders(first, second)
    assert found.methods["method"].tolist() == names
    assert found.methods["rank_second"].tolist() == [1, 2, 3, 4, 5, 6]
    assert found.correlation == 1.0 and (found.low, found.high) == (1.0, 1.0)
    assert found.agreeing == 1.0 and found.lost == 0.0
    assert found.lost_by_chance == pytest.approx(0.6 - 0.35)
    turned = compare_orders(first, known([0.5, 0.6, 0.4, 0.3, 0.2, 0.1], names))
    assert turned.correlation == pytest.approx(1 - 6 * 2 / (6 * 35))
    assert turned.agreeing == pytest.approx(14 / 15) and turned.lost == pytest.approx(0.1)
    assert turned.ceiling == pytest.approx(1.0, abs=1e-6)
    fewer = compare_orders(first, second, without=["a", "z"])
    assert fewer.methods["method"].tolist() == names[1:]
    assert fewer.lost_by_chance == pytest.approx(0.5 - 0.3)


def test_the_interval_holds_the_correlation_of_the_methods_it_is_about() -> None:
    # Bivariate normal with correlation 0.7: Spearman's is 6 / pi asin(0.35).
    truth, generator, held = 6 / np.pi * np.arcsin(0.35), np.random.default_rng(0), 0
    for _ in range(400):
        x, y = generator.multivariate_normal([0, 0], [[1, 0.7], [0.7, 1]], 20).T
        low, high = rank_interval(float(stats.spearmanr(x, y).statistic), 20)
        held += int(low <= truth <= high)
    assert 0.92 <= held / 400 <= 0.98


def test_the_ceiling_is_what_two_studies_of_the_same_methods_show() -> None:
    generator, found, ceilings = np.random.default_rng(1), [], []
    for seed in range(30):
        truth = list(generator.normal(0.8, 0.012, 14).clip(0.6, 0.95))
        one = compare_orders(drawn(truth, 2 * seed), drawn(truth, 2 * seed + 1))
        found.append(one.correlation)
        ceilings.append(0.0 if np.isnan(one.ceiling) else one.ceiling)
    assert abs(np.mean(found) - np.mean(ceilings)) < 0.12
    assert 0.1 < np.mean(found) < 0.9


def test_where_nothing_differs_there_is_no_order() -> None:
    alike = drawn([0.8] * 8, 3)
    assert np.mean([reliability(drawn([0.8] * 8, seed)) for seed in range(12)]) < 0.35
    flat = replace(alike, scores=np.full_like(alike.scores, 0.8))
    assert reliability(flat) == 0.0
    one = compare_orders(drawn([0.6, 0.7, 0.8, 0.9, 0.65, 0.75, 0.85, 0.95], 4), flat_noise(alike))
    text = describe(one, ("cheap", "dear"), "accuracy")
    assert "In dear the methods differ by no more than seeds and examples explain, so it is" in text


def flat_noise(scores: TaskScores) -> TaskScores:
    """Methods whose means differ far less than their seeds."""
    spread = np.random.default_rng(0).normal(0, 0.1, scores.scores.shape)
    spread -= spread.mean(axis=1, keepdims=True)
    nudge = 1e-4 * np.arange(len(scores.scores))[:, None]
    return replace(scores, scores=0.8 + spread + nudge)


def test_too_few_methods_in_common_are_refused() -> None:
    with pytest.raises(ValueError, match=rf"have 1 method in common \(c\); .* takes {FEWEST}\."):
        compare_orders(known([0.1, 0.2, 0.3], list("abc")), known([0.1, 0.2], list("cd")))


def test_published_studies_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    argv = ["transfer", "results/pissa_common_rate", "results/pissa_dispute"]
    monkeypatch.setattr("sys.argv", argv)
    main()
    out = capsys.readouterr().out
    assert "7 methods: rank correlation" in out and "The first's best method is" in out
    monkeypatch.setattr("sys.argv", [*argv, "--without", "pissa", "milora"])
    main()
    out = capsys.readouterr().out
    assert "5 methods: rank correlation" in out and "pissa " not in out
    monkeypatch.setattr("sys.argv", [*argv, "--without", "pisa"])
    with pytest.raises(SystemExit, match=r"no method 'pisa'\. Did you mean 'pissa'\?"):
        main()
    monkeypatch.setattr("sys.argv", ["transfer", "results/nothing", "results/pissa_dispute"])
    with pytest.raises(SystemExit, match="results/nothing"):
        main()
