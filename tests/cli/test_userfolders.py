"""Users without a home, folders that are closed, and compiled kernels whose files are damaged."""

import importlib
import logging
import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from numba import njit
from numba.core import caching, config
from permissions import as_nobody

from experiments.backbones import kernels
from experiments.backbones.compiled import base, keeping
from experiments.data.sources import Local
from experiments.disk import hub
from experiments.disk.userfolders import cache_folder, can_write, expand_home, own_cache
from experiments.models.pretrained import Pretrained
from experiments.settings.tracking import Tracker

SOURCE = "def double(x):\n    for i in range(len(x)):\n        x[i] *= 2\n"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who is a bare number."""

    def unknown(*_: object) -> None:
        raise KeyError("no such user")

    for name in ("HOME", "XDG_CACHE_HOME", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[float]]:
    """What a kernel gives that is compiled, or read from its files, as in a new process."""
    (tmp_path / "doubling.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))

    def call() -> list[float]:
        sys.modules.pop("doubling", None)
        module: ModuleType = importlib.import_module("doubling")
        x = np.array([1.0, 2.0])
        keeping.keep(njit(nogil=True)(module.double))(x)
        return x.tolist()

    return call


def kept(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in (".nbi", ".nbc"))


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def flip(path: Path, share: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(share * (len(content) - 1))] ^= 16
    path.write_bytes(content)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: cut(path, 0),
    "cut in the middle": lambda path: cut(path, 0.5),
    "cut by little": lambda path: cut(path, 0.999),
    "a flipped bit": lambda path: flip(path, 0.5),
    "a flipped bit at the end": lambda path: flip(path, 1),
    "something else": lambda path: path.write_bytes(b"\x80\x04N." + bytes(90)),
    "of another version": lambda path: path.write_bytes(path.read_bytes()[:-32]),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_kernel_whose_files_are_damaged_is_compiled_anew(
    kernel: Callable[[], list[float]], tmp_path: Path, damage: str, suffix: str
) -> None:
    assert kernel() == [2.0, 4.0]
    files = kept(tmp_path)
    assert [path.suffix for path in files] == [".nbc", ".nbi"]
    (path,) = (path for path in files if path.suffix == suffix)
    before = path.read_bytes()
    DAMAGE[damage](path)
    assert kernel() == [2.0, 4.0]
    if damage != "a folder":  # which cannot be written over, and harms nothing
        assert len(path.read_bytes()) == len(before)
        stamp = path.stat().st_mtime_ns
        assert kernel() == [2.0, 4.0]
        assert path.stat().st_mtime_ns == stamp  # read this time


def test_a_kernel_that_cannot_be_written_is_used_all_the_same(
    kernel: Callable[[], list[float]], monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(caching.IndexDataCacheFile, "save", full)
    assert kernel() == [2.0, 4.0]
    assert "is not kept for the next process: [Errno 28] No space left" in caplog.text


def test_without_any_folder_a_kernel_is_compiled_in_every_process(
    kernel: Callable[[], list[float]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    def closed(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(caching._CacheLocator, "ensure_cache_path", closed)
    assert kernel() == [2.0, 4.0]
    assert not kept(tmp_path)
    monkeypatch.setattr(base.drop, "_cache", caching.NullCache())
    monkeypatch.setattr(base, "run", lambda *_, **__: None)
    kernels.load(torch.float32)
    assert "in every process. NUMBA_CACHE_DIR may name a folder" in caplog.text


def test_no_folder_is_made_in_the_place_of_a_home(public: Path) -> None:
    """In a process of a user without an entry in passwd, in a folder that it may write to."""
    source = public / "sources"
    source.mkdir()
    (source / "doubling.py").write_text(SOURCE)
    work = public / "work"
    work.mkdir()
    work.chmod(0o777)

    def compile_there() -> str:
        os.environ.pop("HOME", None)
        os.environ.pop("XDG_CACHE_HOME", None)
        os.chdir(work)
        sys.path.insert(0, str(source))
        importlib.reload(keeping)
        x = np.ones(1)
        keeping.keep(njit(nogil=True)(importlib.import_module("doubling").double))(x)
        return f"{x.tolist()} {os.listdir()}"

    before = config.CACHE_LOCATOR_CLASSES
    said = as_nobody(compile_there)
    assert before == config.CACHE_LOCATOR_CLASSES
    assert said == "[2.0] []"


@pytest.mark.usefixtures("homeless")
def test_what_needs_a_home_names_the_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() is None and not can_write(None)
    with pytest.raises(ValueError, match="no home directory: XDG_CACHE_HOME may name a folder"):
        own_cache("prefix", "the states")
    online = Tracker(mode="online", project="p", entity=None, group=None, tags=[])
    with pytest.raises(ValueError, match="set WANDB_API_KEY or HOME, or set tracker"):
        online.check_key()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", os.path.join("~", ".cache", "huggingface"))
    with pytest.raises(ValueError, match="no home directory: HF_HOME may name a folder"):
        hub.snapshot("owner/name", "model", ["*.json"], None)


@pytest.mark.parametrize("path", ["~/data", "~nobody-of-this-name/data"])
@pytest.mark.usefixtures("homeless")
def test_a_path_below_an_unknown_home_is_named_with_its_setting(path: str) -> None:
    with pytest.raises(ValueError, match=f"data.dir: '{path}' begins with a home directory"):
        Local(dir=path).find("train.tsv")
    model = Pretrained(
        name="m", path=path, package=None, revision=None, sha256=None, dropout=None,
        lr_scale=1.0, linears={},
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"model.path: '{path}' begins with a home directory"):
        model.folder()
    assert expand_home("data/~", "data.dir") == Path("data/~")


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        ValueError, match=r"file/cache/lora-assay/prefix: it cannot be written to; XDG_"
    ):
        own_cache("prefix", "the states")


def test_wandb_keeps_its_files_in_the_run_where_there_is_no_home(
    homeless: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    seen: dict[str, str] = {}
    names = [f"WANDB_{name}_DIR" for name in ("CONFIG", "CACHE", "DATA")]
    for name in names:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)

    def init(**given: object) -> None:
        assert given["name"] == "title"
        # Its server asks for the cache when it starts, and prints its log without one.
        seen.update({name: os.environ[name] for name in (*names, "XDG_CACHE_HOME")})
        raise KeyboardInterrupt

    monkeypatch.setattr(wandb, "init", init)
    tracker = Tracker(mode="offline", project="p", entity=None, group=None, tags=[])
    before = os.environ.get("XDG_CACHE_HOME")
    with pytest.raises(KeyboardInterrupt), tracker.start(tmp_path, "title", {}):
        pass
    assert os.environ.get("XDG_CACHE_HOME") == before
    assert set(seen.values()) == {str(tmp_path / "wandb")}
