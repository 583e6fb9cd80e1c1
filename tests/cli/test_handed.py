"""Folders that somebody handed over: nothing in them runs, is looked up, or is written through."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Answer
from stored_runs import merged

from analysis import geometry
from analysis import load as loading
from experiments import predict
from experiments.adapters import __main__ as adapters
from experiments.disk.files import CHECKSUM
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import read
from experiments.stored import kinds
from experiments.study import __main__ as study
from experiments.study.command import restore_plan

SMALL = ("data.train=64", "data.dev=32", "train.epochs=1", "tracker.mode=disabled")
EVIL = """
import os, pathlib
pathlib.Path(os.environ["MARK"]).write_text("ran")
from dataclasses import dataclass
from variants.lora import LoRA
@dataclass(frozen=True, kw_only=True)
class Evil(LoRA):
    pass
"""


@pytest.fixture(scope="session")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("handed")
    execute(read(compose_config(*SMALL)), folder)
    return folder


@pytest.fixture
def handed(run_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run in a working folder with modules beside it that leave a mark when imported."""
    shutil.copytree(run_once, tmp_path / "work/run")
    for name in ("evil.py", "evil_package/inner.py", "run/evil_inside.py"):
        path = tmp_path / "work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(EVIL)
    (tmp_path / "work/evil_package/__init__.py").write_text(EVIL)
    monkeypatch.setenv("MARK", str(tmp_path / "mark"))
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.syspath_prepend(str(tmp_path / "work"))
    monkeypatch.syspath_prepend(str(tmp_path / "work/run"))
    return tmp_path / "work/run"


def edit(path: Path, *changes: dict[str, Any]) -> None:
    """Change a stored file as whoever hands it over would: its checksum is gone."""
    content = json.loads(path.read_text())
    content.pop(CHECKSUM, None)
    path.write_text(json.dumps(merged(content, *changes)))


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """A command line of a module, in this process."""

    def call(module: Any, *words: object) -> Answer:
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        capfd.readouterr()
        code = 0
        try:
            module.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
            if isinstance(stop.code, str):
                print(stop.code, file=sys.stderr)
        return Answer(code, *capfd.readouterr())

    return call


READERS: dict[str, Callable[[Path], tuple[Any, ...]]] = {
    "inspect": lambda run: (adapters, "inspect", run),
    "merge": lambda run: (adapters, "merge", run, run.parent / "merged"),
    "export": lambda run: (adapters, "export", run, run.parent / "exported"),
    "predict": lambda run: (predict, run, "--text", "a fine film"),
    "geometry": lambda run: (geometry, run, "--out", run.parent / "geometry"),
}
CLASSES = ("evil.Evil", "evil_package.inner.Evil", "evil_inside.Evil", "tests.test_handed.Evil",
           "variants.lora.Variant", "os.system", "..", "", "lora.LoRA")  # fmt: skip


@pytest.mark.parametrize("reader", READERS)
def test_a_class_that_only_a_file_names_is_not_imported(
    reader: str, handed: Path, command: Callable[..., Answer], tmp_path: Path
) -> None:
    for name in CLASSES:
        for key in (kinds.KIND, kinds.TARGET):
            for section in ("variant", "model"):
                about = json.loads((handed / "adapter.json").read_text())
                about[section].pop(kinds.KIND, None)
                about[section].pop(kinds.TARGET, None)
                (handed / "adapter.json").write_text(json.dumps(about))
                edit(handed / "adapter.json", {section: {key: name}})
                edit(handed / "result.json", {"config": {section: {key: name}}})
                answer = command(*READERS[reader](handed))
                assert answer.code != 0 and answer.err.count("\n") == 1, answer.err
                assert answer.err.startswith("error: ") and ".json" in answer.err
                assert not (tmp_path / "mark").exists(), name
                edit(handed / "adapter.json", {section: {key: "lora" if section == "variant" else
                                                         "shipped"}})  # fmt: skip


def test_only_the_users_own_word_imports_a_class(
    handed: Path, command: Callable[..., Answer], tmp_path: Path
) -> None:
    about = json.loads((handed / "adapter.json").read_text())
    about["variant"][kinds.KIND] = "evil.Evil"
    del about[CHECKSUM]
    (handed / "adapter.json").write_text(json.dumps(about))
    (handed / "result.json").unlink()
    assert "evil.Evil" in command(adapters, "inspect", "--trust", handed).out
    assert (tmp_path / "mark").read_text() == "ran"


@pytest.mark.parametrize(
    "package", ["evil_package.inner/weights", "evil.inner/x", "evil_package/w"]
)
def test_a_package_that_carries_weights_is_found_without_being_imported(
    package: str, handed: Path, command: Callable[..., Answer], tmp_path: Path
) -> None:
    (handed / "result.json").unlink()
    edit(handed / "adapter.json", {"model": {"package": package, "path": ""}})
    answer = command(adapters, "merge", handed, handed.parent / "merged")
    assert answer.code != 0 and answer.err.count("\n") == 1, answer.err
    assert not (tmp_path / "mark").exists()


def test_a_task_in_a_result_names_no_class_either(
    handed: Path, command: Callable[..., Answer], tmp_path: Path
) -> None:
    for change in (
        {"task": {kinds.KIND: "evil.Evil"}},
        {"data": {kinds.TARGET: "evil.Evil", kinds.KIND: "evil.Evil"}},
        {"task": {kinds.KIND: "planted", "model": {kinds.TARGET: "evil.Evil"}}},
    ):
        edit(handed / "result.json", {"config": change})
        answer = command(predict, handed, "--text", "a fine film")
        assert answer.code != 0 and answer.err.count("\n") == 1, answer.err
        assert "result.json" in answer.err and not (tmp_path / "mark").exists()


def test_references_in_files_are_text(handed: Path, command: Callable[..., Answer]) -> None:
    secret = "${oc.env:SECRET_TOKEN}"
    for key in ("name", "path"):
        edit(handed / "adapter.json", {"model": {key: secret}})
        if key == "name":
            edit(handed / "result.json", {"config": {"model": {key: secret}}})
        for reader in READERS.values():
            answer = command(*reader(handed))
            assert "hunter2" not in answer.out + answer.err
    answer = command(adapters, "inspect", handed)
    assert secret in answer.out
    edit(handed / "result.json", {"label": {"variant": secret}})
    answer = command(loading, handed)
    assert answer.code == 0 and "oc.env" in answer.out and "hunter2" not in answer.out


def test_beginning_with_a_handed_run_imports_nothing(
    handed: Path, shell: Callable[..., Answer], tmp_path: Path
) -> None:
    about = json.loads((handed / "adapter.json").read_text())
    about["variant"][kinds.KIND] = "evil.Evil"
    (handed / "adapter.json").write_text(json.dumps(about))
    answer = shell(f"start={handed}", *SMALL, "seed=1")
    assert answer.code != 0 and "Traceback" not in answer.err
    assert "adapter.json" in answer.said and not (tmp_path / "mark").exists()


# Studies


def study_file(folder: Path, **changes: Any) -> None:
    """A study that was begun, as somebody might hand it over."""
    content = {
        "name": "mine",
        "study": {
            kinds.TARGET: "experiments.study.design.Study",
            "methods": {"lora": []}, "tasks": {"sst2": []}, "overrides": [*SMALL], "seeds": 1,
            "axes": {"variant.lr": [1e-3]}, "cells": 1,
        },
        "overrides": [],
    }  # fmt: skip
    path = folder / "outputs/studies/mine/study.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(merged(content, changes)))


HOSTILE: dict[str, dict[str, Any]] = {
    "another study": {"study": {kinds.TARGET: "evil.Evil"}},
    "a class": {"study": {"methods": {"lora": ["variant._target_=evil.Evil"]}}},
    "a class in a dictionary": {"overrides": ["variant={_target_:evil.Evil}"]},
    "a class beside": {"study": {"overrides": ["+task.more={_target_:evil.Evil}"]}},
    "a class on an axis": {"study": {"axes": {"variant._target_": ["evil.Evil"]}}},
    "a kind": {"overrides": ["+variant._kind_=evil.Evil"]},
    "settings elsewhere": {"overrides": ["hydra.searchpath=[file:///tmp]"]},
    "folders": {"folders": ["hydra.searchpath=[file:///tmp]"]},
    "a secret": {"overrides": ["tracker.project=${oc.env:SECRET_TOKEN}"]},
    "a secret inside": {"overrides": ["tracker.project=${oc.decode:${oc.env:SECRET_TOKEN}}"]},
    "a secret choice": {"study": {"methods": {"x": ["variant=${oc.env:SECRET_TOKEN}"]}}},
    "a secret name": {"study": {"methods": {"${oc.env:SECRET_TOKEN}": ["variant=lora"]}}},
    "a log": {"overrides": ["hydra.job_logging.handlers.file.filename=victim"]},
    "a log in a method": {"study": {"methods": {"lora": ["hydra.run.dir=victim"]}}},
    "a log by its group": {"study": {"tasks": {"sst2": ["hydra/job_logging=stdout"]}}},
    "a log on an axis": {"study": {"axes": {"hydra.run.dir": ["victim"]}}},
    "added": {"overrides": ["++hydra.run.dir=victim"]},
    "a file elsewhere": {"study": {"methods": {"x": ["variant=../../evil"]}}},
    "a file in quotes": {"study": {"tasks": {"x": ["task='../../evil'"]}}},
    "a file by its place": {"overrides": ["train=/tmp/evil"]},
    "uploads": {"overrides": ["tracker.mode=online"]},
    "uploads of trials": {"study": {"trial_overrides": ["tracker.mode=online"]}},
    "uploads by an axis": {"study": {"own_axes": {"lora": {"tracker.mode": ["online"]}}}},
}


@pytest.mark.parametrize("verb", ["status", "resume", "failed", "publish"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_handed_study_can_only_choose(
    what: str, verb: str, handed: Path, command: Callable[..., Answer], tmp_path: Path
) -> None:
    folder = handed.parent
    (folder / "victim").write_text("precious")
    study_file(folder, **HOSTILE[what])
    answer = command(study, verb, "mine")
    assert answer.code != 0 and answer.err.count("\n") == 1, answer.err
    assert "study.json: " in answer.err and "hunter2" not in answer.out + answer.err
    assert (folder / "victim").read_text() == "precious"
    assert not (tmp_path / "mark").exists()
    assert not list(folder.rglob("outputs/mini/**/result.json"))


def test_a_trusted_study_may_name_a_class(handed: Path, command: Callable[..., Answer]) -> None:
    study_file(handed.parent, study={"methods": {"lora": ["variant._target_=evil.Evil"]}})
    answer = command(study, "status", "mine", "--trust")
    assert answer.code == 0, answer.err
    assert "2 waiting" in answer.out or "1 waiting" in answer.out


def test_the_published_study_is_as_it_was(
    command: Callable[..., Answer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "results/minilm_glue", tmp_path / "outputs")
    monkeypatch.chdir(tmp_path)
    answer = command(study, "status", "minilm_glue")
    assert answer.code == 0, answer.err
    assert "234 complete" in answer.out, answer.out[:300]


# Links


def outside(tmp_path: Path) -> Path:
    path = tmp_path / "precious"
    path.write_text("precious")
    return path


@pytest.mark.parametrize(
    "name",
    ["run.log", ".hydra/config.yaml", "result.json", "history.jsonl", "UNFINISHED", ".lock",
     "adapter.json", "predictions.parquet", "snapshots", "wandb", "checkpoint.safetensors",
     ".result.json.unfinished"],
)  # fmt: skip
def test_nothing_is_written_through_a_link(
    name: str, shell: Callable[..., Answer], tmp_path: Path
) -> None:
    """Neither by a run nor by what Hydra does before it; a pipe is no way out either."""
    target = outside(tmp_path)
    folder = tmp_path / "out/lora/s0"
    (folder / name).parent.mkdir(parents=True)
    if name in ("snapshots", "wandb"):
        (tmp_path / "elsewhere").mkdir()
        (folder / name).symlink_to(tmp_path / "elsewhere")
    else:
        (folder / name).symlink_to(target)
    answer = shell(f"hydra.run.dir={folder}", *SMALL, "record.snapshots=1")
    assert answer.code == 1 and "Traceback" not in answer.err
    assert answer.said.startswith(f"{folder / name}") and "\n" not in answer.said
    assert target.read_text() == "precious"
    assert not (tmp_path / "elsewhere").exists() or not any((tmp_path / "elsewhere").iterdir())
    (folder / name).unlink()
    assert shell(f"hydra.run.dir={folder}", *SMALL).code == 0


def test_the_sessions_of_a_tracker_may_link_to_its_logs(
    shell: Callable[..., Answer], tmp_path: Path
) -> None:
    """So that a run that was killed under wandb goes on."""
    folder = tmp_path / "out/lora/s0"
    session = folder / "wandb" / "offline-run-20260101_000000-abc"
    (session / "logs").mkdir(parents=True)
    (session / "logs" / "debug-core.log").symlink_to(outside(tmp_path))
    assert shell(f"hydra.run.dir={folder}", *SMALL).code == 0


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_a_folder_of_a_run_is_no_link(
    depth: int, shell: Callable[..., Answer], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    parts = ["outputs", "a", "b", "c", "run"]
    link = Path(*parts[: depth + 1])
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    answer = shell(f"hydra.run.dir={Path(*parts)}", *SMALL)
    assert answer.code == 1 and "is a link, and a run writes through none" in answer.said
    assert not [path for path in elsewhere.rglob("*") if path.is_file()]


def test_where_outputs_lie_is_the_users_choice(
    shell: Callable[..., Answer], tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "disk")
    assert shell(*SMALL).code == 0
    assert len(list((tmp_path / "disk").rglob("result.json"))) == 1


def test_a_log_is_kept_and_so_is_the_command(shell: Callable[..., Answer], tmp_path: Path) -> None:
    assert shell(*SMALL, "hydra.run.dir=out/run").code == 0
    folder = tmp_path / "out/run"
    assert (folder / "run.log").is_file()
    assert (folder / ".hydra/config.yaml").read_text().startswith("variant:")
    assert "data.train=64" in (folder / ".hydra/overrides.yaml").read_text()
    assert "run:" in (folder / ".hydra/hydra.yaml").read_text()


def test_a_cell_of_a_handed_study_writes_through_no_link(
    handed: Path, command: Callable[..., Answer], tmp_path: Path
) -> None:
    target = outside(tmp_path)
    study_file(handed.parent)
    assert command(study, "status", "mine").code == 0
    (folder,) = {cell.folder for cell in restore_plan("mine")[0].refresh()}
    folder.mkdir(parents=True)
    for name in ("output.log", "failure.json", "more/below"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).symlink_to(target)
        answer = command(study, "resume", "mine")
        assert answer.code == 1 and target.read_text() == "precious"
        if name != "failure.json":
            assert f"{folder / name} is a link to a place outside" in answer.out
        assert not list(folder.parent.rglob("result.json"))
        (folder / name).unlink()
        (folder / "failure.json").unlink(missing_ok=True)
    shutil.rmtree(folder)
    (tmp_path / "elsewhere").mkdir()
    folder.symlink_to(tmp_path / "elsewhere")
    answer = command(study, "resume", "mine")
    assert answer.code == 1 and f"{folder} is a link, and a run" in answer.out
    assert not list((tmp_path / "elsewhere").iterdir())
