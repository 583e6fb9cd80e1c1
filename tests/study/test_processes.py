"""Several processes at once, and processes that are killed: no torn file, no false failure."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import forkserver, get_context
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Answer
from omegaconf import OmegaConf
from small_studies import local

from experiments.disk.files import STALE, atomic_folder, atomic_write, write_record
from experiments.disk.locks import Busy, exclusive, holder
from experiments.results.result import LEFTOVERS, Result, read_result
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import read
from experiments.settings.sections import build
from experiments.study import conduct as conducting
from experiments.study.backends.base import LOST, explain_exit
from experiments.study.backends.local import Processes
from experiments.study.cells import Cell, last_words
from experiments.study.conduct import Conductor, conduct
from experiments.study.plan import Plan
from experiments.study.progress import Progress

SMALL = ("data.train=64", "data.dev=32", "train.epochs=1", "tracker.mode=disabled",
         "compute.device=cpu")  # fmt: skip


def small(*overrides: str) -> Any:
    return read(compose_config(*SMALL, *overrides))


def plan_of(*overrides: str, **changes: Any) -> Plan:
    known = {"methods": {"lora": []}, "tasks": {"sst2": []}, "seeds": 1,
             "axes": {"variant.lr": [1e-3]}, "overrides": [*SMALL, *overrides]}  # fmt: skip
    section = OmegaConf.merge(OmegaConf.load(ROOT / "conf/study/common.yaml"), known | changes)
    return Plan(build("study", section), "mine", [])


# Files


def write_often(path: Path, number: int, times: int) -> None:
    for _ in range(times):
        write_record(path, {"writer": number, "long": "x" * 5000})


def test_no_reader_sees_half_of_what_several_write(tmp_path: Path) -> None:
    path, context = tmp_path / "study.json", get_context("fork")
    write_often(path, 0, 1)
    writers = [context.Process(target=write_often, args=(path, i, 300)) for i in range(3)]
    for writer in writers:
        writer.start()
    reads = 0
    while any(writer.is_alive() for writer in writers):
        assert len(json.loads(path.read_text())["long"]) == 5000
        reads += 1
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert reads > 10 and [path] == list(tmp_path.iterdir())


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as beside:
        beside.write_text("half")
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    left = tmp_path / ".result.json.0123.unfinished"
    other = tmp_path / ".result.json.4567.unfinished"
    for leftover in (left, other):
        leftover.write_text("half")
    os.utime(left, (time.time() - 2 * STALE,) * 2)
    write_record(path, {})
    assert not left.exists() and other.exists()  # the other's writer may be alive
    with exclusive(tmp_path):
        assert not other.exists()  # not any more: here works one process at a time


def test_a_folder_that_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    left, other = (tmp_path / f".out.{name}.unfinished" for name in ("0123", "4567"))
    for leftover in (left, other):
        leftover.mkdir()
        (leftover / "model.safetensors").write_text("half")
    for path in (left / "model.safetensors", left):
        os.utime(path, (time.time() - 2 * STALE,) * 2)
    (tmp_path / ".out.89ab.unfinished").symlink_to(tmp_path / "precious")
    (tmp_path / "precious").mkdir()
    with atomic_folder(tmp_path / "out") as folder:
        (folder / "model.safetensors").write_text("whole")
    assert not left.exists() and other.exists() and (tmp_path / "precious").exists()
    assert (tmp_path / "out/model.safetensors").read_text() == "whole"


def test_a_name_with_brackets_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "[a]*.json"
    left = tmp_path / ".[a]*.json.0123.unfinished"
    left.write_text("half")
    os.utime(left, (time.time() - 2 * STALE,) * 2)
    write_record(path, {"one": 1})
    assert json.loads(path.read_text())["one"] == 1 and not left.exists()


# A run that was killed when it had only to tidy


@pytest.mark.parametrize("reader", ["the same command", "a study", "whoever reads it"])
def test_what_a_finished_run_left_is_tidied_by_the_next_reader(
    reader: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of()
    (cell,) = plan.refresh()
    run = read(compose_config(*cell.overrides))

    class Killed(BaseException):
        pass

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("experiments.results.result.tidy", killed)
        execute(run, cell.folder)
    (cell.folder / "best-0000002.safetensors").write_text("state")
    (cell.folder / ".checkpoint.safetensors.0123.unfinished").write_text("half")
    assert (cell.folder / "UNFINISHED").exists()
    assert (cell.folder / "checkpoint.safetensors").exists()
    if reader == "the same command":
        assert execute(run, cell.folder).status == "complete"
    elif reader == "a study":
        assert cell.outcome().status == "complete"
    else:
        with exclusive(cell.folder):  # who still works there tidies by himself
            read_result(cell.folder)
            assert (cell.folder / "UNFINISHED").exists()
        read_result(cell.folder)
    assert not [path for pattern in LEFTOVERS for path in cell.folder.glob(pattern)]
    assert not list(cell.folder.glob(".*.unfinished"))


def test_a_reader_without_the_right_to_tidy_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(small(), tmp_path)
    (tmp_path / "UNFINISHED").write_text("not tidied")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refused)
    assert isinstance(read_result(tmp_path), Result)


# Studies


def carry_out(plan: Plan) -> tuple[Conductor, Processes]:
    """A conductor that has started its first cell, and its processes."""
    workers = Processes(local(1))
    conductor = Conductor(plan, workers, Progress())
    conductor.launch()
    return conductor, workers


def wait_until(true: Callable[[], Any], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cell_that_waited_for_another_process_has_not_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of()
    (cell,) = plan.refresh()
    cell.folder.mkdir(parents=True)
    (cell.folder / "output.log").write_text("what the other process printed\n")
    with exclusive(cell.folder):
        # It looked free a moment ago.
        plan.outcomes[cell] = type(cell.outcome())("waiting")
        with monkeypatch.context() as patch:
            patch.setattr(Plan, "refresh", lambda self: [cell])
            conductor, workers = carry_out(plan)
        wait_until(lambda: workers.busy[0][1].exitcode is not None)
        assert workers.busy[0][1].exitcode == Busy.exit_code
    # The other one is killed before anybody looks at what became of this one.
    conductor.collect()
    assert not (cell.folder / "failure.json").exists()
    assert conductor.attempts[cell] == 0
    said = (cell.folder / "output.log").read_text()
    assert said.startswith("what the other process printed\n") and "Another process works" in said
    conductor.run()
    assert cell.outcome().status == "complete"


def test_the_last_words_are_those_of_the_last_process(tmp_path: Path) -> None:
    log = tmp_path / "output.log"
    log.write_text("--- begun by process 1\nIt was full.\n--- begun by process 2\n")
    assert last_words(tmp_path) == ""
    log.write_text(log.read_text() + "Now it is empty.\n")
    assert last_words(tmp_path) == "Now it is empty."


def test_the_process_that_all_are_forked_from_may_be_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of("train.epochs=20", "record.checkpoint_every=0", "record.log_every=1")
    (cell,) = plan.refresh()
    conductor, workers = carry_out(plan)
    wait_until((cell.folder / "checkpoint.safetensors").exists)
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: workers.busy[0][1].exitcode is not None)
    assert workers.busy[0][1].exitcode == LOST
    conductor.collect()
    assert not (cell.folder / "failure.json").exists()
    assert explain_exit(LOST) in capfd.readouterr().out
    wait_until(lambda: holder(cell.folder) is None)  # its orphan, if it lives on
    conductor.run()
    assert cell.outcome().status == "complete"


def test_a_cell_whose_process_is_killed_each_time_fails_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of()
    (cell,) = plan.refresh()
    conductor = Conductor(plan, Processes(local(1)), Progress())
    for attempt in range(1, conducting.ATTEMPTS + 1):
        conductor.attempts[cell] = attempt
        assert not (cell.folder / "failure.json").exists()
        conductor.judge(cell, LOST)
    assert "That happened 3 times" in (cell.outcome().reason or "")


NAMES = ("lora (r=8)", "Größe", "a#b", "lora,8", "it's", "a=b", "[x]", "{a: b}", "${seed}", "null",
         " spaces ", "back\\slash", "new\nline", "1e-3", "true", "💡", "%d", "x" * 80)  # fmt: skip


def test_a_method_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rates = {name: f"variant.lr={1e-3 + 1e-5 * i}" for i, name in enumerate(NAMES)}
    plan = plan_of(methods={name: ["variant=lora", rate] for name, rate in rates.items()},
                   axes={"train.weight_decay": [0.01]})  # fmt: skip
    for cell in plan.refresh():
        config = compose_config(*cell.overrides)
        assert config.tracker.tags[2] == cell.method and config.tracker.group == "mine"
        assert read(config).tracker.tags[2] == cell.method
        assert config.hydra.run.dir == str(cell.folder)


def test_a_study_of_odd_names_is_carried_out_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analysis.report.material import gather

    monkeypatch.chdir(tmp_path)
    methods = {"lora, (r=8)": ["variant=lora"], "it's [x/]": ["variant=bitfit"]}
    assert conduct(plan_of(methods=methods), local(1))
    runs = gather("outputs").tested
    assert set(runs["method"]) == set(methods)
    summary = json.loads(Path("outputs/studies/mine/summary.json").read_text())
    assert [row["method"] for row in summary["rows"]] == list(methods)


def test_a_value_of_an_axis_may_be_any_text(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    odd = ["a b", "c,d", "it's", "[e]", "x=y"]
    plan = plan_of(axes={"tracker.project": odd, "variant.lr": [1e-3]})
    arm = plan.groups["clean", "sst2"][0]
    points = [trial.point for trial in plan.grid_trials(arm, (0, 0))]
    assert [arm.changed(point).tracker.project for point in points] == odd
    assert [compose_config(*arm.overrides, *point).tracker.project for point in points] == odd


def test_two_cells_are_never_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for changes in (
        {"methods": {"lora": [], "mine": ["variant=lora"]}},
        {"tasks": {"sst2": [], "mine": ["task=sst2"]}},
        {"axes": {"tracker.project": ["a", "b"]}},  # changes nothing that comes out
    ):
        with pytest.raises(ValueError, match="have the same settings and are one run"):
            plan_of(**changes).refresh()
    paper = {
        "protocols": ["paper"],
        "tasks": {"sst2": [], "rte": []},
        "start_from": {"rte": "sst2"},
    }
    assert plan_of(**paper).refresh()  # the run that rte begins with may be one of sst2's


@pytest.mark.parametrize("override", ["hydra.run.dir=x", "hydra/launcher=basic", "+hydra.a=1",
                                      "hydra.job.chdir=true", "~hydra.job"])  # fmt: skip
def test_a_study_leaves_hydra_alone(override: str) -> None:
    for place in (
        {"overrides": [override]}, {"methods": {"lora": [override]}},
        {"tasks": {"sst2": [override]}}, {"axes": {override.split("=")[0]: [1]}},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="lie and log where its plan says"):
            plan_of(**place)
    with pytest.raises(ValueError, match="lie and log where its plan says"):
        Plan(plan_of().study, "mine", [override])


def test_the_result_of_another_run_is_not_a_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of()
    (cell,) = plan.refresh()
    execute(small("variant.lr=0.5"), cell.folder)
    outcome = cell.outcome()
    assert outcome.status == "failed" and "variant.lr is 0.5, not 0.001" in str(outcome.reason)
    assert str(cell.folder / "result.json") in str(outcome.reason)
    (cell.folder / "result.json").unlink()
    assert Cell.outcome(cell).status == "waiting"


@pytest.mark.parametrize(
    "changes",
    [{"seeds": 10**9}, {"axes": {"variant.lr": {"decades": 2.0, "points": 10**9}}},
     {"tuning_seeds": 10**9}, {"search": "optuna", "trials": 10**9}, {"max_grid_extensions": 10**9,
      "axes": {"variant.lr": {"decades": 2.0, "points": 3}}}],
)  # fmt: skip
def test_a_study_without_end_is_refused_at_once(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"The study has [\d,]+ cells, and 100,000 are the most"):
        plan_of(**changes)


@pytest.mark.parametrize(
    "axis",
    [
        {"decades": "two", "points": 3}, {"decades": 2.0, "points": 2.5},
        {"decades": True, "points": 3}, {"decades": 1e9, "points": 3},
        {"decades": 2.0, "points": None}, {"points": 3}, [], 3, None,
    ],
)  # fmt: skip
def test_an_axis_that_is_none_is_named(axis: Any) -> None:
    with pytest.raises(ValueError, match=r"study\.axes\.variant\.lr must"):
        plan_of(axes={"variant.lr": axis})


# A disk that fails before the run has begun


@pytest.mark.parametrize("call", ["mkdir", "log", "config"])
def test_a_disk_error_of_the_first_files_is_one_line(
    call: str, shell: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device", "outputs")

    if call == "mkdir":
        monkeypatch.setattr(Path, "mkdir", full)
    elif call == "log":
        monkeypatch.setattr("experiments.disk.folders.open_to_append", full)
    else:
        monkeypatch.setattr("experiments.disk.folders.atomic_write", full)
    answer = shell(*SMALL)
    assert answer.code == 1 and "Traceback" not in answer.err
    assert answer.said == "outputs could not be written: No space left on device."


def test_a_folder_that_cannot_be_made_is_one_line(
    shell: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "outputs").write_text("a file")
    for more in ((), ("-m",), ("study=first",)):
        answer = shell(*more, *SMALL)
        assert answer.code == 1 and "Traceback" not in answer.err, answer.err
        assert "outputs" in answer.said


@pytest.mark.parametrize("asked", [None, "1"])
def test_the_processes_of_a_study_have_the_environment_of_the_user(
    shell: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, asked: str | None
) -> None:
    name, seen = "HYDRA_FULL_ERROR", []
    monkeypatch.delenv(name, raising=False)
    if asked is not None:
        monkeypatch.setenv(name, asked)
    begin = "experiments.study.command.begin"
    monkeypatch.setattr(begin, lambda *_: seen.append(os.environ.get(name)))
    assert not shell("study=first").code
    assert seen == [asked] and os.environ.get(name) == asked


@pytest.mark.slow
def test_a_study_reads_the_code_of_its_own_project(tmp_path: Path) -> None:
    """Whatever lies where it was started, or first on the path of modules."""
    for folder in (tmp_path, tmp_path / "elsewhere"):
        (folder / "experiments").mkdir(parents=True)
        (folder / "experiments" / "__init__.py").touch()
    path = str(tmp_path / "elsewhere")
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "study=first", "~study.tasks.cola",
         "study.seeds=1", "study.axes={variant.lr: {points: 1}}", "backend.max_parallel=2", *SMALL],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": path},
        capture_output=True, text=True,
    )  # fmt: skip
    results = list((tmp_path / "outputs").rglob("result.json"))
    assert len(results) == 2 * 3, done.stderr[-2000:] + done.stdout[-2000:]


def test_the_error_in_full_is_there_for_who_asks(
    shell: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "outputs").write_text("a file")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(OSError, match="outputs"):
        shell(*SMALL)
    assert os.environ["HYDRA_FULL_ERROR"] == "1"
    assert sys.argv
