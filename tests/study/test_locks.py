"""One process in a folder: locks of the system, and files where it has none."""

import errno
import fcntl
import logging
import multiprocessing
import os
import shutil
import socket
from pathlib import Path

import pytest
from permissions import as_nobody

from experiments.disk import locks
from experiments.disk.locks import LOCK, exclusive, holder, in_turn
from experiments.study.cells import Cell
from experiments.study.progress import Progress

ERRORS = {"ENOSYS": errno.ENOSYS, "ENOLCK": errno.ENOLCK, "ENOTSUP": errno.ENOTSUP}
ELSEWHERE = "4711\nfarnode\n"


@pytest.fixture(params=ERRORS)
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without locks."""

    def missing(*_: object) -> None:
        raise OSError(ERRORS[request.param], os.strerror(ERRORS[request.param]))

    monkeypatch.setattr(fcntl, "flock", missing)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LOOK", 0.1)


def dies_in(folder: Path) -> None:
    """A process that ends in the middle of its work."""
    with exclusive(folder):
        os._exit(1)


def killed_in(folder: Path) -> int:
    process = multiprocessing.get_context("fork").Process(target=dies_in, args=(folder,))
    process.start()
    process.join()
    return process.pid or 0


def refused(folder: Path) -> str:
    with pytest.raises(ValueError, match="Another process works in") as caught, exclusive(folder):
        pass
    return str(caught.value)


def test_the_owner_of_a_lock_is_named(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        said = refused(tmp_path)
        held = holder(tmp_path)
    me = f"process {os.getpid()} on {socket.gethostname()}, since 20"
    assert me in said and said.endswith("; wait for it, or stop it.")
    assert held is not None and me in held.who and not held.doubt
    assert holder(tmp_path) is None and not list(tmp_path.iterdir())


def test_the_system_frees_the_lock_of_a_dead_process(tmp_path: Path) -> None:
    killed_in(tmp_path)
    assert (tmp_path / LOCK).exists()
    assert holder(tmp_path) is None
    with exclusive(tmp_path):
        pass


@pytest.mark.usefixtures("no_flock")
def test_without_locks_of_the_system_the_file_is_one(tmp_path: Path) -> None:
    with exclusive(tmp_path):
        said = refused(tmp_path)
        held = holder(tmp_path)
    assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in said
    assert said.endswith(f"if that process is gone, delete {tmp_path / LOCK}.")
    assert held is not None and f"delete {tmp_path / LOCK}." in held.doubt
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("no_flock")
def test_without_locks_of_the_system_a_dead_process_of_this_machine_is_found_out(
    tmp_path: Path,
) -> None:
    killed_in(tmp_path)
    with exclusive(tmp_path):
        pass


@pytest.mark.usefixtures("no_flock")
def test_a_process_of_another_machine_is_named_with_the_way_on(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(ELSEWHERE)
    said = refused(tmp_path)
    assert "process 4711 on farnode, since 20" in said
    assert said.endswith(f"if that process is gone, delete {tmp_path / LOCK}.")
    (tmp_path / LOCK).unlink()
    with exclusive(tmp_path):
        pass


def test_a_folder_copied_from_a_file_system_without_locks_is_free(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(ELSEWHERE)
    assert holder(tmp_path) is None
    with exclusive(tmp_path):
        pass


def test_a_folder_copied_to_one_names_its_former_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "there"
    with exclusive(tmp_path / "here"):
        shutil.copytree(tmp_path / "here", there)

    def missing(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", missing)
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    said = refused(there)
    assert f"process {os.getpid()} on " in said and f"delete {there / LOCK}" in said


@pytest.mark.usefixtures("no_flock")
def test_whom_a_cache_is_waited_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.INFO)
    path = tmp_path / "states.lock"
    path.write_text(ELSEWHERE)
    original = locks.take

    def delete_when_asked_for_ever(path: Path, timeout: float) -> object:
        if timeout < 0:
            path.unlink()
        return original(path, timeout)

    locks.take, before = delete_when_asked_for_ever, locks.take
    try:
        with in_turn(path):
            pass
    finally:
        locks.take = before
    assert "Waiting for process 4711 on farnode" in caplog.text
    assert f"delete {path}." in caplog.text


@pytest.mark.usefixtures("no_flock")
def test_a_study_says_once_which_cell_it_cannot_judge(tmp_path: Path, capsys) -> None:
    cell = Cell("clean", "sst2", "lora", "test", (), 0, (), (), tmp_path)
    (tmp_path / LOCK).write_text(ELSEWHERE)

    class Plan:
        outcomes = {cell: cell.outcome()}  # noqa: RUF012

        def expected(self) -> int:
            return 1

    assert cell.outcome().status == "running"
    progress = Progress()
    for _ in range(2):
        progress.show(Plan())  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert said.count("process 4711 on farnode") == 1
    assert f"delete {tmp_path / LOCK}." in said


def test_another_users_lock_is_looked_at_and_left(public: Path) -> None:
    (public / LOCK).write_text(ELSEWHERE)
    (public / LOCK).chmod(0o400 if os.geteuid() == 0 else 0)
    said = as_nobody(lambda: holder(public))
    assert "may not be opened" in said
