"""Rank maps, budget curves and importance as runs tell them, and the truth of task=planted."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis import allocation
from analysis.allocation import Allocation
from experiments.running.runner import execute

PLANTED = ("task=planted", "variant.targets=[query,value]", "train.epochs=10", "variant.lr=0.02")
Runs = dict[str, tuple[Path, set[str]]]


@pytest.fixture(scope="module")
def runs(tiny_run: Callable, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """A run of each choosing method on a planted truth, and the names of the planted matrices."""
    own = {
        "adalora": ("variant.rank=4", "variant.target_rank=2", "variant.interval=2"),
        "lora_drop": ("variant.threshold=0.6",),
    }
    found = {}
    for variant, settings in own.items():
        run = tiny_run(variant, *PLANTED, *settings, "record.log_every=3")
        folder = tmp_path_factory.mktemp(variant)
        execute(run, folder)
        found[variant] = folder, set(run.task.teacher().weights)
    return found


def test_precision_and_recall_of_a_hand_made_allocation() -> None:
    found = Allocation({"a": 3.0, "b": 1.0, "c": 2.0, "d": 0.0}, {"a", "d"}, each=2.0)
    assert found.hits == 3
    assert found.precision == 0.5
    assert found.recall == 0.5  # two of two in a, none of two in d
    assert found.chance == 0.5


def test_nothing_kept_is_no_precision_and_no_error() -> None:
    found = Allocation({"a": 0.0, "b": 0.0}, {"a"}, each=1.0)
    assert (found.precision, found.recall, found.chance) == (0, 0, 0.5)


def test_a_truth_outside_the_adapted_matrices_is_an_error() -> None:
    with pytest.raises(ValueError, match="c is not one of them"):
        Allocation({"a": 1.0}, {"a", "c"}, 1.0)
    with pytest.raises(ValueError, match="no truth to compare with"):
        Allocation({"a": 1.0}, set(), 1.0)


def test_the_ranks_at_the_end_are_the_last_of_the_history_and_add_up(runs: Runs) -> None:
    folder, _ = runs["adalora"]
    table, history = allocation.ranks(folder), allocation.rank_history(folder)
    assert len(table) == 4 and table["rank"].sum() == 8
    assert set(table["matrix"]) == {"query", "value"} and set(table["layer"]) == {0, 1}
    last = history[history["step"] == history["step"].max()]
    assert last.drop(columns="step").reset_index(drop=True).equals(table)
    totals = history.groupby("step")["rank"].sum().tolist()
    assert totals == sorted(totals, reverse=True) and totals[0] == 16 and totals[-1] == 8


def test_importance_adds_up_to_one_and_the_kept_are_the_largest(runs: Runs) -> None:
    table = allocation.importance(runs["lora_drop"][0]).sort_values("importance")
    assert table["importance"].sum() == pytest.approx(1)
    assert table["own"].tolist() == sorted(table["own"]) and table["own"].any()


@pytest.mark.parametrize("variant", ["adalora", "lora_drop"])
def test_a_run_says_where_its_truth_lies(runs: Runs, variant: str) -> None:
    folder, planted = runs[variant]
    assert allocation.planted(folder) == planted and len(planted) == 2
    found = allocation.against_truth(folder)
    assert found.planted == planted and found.chance == 0.5
    assert found.each == {"adalora": 4.0, "lora_drop": 1.0}[variant]
    assert 0 <= found.precision <= 1 and 0 <= found.recall <= 1
    assert len(found.kept) == 4


def test_what_a_run_does_not_tell_is_said(runs: Runs, tiny_run: Callable, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="says nothing of ranks"):
        allocation.rank_history(runs["lora_drop"][0])
    with pytest.raises(ValueError, match="says nothing of 'importance'"):
        allocation.importance(runs["adalora"][0])
    with pytest.raises(ValueError, match="holds no finished run"):
        allocation.ranks(tmp_path)
    execute(tiny_run("lora"), tmp_path)
    assert allocation.planted(tmp_path) == set()
    with pytest.raises(ValueError, match="is no run on task=planted"):
        allocation.against_truth(tmp_path)


def test_the_command_prints_and_writes(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folders = [str(folder) for folder, _ in runs.values()]
    monkeypatch.setattr("sys.argv", ["allocation", *folders, "--out", str(tmp_path)])
    allocation.main()
    told = capsys.readouterr().out
    assert told.count("precision") == 2 and "importance" in told and "planted" in told
    written = {path.name for path in tmp_path.rglob("*.png")}
    assert written == {"rank_map.png", "budget.png", "importance.png"}


def test_where_nothing_is_planted_nothing_is_said_of_it(
    runs: Runs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = shutil.copytree(next(iter(runs.values()))[0], tmp_path / "run")
    result = json.loads((folder / "result.json").read_text())
    result["examples"]["source"]["train"] = "train.tsv"
    del result["sha256"]  # the change is meant
    (folder / "result.json").write_text(json.dumps(result))
    monkeypatch.setattr("sys.argv", ["allocation", str(folder), "--out", str(tmp_path / "out")])
    allocation.main()
    told = capsys.readouterr().out
    (head,) = (line for line in told.splitlines() if "layer " in line)
    assert head.split() == ["layer", "matrix", "rank"] and "precision" not in told
