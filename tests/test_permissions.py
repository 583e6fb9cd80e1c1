"""Whose files these are: what others may read, and what is said where one may not."""

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from experiments.adapters import saved
from experiments.adapters.merged import write_merged
from experiments.adapters.peft_format import write_peft
from experiments.config import Run
from experiments.files import read_tensors, whole_folder, write_json, write_tensors
from experiments.runner import execute

NOBODY = 54321


def as_nobody(action: Callable[[], object]) -> str:
    """What an action says or raises, in a process that is not root's."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            text = str(action())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(tell, text.encode())
        os._exit(0)
    os.close(tell)
    with os.fdopen(told) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that every user reaches; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


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
    with whole_folder(tmp_path / "folder") as folder:
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
        run = tiny_run("lora", "train.epochs=1", "train.snapshots=1", "train.checkpoint_every=0")
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
