"""Studies: which cells there are, that all are carried out once, and what is said of them."""

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import Answer
from omegaconf import DictConfig, OmegaConf
from small_studies import SMALL, Folders, asked, folders, grid, local, rate, study

from experiments.data.splits import Data
from experiments.disk.locks import exclusive
from experiments.results.result import read_result
from experiments.running.job import PreparedRun
from experiments.settings.commandline import tell_new_name
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read
from experiments.settings.scalars import literal
from experiments.settings.sections import build
from experiments.stored.summary import TUNING_SEED
from experiments.study import audit, choice, match
from experiments.study import forecast as forecasting
from experiments.study.backends.base import explain_exit
from experiments.study.backends.local import Processes, visible_devices
from experiments.study.cells import Cell, Outcome, Trial
from experiments.study.command import begin, read_sections, restore_plan
from experiments.study.conduct import conduct
from experiments.study.design import log_grid
from experiments.study.forecast import forecast
from experiments.study.plan import Plan
from experiments.study.publish import publish, without_texts
from experiments.study.summary import Row, Summary, difference

ROOT = Path(__file__).parents[2]
__all__ = ["folders"]  # a fixture


def rate_or(cell: Cell, value: float) -> float:
    return -abs(rate(cell) - 0.0005) if cell.point else value


def test_a_log_grid_is_even_and_grows_at_its_ends() -> None:
    assert log_grid(5e-4, 2.0, 5) == [5e-05, 0.000158, 0.0005, 0.00158, 0.005]
    assert log_grid(5e-4, 2.0, 3, below=1, above=2) == [5e-06, 5e-05, 0.0005, 0.005, 0.05, 0.5]
    assert log_grid(5e-4, 2.0, 1) == [0.0005]
    assert log_grid(0.0, 2.0, 5) == log_grid(0.0, 2.0, 5, below=1) == [0.0]


def test_every_method_is_tried_at_equally_many_points_around_its_own_rate() -> None:
    cells = Plan(study(**grid(3, tuning_seeds=2)), "s", []).refresh()
    assert {cell.stage for cell in cells} == {"select"}
    for method, own in (("lora", 5e-4), ("vera", compose_config("variant=vera").variant.lr)):
        mine = [cell for cell in cells if cell.method == method]
        assert sorted({rate(cell) for cell in mine}) == log_grid(own, 2.0, 3)
        assert len(mine) == 6
        assert {cell.seed for cell in mine} == {TUNING_SEED, TUNING_SEED + 1}


def test_the_best_point_is_run_with_every_seed_once_all_trials_are_over(folders: Folders) -> None:
    plan = Plan(study(**grid(3, seeds=4)), "s", [])
    trials = plan.refresh()
    lora = [cell for cell in trials if cell.method == "lora"]
    folders.score(lora[:2], rate)
    assert {cell.stage for cell in plan.refresh()} == {"select"}
    folders.score(lora[2:], rate)
    finals = [cell for cell in plan.refresh() if cell.stage == "test"]
    assert [cell.seed for cell in finals] == [0, 1, 2, 3]
    assert {rate(cell) for cell in finals} == {0.005}
    assert {cell.method for cell in finals} == {"lora"}
    assert plan.expected() == 6 + 8
    assert len(plan.outcomes) == len(plan.refresh()) == 6 + 4


def test_a_point_with_a_diverged_run_is_not_chosen(folders: Folders) -> None:
    plan = Plan(study(**grid(3, tuning_seeds=2)), "s", [])
    folders.score(plan.refresh(), lambda c: None if (rate(c), c.seed) == (0.005, 1000) else rate(c))
    chosen = {
        rate(cell) for cell in plan.refresh() if (cell.stage, cell.method) == ("test", "lora")
    }
    assert chosen == {0.0005}


def test_a_method_of_which_nothing_succeeds_has_no_final_runs(folders: Folders) -> None:
    plan = Plan(study(**grid(3)), "s", [])
    folders.score(plan.refresh(), lambda cell: None)
    assert {cell.stage for cell in plan.refresh()} == {"select"}


def test_grids_grow_for_all_methods_alike_while_a_best_point_lies_at_an_edge(
    folders: Folders,
) -> None:
    plan = Plan(study(**grid(3, max_grid_extensions=2)), "s", [])
    # LoRA is best where the grid would grow twice, VeRA in the middle of it.
    peak = {
        "lora": 0.05,
        "vera": log_grid(float(compose_config("variant=vera").variant.lr), 2, 3)[1],
    }

    def near(cell: Cell) -> float:
        return -abs(rate(cell) - peak[cell.method])

    for extra in (0, 1, 2):
        cells = [cell for cell in plan.refresh() if cell.stage == "select"]
        assert len(cells) == 2 * (3 + extra)
        assert all(cell.stage == "select" for cell in plan.refresh())
        folders.score(cells, near)
    finals = [cell for cell in plan.refresh() if cell.stage == "test"]
    assert {(cell.method, rate(cell)) for cell in finals} == set(peak.items())


def test_the_paper_protocol_starts_tasks_from_the_adapter_of_another(folders: Folders) -> None:
    settings = study(
        **grid(3), protocols=["paper"], tasks={"rte": [], "sst2": []}, start_from={"rte": "mnli"}
    )
    plan = Plan(settings, "s", [])
    first = plan.refresh()
    starts = [cell for cell in first if cell.stage == "start"]
    assert {(cell.task, cell.method) for cell in starts} == {("mnli", "lora"), ("mnli", "vera")}
    assert not [cell for cell in first if cell.task == "rte"]
    folders.score(starts, lambda cell: 0.5)
    begun = [cell for cell in plan.refresh() if cell.task == "rte"]
    assert len(begun) == 6
    folder = starts[0].folder
    assert all(f"start={folder}" in c.overrides for c in begun if c.method == starts[0].method)


def test_a_cell_lies_where_its_command_would_put_it() -> None:
    plan = Plan(study(**grid(3)), "s", ["train.epochs=3"])
    for cell in plan.refresh()[::2]:
        assert compose_config(*cell.overrides).hydra.run.dir == str(cell.folder)
        assert "train.epochs=3" in cell.overrides


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": None}, r"study\.methods must name at least one\."),
        ({"protocols": ["dirty"]}, r"study\.protocols must be of clean, paper, got 'dirty'\."),
        (
            {"search": "random"},
            r"study\.search must be one of grid, sample, optuna, got",
        ),
        ({"seeds": 0}, r"study\.seeds must be positive, got 0\."),
        ({"overrides": ["seed=3"]}, r"A study chooses seed itself, so 'seed=3' has no place"),
        (
            {"axes": {"variant.rank": [4, 8, 4]}},
            r"study\.axes\.variant\.rank has a value twice: variant\.rank=4",
        ),
        ({"axes": {"variant.rank": []}}, r"study\.axes\.variant\.rank must be a list of values"),
        (
            {"axes": {"variant.rank": [4, 8]}, "max_grid_extensions": 1},
            r"study\.max_grid_extensions needs a grid of a single axis",
        ),
    ],
)
def test_a_study_that_makes_no_sense_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        section = OmegaConf.merge(OmegaConf.load(ROOT / "conf/study/common.yaml"), SENSIBLE)
        for key, value in changes.items():
            section[key] = value if value is not None else {}
        build("study", section)


SENSIBLE = {"methods": {"lora": []}, "tasks": {"sst2": []}}


def test_ranks_are_chosen_so_that_methods_train_as_many_parameters() -> None:
    # AdaLoRA changes its rank itself.
    methods = {"lora": [], "vera": [], "dora": ["variant.rank=1"], "bitfit": [], "adalora": []}
    plan = Plan(study(methods=methods, match="lora"), "s", [])
    arms = {arm.method: arm for arm in plan.groups["clean", "sst2"]}
    counts = {method: match.count_trained(arm.config) for method, arm in arms.items()}
    assert counts["dora"] == pytest.approx(counts["lora"], rel=0.07)
    assert counts["vera"] == pytest.approx(counts["lora"], rel=0.01)
    assert arms["dora"].config.variant.rank in (7, 8)  # its magnitudes count too
    for method in ("bitfit", "adalora"):
        assert not any(o.startswith("variant.rank") for o in arms[method].overrides)
    with pytest.raises(ValueError, match=r"study\.match must be one of lora, vera, got 'dora'\."):
        study(match="dora")


def test_an_axis_can_be_a_list_and_hold_null() -> None:
    axes = {"variant.lr": [1e-4, 1e-3], "train.clip": [None, 1.0], "train.examples": [32]}
    (arm,) = Plan(study(methods={"lora": []}, axes=axes), "s", []).groups["clean", "sst2"]
    cells = Plan(study(methods={"lora": []}, axes=axes), "s", []).refresh()
    points = {cell.point for cell in cells}
    assert (
        len(points) == 4 and ("variant.lr=0.0001", "train.clip=null", "train.examples=32") in points
    )
    train = read(arm.changed(("train.clip=null", "train.examples=32"))).train
    assert train.clip is None and train.examples == 32
    assert compose_config(*arm.overrides, "train.clip=null").train.clip is None


@pytest.mark.parametrize("search", ["grid", "optuna"])
def test_a_dry_run_tells_the_runs_before_there_is_any(
    search: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    both = {"protocols": ["clean", "paper"], "start_from": {"rte": "mnli"}, "search": search}
    methods = {"lora": [], "bitfit": []}
    forecast(Plan(study(methods=methods, tasks={"rte": []}, **grid(3), **both), "s", []), local())
    # Of each method one on MNLI, and under either protocol three trials and five seeds.
    assert "34 runs; about" in capsys.readouterr().out
    assert not (tmp_path / "outputs").exists()


def test_a_forecast_knows_what_trials_and_final_runs_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen: list[tuple[str, int]] = []
    monkeypatch.setattr(forecasting, "step_seconds", lambda job, threads: 7.0)

    def evaluate(job: object, run: Run, data: Data, threads: int) -> float:
        seen.append((run.task.primary, sum(map(len, data.score.values()))))
        return 100.0 * len(seen)

    monkeypatch.setattr(forecasting, "evaluation_seconds", evaluate)
    settings = study(
        **grid(3), methods={"lora": []}, tasks={"e2e": []}, overrides=[*SMALL, "data.test=20"],
        trial_overrides=["task.metrics=[token_probability]", "train.epochs=1"],
    )  # fmt: skip
    plan = Plan(settings, "s", [])
    (arm,) = (arm for arms in plan.groups.values() for arm in arms)
    found = forecasting.estimate(plan, arm, 3, 5, 1)
    assert [metric for metric, _ in seen] == ["token_probability", "BLEU"]
    assert seen[0][1] < seen[1][1]
    trial, final = found.seconds
    assert final == pytest.approx(trial + 100 + 7 * found.steps)  # two epochs, and not one
    assert found.total_seconds == pytest.approx(3 * trial + 5 * final)


def test_a_forecast_includes_what_a_method_does_before_its_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    times: list[float] = []
    measure = forecasting.preparation_seconds

    def keep(job: PreparedRun, threads: int) -> float:
        times.append(measure(job, threads))
        return times[-1]

    monkeypatch.setattr(forecasting, "preparation_seconds", keep)
    plan = Plan(study(methods={"lora": [], "lora_ga": []}, tasks={"rte": []}, **grid(1)), "s", [])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a method whose `prepare` is not called warns
        for arm in (arm for arms in plan.groups.values() for arm in arms):
            found = forecasting.estimate(plan, arm, 1, 1, 1)
            assert found.seconds[0] > forecasting.START + times[-1]
    assert times[1] > 10 * times[0]


def test_the_cells_of_a_study_find_settings_in_a_folder_of_ones_own(
    shell: Callable[..., Answer], tmp_path: Path
) -> None:
    own = tmp_path / "it's [my] settings, v=1"
    for name in ("variant", "study"):
        (own / name).mkdir(parents=True)
    (own / "variant/mine.yaml").write_text("defaults: [lora, _self_]\nalpha: 3.0\n")
    settings = {"methods": {"mine": []}, "tasks": {"sst2": []}, "overrides": SMALL, "seeds": 1}
    axes = {"axes": {"variant.lr": [1e-3]}, "defaults": ["common", "_self_"]}
    OmegaConf.save(settings | axes, own / "study/mine.yaml")
    answer = shell("--config-dir", str(own), "study=mine", "backend.max_parallel=1")
    assert answer.code == 0, answer.err
    results = [read_result(path.parent) for path in Path("outputs").rglob("result.json")]
    assert [result.config["variant"]["alpha"] for result in results] == [3.0, 3.0]
    with pytest.raises(ValueError, match=r"folders names .* --trust lets it"):
        restore_plan("mine")
    assert all(plan_cell.settled for plan_cell in again_outcomes("mine"))


def again_outcomes(name: str) -> list[Outcome]:
    """Where the cells of a study of one's own stand, by its name."""
    plan, _ = restore_plan(name, trusted=True)
    return [plan.outcome(cell) for cell in plan.refresh()]


def test_cells_are_dealt_to_the_gpus_that_are_to_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    workers, begun = Processes(local(None, per_gpu=2)), []

    class Process:
        def __init__(self, target: Callable, args: tuple) -> None:
            begun.append(args[-1])

        def start(self) -> None:
            pass

    monkeypatch.setattr(workers.context, "Process", Process)
    assert workers.slots == 4 and workers.free == [0, 1, 2, 3]
    cells = Plan(study(), "s", []).refresh()
    for cell in cells[:4]:
        workers.start(cell)
    assert [limits.gpu for limits in begun] == [0, 1, 0, 1] and not workers.free
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [visible_devices(0), visible_devices(1)] == ["3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_devices(1) == "1"


@pytest.mark.parametrize(
    ("points", "best", "expected"),
    [
        (["variant.lr=0.1 variant.rank=2", "variant.lr=0.2 variant.rank=2",
          "variant.lr=0.3 variant.rank=2"], 1, 0),
        (["variant.lr=0.1 variant.rank=4", "variant.lr=0.1 variant.rank=8",
          "variant.lr=0.2 variant.rank=4", "variant.lr=0.2 variant.rank=8",
          "variant.lr=0.3 variant.rank=4", "variant.lr=0.3 variant.rank=8"], 1, -1),
        (["task=sst2", "task=cola", "task=rte"], 0, 0),
        (["variant.lr=1e-05", "variant.lr=0.0001"], 1, 1),
    ],
)  # fmt: skip
def test_the_edge_is_that_of_an_axis_of_numbers(
    points: list[str], best: int, expected: int
) -> None:
    trials = [Trial(tuple(p.split()), (), float(i == best)) for i, p in enumerate(points)]
    assert choice.edge(trials) == expected


def test_a_setting_whose_text_has_an_and_is_one_setting() -> None:
    same = {"task.labels": ["black and white, grey"], "code": ["a"]}
    found = audit.remarks({"lora": same, "vera": same, "dora": same | {"code": ["a", "b"]}})
    assert found == {"lora": [], "vera": [], "dora": ["code a and b (others a)"]}
    assert audit.remarks({"lora": {"code": ["a", "b"]}}) == {
        "lora": ["its runs differ in code: a and b"]
    }


def test_optuna_chooses_from_lists_of_anything(folders: Folders) -> None:
    pytest.importorskip("optuna", reason="the extra optuna is absent")
    axes = {"variant.rank": [4, 16], "variant.targets": [["query"], ["query", "value"]]}
    plan = Plan(study(methods={"lora": []}, search="optuna", axes=axes), "s", [])
    for _ in range(4):
        cells = plan.refresh()
        folders.score(cells, lambda cell: 0.5)
        plan.outcomes.clear()
    points = {cell.point for cell in plan.refresh() if cell.stage == "select"}
    assert points <= {
        (f"variant.rank={rank}", f"variant.targets={targets}")
        for rank in (4, 16)
        for targets in ('["query"]', '["query", "value"]')
    }


def test_a_start_that_failed_hides_no_other_method(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Summary, "seconds", lambda self, cell: 0.0)
    both = {
        "protocols": ["paper"],
        "start_from": {"sst2": "mnli"},
        "max_grid_extensions": 1,
        "seeds": 1,
    }
    plan = Plan(study(**grid(3), **both), "s", [])
    for _ in range(4):
        plan.outcomes.clear()
        cells = [cell for cell in plan.refresh() if cell.stage != "test"]
        folders.score(cells, lambda cell: None if cell.method == "vera" else rate_or(cell, 0.5))
    rows = {row.method: row for rows in Summary(plan).groups.values() for row in rows}
    assert rows["lora"].tuned == 0 and rows["lora"].trials == 3
    assert rows["vera"].trials == 0 and "diverged" in rows["vera"].lost[0]


STUDIES = sorted(path.stem for path in (ROOT / "conf/study").glob("*.yaml"))


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "common"])
def test_every_study_file_composes_into_cells(name: str) -> None:
    data = ["data=local", "data.dir=DATA"] if name.startswith("minilm") else []
    plan = Plan(build("study", compose_config(f"study={name}", *data).study), name, data)
    for arm in (arms[0] for arms in plan.groups.values()):
        assert read(arm.config).train.epochs > 0


def test_an_axis_that_is_no_setting_is_refused() -> None:
    with pytest.raises(ValueError, match=r"study\.axes: there is no setting 'variant\.rnak'\."):
        Plan(study(axes={"variant.rnak": [4]}), "s", []).refresh()


def test_optuna_asks_for_the_same_points_after_the_same_scores(folders: Folders) -> None:
    plan = Plan(study(**grid(5), search="optuna", trials=7), "s", [])
    seen: list[str] = []
    for _ in range(7):
        cells = [cell for cell in plan.refresh() if (cell.stage, cell.method) == ("select", "lora")]
        folders.score(cells, lambda c: None if rate(c) > 0.002 else -abs(rate(c) - 0.001))
        seen = [cell.point[0] for cell in cells]
    assert len(set(seen)) == 7
    assert seen[0] == "variant.lr=0.0005"
    assert all(5e-5 <= float(point.partition("=")[2]) <= 5e-3 for point in seen)
    again_ = Plan(plan.study, "s", [])
    assert [cell.point[0] for cell in again_.refresh() if cell.method == "lora"][:7] == seen
    assert [cell for cell in again_.refresh() if (cell.stage, cell.method) == ("test", "lora")]


# What is carried out.


def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **changes) -> Plan:
    monkeypatch.chdir(tmp_path)
    known = {"methods": {"lora": [], "bitfit": []}, "seeds": 2} | grid(2)
    known |= {"parameters": 4.0}
    return Plan(study(**known | changes), "mine", [])


def table(plan: Plan) -> list:
    """What a study says, but for what its runs have cost."""
    rows = [row for rows in Summary(plan).groups.values() for row in rows]
    return [replace(row, tuning_seconds=0.0, seconds=0.0) for row in rows]


def test_a_study_is_carried_out_once_and_says_what_came_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plan = begun(tmp_path, monkeypatch)
    assert conduct(plan, local())
    said = capfd.readouterr().out
    assert "every method was treated alike" in said
    results = {path: path.stat().st_mtime_ns for path in Path("outputs").rglob("result.json")}
    assert len(results) == 2 * (2 + 2)
    content = json.loads(Path("outputs/studies/mine/summary.json").read_text())
    assert [row["method"] for row in content["rows"]] == ["lora", "bitfit"]
    for row in content["rows"]:
        assert row["trials"] == 2
        assert len(row["scores"]) == 2
        assert row["score"] == pytest.approx(sum(row["scores"]) / 2)
        assert row["tuned"] == max(score for _, score in row["curve"])
        assert row["edge"] in ("at the low edge", "at the high edge")
    place, _ = publish(plan)
    kept = sorted(path.name for path in place.rglob("*") if path.is_file())
    files = ("history.jsonl", "predictions.parquet", "result.json")
    assert kept == [*(file for file in files for _ in range(8)), "summary.json"]
    again_ = Plan(plan.study, "mine", [])
    assert conduct(again_, local())
    assert results == {path: path.stat().st_mtime_ns for path in results}
    assert table(again_) == table(plan)


def test_a_cell_that_fails_or_diverges_is_recorded_and_harms_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    methods = {
        "lora": [],
        "mistaken": ["variant=lora", "variant.targets=[qeury]"],
        "hot": ["variant=lora", "variant.lr=1e9", "train.divergence_ratio=2"],
        "large": ["variant=full", "train.batch_size=60", "data.train=60", "train.max_length=128"],
    }
    plan = begun(tmp_path, monkeypatch, methods=methods, seeds=1, **grid(1))
    assert not conduct(plan, local())
    statuses = {
        cell.method: plan.outcome(cell) for cell in plan.refresh() if cell.stage == "select"
    }
    assert statuses["lora"].status == "complete"
    assert statuses["mistaken"].status == "failed"
    assert "No linear layer is named 'qeury'. Did you mean 'query'?" in str(
        statuses["mistaken"].reason
    )
    assert statuses["hot"].status == "diverged"
    assert "mistaken" in capfd.readouterr().out
    rows = {row.method: row for row in table(plan)}
    assert rows["lora"].score is not None
    assert rows["mistaken"].score is None
    assert any("trained parameters" in remark for remark in rows["large"].remarks)
    assert any("train.batch_size 60 (others 16)" in remark for remark in rows["large"].remarks)


def test_a_cell_without_memory_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    methods = {
        "lora": ["train.batch_size=30000", "data.train=30000", "compute.engine=transformers"]
    }
    plan = begun(tmp_path, monkeypatch, methods=methods, seeds=1, **grid(1))
    assert not conduct(plan, local(2, memory=1.0))
    (outcome,) = plan.outcomes.values()
    assert outcome.status == "failed"
    assert "There is too little memory for this run" in str(outcome.reason)


def test_what_is_published_holds_no_text() -> None:
    row = {"split": "test", "id": 0, "source": "a", "label": ["b", "c"], "prediction": "d"}
    frame = pd.DataFrame([row | {"BLEU": [1.0, 2.0], "outputs": np.array([0.5])}])
    assert list(without_texts(frame)) == ["split", "id", "BLEU", "outputs"]
    labelled = pd.DataFrame({"split": ["dev"], "label": [1], "prediction": [0]})
    assert list(without_texts(labelled)) == ["split", "label", "prediction"]


def test_a_folder_another_process_works_in_is_left_to_it(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "run"),
        pytest.raises(ValueError, match="Another process works in"),
        exclusive(tmp_path / "run"),
    ):
        pass


def test_what_a_signal_did_is_said() -> None:
    assert (
        explain_exit(-9)
        == "The process was killed by SIGKILL. Perhaps the machine was out of memory."
    )
    assert explain_exit(3) == "The process ended with exit code 3."


def carried_out(folder: Path) -> None:
    """What `python run.py study=NAME` does, for the study told in a folder."""
    os.chdir(folder)
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 (until the end)
    begin(asked(OmegaConf.load("study.yaml"), 2), "mine", [])


def launch(folder: Path) -> BaseProcess:
    """A process of its own that carries out a study, without the seconds that importing takes."""
    process = get_context("forkserver").Process(target=carried_out, args=(folder,))
    process.start()
    return process


@pytest.mark.slow
def test_a_study_that_is_killed_and_then_shared_comes_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"methods": {"lora": [], "bitfit": []}, "tasks": {"sst2": []}, "seeds": 1}
    known |= {"overrides": [*SMALL, "train.epochs=10", "record.checkpoint_every=0"]} | grid(1)
    section = OmegaConf.merge(OmegaConf.load(ROOT / "conf/study/common.yaml"), known)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        folder.mkdir()
        OmegaConf.save(section, folder / "study.yaml")
    monkeypatch.chdir(whole)
    unbroken = Plan(build("study", OmegaConf.load("study.yaml")), "mine", [])
    assert conduct(unbroken, local())
    process = launch(broken)
    while not list(broken.rglob("checkpoint.safetensors")):
        assert process.is_alive(), "the study ended before it could be killed"
        time.sleep(0.01)
    process.kill()
    process.join()
    shared = [launch(broken) for _ in range(2)]
    for process in shared:
        process.join()
    assert [process.exitcode for process in shared] == [0, 0]
    monkeypatch.chdir(broken)
    assert table(restore_plan("mine")[0]) == table(unbroken)
    results = [read_result(path.parent) for path in Path("outputs").rglob("result.json")]
    assert len(results) == 4
    assert 1 <= sum(result.cost["restarts"] for result in results) <= 2  # of what was killed
    assert not list(Path("outputs").rglob("failure.json"))


def test_what_a_protocol_flatters_is_told_seed_by_seed() -> None:
    clean = Row("clean", "rte", "lora", seeds=[0, 1, 3], scores=[0.5, 0.6, 0.9])
    paper = Row("paper", "rte", "lora", seeds=[1, 0, 2], scores=[0.63, 0.51, 0.1])
    found = difference(clean, paper)
    assert found["points"] == pytest.approx(2.0)
    # t(0.975, 1) is 12.706, and the standard error of 1 and 3 is 1.
    assert found["interval"] == pytest.approx([2.0 - 12.706, 2.0 + 12.706], abs=1e-3)


# The audit.


def test_what_differs_from_the_others_is_remarked_on_its_row() -> None:
    alike = {"targets": ["query, value"], "steps": ["10"]}
    other = {"c": alike | {"targets": ["query"]}, "d": {"steps": ["10", "12"]}}
    found = audit.remarks({"a": alike, "b": alike, **other})
    assert found == {
        "a": [],
        "b": [],
        "c": ["targets query (others query, value)"],
        "d": ["steps 10 and 12 (others 10)"],
    }
    assert audit.remarks({"a": {"code": ["x", "y"]}, "b": {"code": ["x", "y"]}}) == {
        "a": ["its runs differ in code: x and y"],
        "b": ["its runs differ in code: x and y"],
    }


def test_sizes_outside_the_tolerance_are_remarked_on() -> None:
    found = audit.unequal({"a": 100, "b": 110, "c": 1000, "d": 10, "e": 105}, 2.0)
    assert found["a"] == found["b"] == found["e"] == []
    assert found["c"] == ["1,000 trained parameters, 9.52 times more than e (105)"]
    assert found["d"] == ["10 trained parameters, 10.5 times fewer than e (105)"]


def test_the_scale_counts_the_root_of_the_rank_where_it_is_so() -> None:
    assert audit.scale({"alpha": 16.0, "rank": 4}) == 4.0
    assert audit.scale({"alpha": 16.0, "rank": 4, "rslora": True}) == 8.0


def test_ties_go_to_the_first_point(folders: Folders) -> None:
    plan = Plan(study(**grid(3)), "s", [])
    folders.score(plan.refresh(), lambda cell: 0.5)
    plan.refresh()
    arm = plan.groups["clean", "sst2"][0]
    chosen = choice.best(plan.trials([arm])["lora"])
    assert chosen is not None and chosen.point == ("variant.lr=5e-05",)


def test_former_names_of_settings_in_a_study_are_told_and_work(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tell_new_name.cache_clear()
    found = study(
        overrides=["train.lean=true"], axes={"train.explode": [5.0]},
        own_axes={"lora": {"train.snapshots": [1]}},
    )  # fmt: skip
    assert found.overrides == ["compute.recompute_mlp=true"]
    assert found.axes_of("lora") == {"train.divergence_ratio": [5.0], "record.snapshots": [1]}
    said = capsys.readouterr().err
    for name in ("train.lean", "train.explode", "train.snapshots"):
        assert f"{name} is called " in said


def test_a_study_whose_file_has_former_settings_takes_them_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tell_new_name.cache_clear()
    kept: list = []
    monkeypatch.setattr(
        "experiments.study.conduct.conduct", lambda plan, backend: kept.append(backend) or True
    )
    section = OmegaConf.load(ROOT / "conf/study/common.yaml")
    section = OmegaConf.merge(section, {"methods": {"lora": []}, "tasks": {"sst2": []}, "cells": 3})
    begin(asked(section), "mine", [])
    plan, backend = restore_plan("mine")
    assert kept == [backend] and backend.max_parallel == 3 and plan.study.methods == {"lora": []}
    assert "study.cells is called backend.max_parallel now" in capsys.readouterr().err


def test_a_reference_in_an_override_means_the_model_of_the_run() -> None:
    config = compose_config("study=first")
    config.study.tasks = {"e2e": []}
    config.study.methods = {"lora": ["variant.targets=${model.linears.all}"], "vera": []}
    config.study.overrides = ["train.batch_size=${model.linears.none}"]
    config.study.seeds = "${study.tuning_seeds}"
    sections = read_sections(config)
    assert sections["study"]["seeds"] == config.study.tuning_seeds
    assert sections["study"]["overrides"] == ["train.batch_size=${model.linears.none}"]
    sections["study"]["overrides"] = SMALL
    plan = Plan(build("study", DictConfig(literal(sections["study"]))), "s", [])
    targets = {
        arm.method: list(arm.config.variant.targets)
        for arms in plan.groups.values()
        for arm in arms
    }
    assert targets["lora"] == list(compose_config("task=e2e").model.linears.all)
    assert targets["lora"] != list(config.model.linears.all)
