"""Whose files these are: what others may read, and what is said where one may not."""

import os
import runpy
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from io import StringIO
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from permissions import as_nobody
from safetensors.torch import save_file

from experiments.adapters import saved
from experiments.adapters.merged import write_merged
from experiments.adapters.peft_format import write_peft
from experiments.disk.files import atomic_folder, read_tensors, write_json, write_tensors
from experiments.running.runner import execute
from experiments.settings.config import Run
from experiments.settings.tracking import Tracker

SMALL = ["data.train=64", "data.dev=32", "train.epochs=1", "tracker.mode=disabled"]


@pytest.fixture(params=[0o022, 0o002, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mode & 0o777 for p in folder.rglob("*")}


def test_files_and_folders_have_the_modes_that_the_umask_leaves(umask: int, tmp_path: Path):
    tensors = {"a": torch.ones(2)}
    write_tensors(tmp_path / "new" / "a.safetensors", tensors)
    write_json(tmp_path / "a.json", {})
    with atomic_folder(tmp_path / "folder") as folder:
        save_file(tensors, folder / "b.safetensors")
        (folder / "inner").mkdir()
        save_file(tensors, folder / "inner" / "c.safetensors")
        write_json(folder / "b.json", {})
    found = modes(tmp_path)
    assert len(found) == 8
    for name, mode in found.items():
        assert mode == (0o777 if (tmp_path / name).is_dir() else 0o666) & ~umask, name


def test_every_file_of_a_run_can_be_read_by_the_group(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    before = os.umask(0o002)
    try:
        run = tiny_run("lora", "train.epochs=1", "record.snapshots=1", "record.checkpoint_every=0")
        execute(run, tmp_path / "run")
        adapter = saved.read_adapter(tmp_path / "run")
        write_merged(adapter, tmp_path / "merged")
        write_peft(adapter, tmp_path / "peft")
    finally:
        os.umask(before)
    found = modes(tmp_path)
    assert {"run/adapter.safetensors", "merged/model.safetensors"} <= found.keys()
    wrong = {n: oct(m) for n, m in found.items() if m not in (0o664, 0o775)}
    assert not wrong


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_a_file_that_may_not_be_read_says_so(public: Path, closed: str) -> None:
    path = public / "run" / "a.safetensors"
    write_tensors(path, {"a": torch.ones(2)})
    (path if closed == "file" else path.parent).chmod(0)
    said = as_nobody(lambda: read_tensors(path, "it must be made again"))
    path.parent.chmod(0o755)
    assert said == f"ValueError: {path} cannot be read: permission denied."


@pytest.mark.parametrize("file", ["adapter.json", "adapter.safetensors", "head.safetensors"])
def test_the_closed_file_of_an_adapter_says_so(
    tiny_run: Callable[..., Run], public: Path, file: str
) -> None:
    execute(tiny_run("lora", "train.epochs=1"), public / "run")
    (public / "run" / file).chmod(0)
    said = as_nobody(lambda: saved.read_adapter(public / "run"))
    assert str(public / "run" / file) in said and "ermission denied" in said
    assert "again" not in said


@pytest.fixture
def command(public: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """What `python run.py ...` prints for a user to whom the working directory is closed."""
    monkeypatch.chdir(public)

    def call(*arguments: str) -> str:
        out = StringIO()
        with redirect_stdout(out), redirect_stderr(out), suppress(SystemExit):
            monkeypatch.setattr("sys.argv", [str(ROOT / "run.py"), *SMALL, *arguments])
            runpy.run_path(str(ROOT / "run.py"), run_name="__main__")
        return out.getvalue()

    return call


def close(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def reopen(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def test_a_finished_run_in_a_closed_folder_is_already_done(
    command: Callable[..., str], public: Path
) -> None:
    first = command()
    assert "Already done" not in first and "accuracy" in first
    (result,) = public.rglob("result.json")
    close(public)
    try:
        done = as_nobody(command)
        new = as_nobody(lambda: command("seed=1"))
        reopen(public)
        result.rename(result.with_suffix(".old"))
        close(public)
        unfinished = as_nobody(command)
        study = as_nobody(lambda: command("study=first"))
    finally:
        reopen(public)
    assert done.startswith("Already done:") and "accuracy" in done
    assert "Traceback" not in new + unfinished + study
    assert "/s1-" in new and " could not be read or written: Permission denied." in new
    assert f"{result.parent} may not be written to: Permission denied." in unfinished
    assert "outputs/studies could not be read or written: Permission denied." in study


def test_a_full_disk_under_hydra_is_one_line(
    command: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "mkdir", full)
    said = command()
    assert "Traceback" not in said
    assert "could not be written: No space left on device." in said


@pytest.mark.parametrize("setting", [{"project": "a/b"}, {"tags": ["x" * 80]}])
def test_what_wandb_refuses_is_one_line(tmp_path: Path, setting: dict) -> None:
    kept = {"mode": "offline", "project": "p", "entity": None, "group": None, "tags": []}
    tracker = Tracker(**kept | setting)
    with (
        pytest.raises(ValueError, match=r"^wandb does not take this run; tracker") as caught,
        tracker.start(tmp_path, "name", {}),
    ):
        pass
    assert "\n" not in str(caught.value) and "tracker.mode=disabled" in str(caught.value)


def test_a_server_of_wandb_out_of_reach_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def init(**_: object) -> None:
        raise wandb.errors.CommError("Run initialization has timed out after 30.0 sec.\nConsider")

    monkeypatch.setattr(wandb, "init", init)
    tracker = Tracker(mode="online", project="p", entity=None, group=None, tags=[])
    with (
        pytest.raises(ValueError, match=r"tracker\.mode=offline keeps the run here") as caught,
        tracker.start(tmp_path, "name", {}),
    ):
        pass
    assert "timed out" in str(caught.value) and "\n" not in str(caught.value)
