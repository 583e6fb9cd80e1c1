"""Plans from a pilot, and looks at a study under way that cost nothing in error."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stored_runs import store, study

from analysis import plan
from analysis.family import Family, Rule, find_p, pool
from analysis.report.comparisons import comparisons
from analysis.report.material import gather
from analysis.simulated import SimulatedStudy
from analysis.task_scores import TaskScores

ALIKE = SimulatedStudy(accuracies=(0.85,) * 3, seeds=16, examples=300, chance=0.2)


def first_seeds(task: TaskScores, seeds: int) -> TaskScores:
    """The task as it was after so many seeds."""
    return replace(
        task,
        seeds=task.seeds[:seeds],
        scores=task.scores[:, :seeds],
        values=task.values[:, :, :seeds],
        lost=task.lost[:, :seeds],
    )


def test_the_parts_of_all_looks_sum_to_alpha() -> None:
    looks = [4, 8, 16]
    levels = [plan.level_at(looks, seeds) for seeds in looks]
    assert sum(levels) == pytest.approx(0.05) and levels == sorted(levels)
    assert plan.level_at([8], 8) == pytest.approx(0.05)
    assert plan.spent(0.25, 0.05) == pytest.approx(8.857e-5, rel=1e-3)
    with pytest.raises(ValueError, match=r"^There are 6 seeds, and looks were planned at 4, 8, 16"):
        plan.level_at(looks, 6)


def test_three_looks_make_no_more_false_claims_than_one() -> None:
    g, false = np.random.default_rng(0), 0
    for _ in range(250):
        task = ALIKE.draw(g)
        for seeds in (4, 8, 16):
            family = Family(parts=[first_seeds(task, seeds)], where="", rule=Rule())
            adjusted = family.adjust(find_p(family)["p"].to_numpy())
            if (adjusted <= plan.level_at([4, 8, 16], seeds)).any():
                false += 1
                break
    assert false / 250 <= 0.05 + 0.028


def test_more_seeds_are_foreseen_as_they_turn_out() -> None:
    g = np.random.default_rng(1)
    large = Family(parts=[replace(ALIKE, seeds=64).draw(g)], where="", rule=Rule())
    small = Family(parts=[replace(ALIKE, seeds=32).draw(g)], where="", rule=Rule())
    foreseen, true = plan.with_seeds(pool(small)[0], 64), pool(large)[0]
    assert foreseen.seeds == true.seeds == 64
    for name in ("between", "rest"):
        assert getattr(foreseen, name) == pytest.approx(getattr(true, name), rel=0.35)
    assert (foreseen.beyond == pool(small)[0].beyond).all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    methods = {"vera": 0.8, "lora": 0.86, "full": 0.93}
    return study(tmp_path_factory.mktemp("runs"), methods, ["sst2"], seeds=4)


def test_the_command_says_what_more_seeds_would_find(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call = ["plan", str(folder), "--looks", "4,8", "--margin", "0.5"]
    monkeypatch.setattr("sys.argv", call)
    plan.main()
    said = " ".join(capsys.readouterr().out.split())
    for text in ("4 (here)", "endless", "processor hours", "are short", "Look at 4 of 8 seeds"):
        assert text in said
    assert "Go on: study.seeds=8." in said


def test_a_study_may_stop_once_every_pair_is_decided(folder: Path, tmp_path: Path) -> None:
    (one,) = comparisons(gather(folder), Rule())
    stop = plan.describe_look(one, [4], Rule(margin=60.0))
    assert stop.endswith("3 of 3 pairs decided. The study may stop.")
    last = plan.describe_look(one, [4], Rule())
    assert "3 of 3 pairs decided" in last
    near = replace(one, scores=ALIKE.draw(np.random.default_rng(0)))
    wait = plan.describe_look(
        replace(near, methods=one.methods.assign(seeds=16)), [16], Rule(margin=0.1)
    )
    assert wait.endswith("That was the last look.") and "3 open: " in wait
    store(tmp_path, "lora", 0, np.ones(20, dtype=bool))
    (alone,) = comparisons(gather(tmp_path), Rule())
    assert alone.verdicts is None


def test_a_look_that_was_not_planned_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["plan", str(folder), "--looks", "3,8"])
    with pytest.raises(SystemExit, match="error: There are 4 seeds, and looks were planned at 3"):
        plan.main()
