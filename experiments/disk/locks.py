"""One process at a time in a folder, and who that is.

The system frees the lock of a process that has ended. Where the file system has no such locks, as
some NFS and Lustre, the file itself is the lock: one that a killed process of this machine has left
is taken over; whether a process of another machine lives cannot be known from here, so a person
has to delete its file.
"""

import errno
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from experiments.disk.folders import prepare, remove_unfinished_of_run

log = logging.getLogger(__name__)
LOCK = ".lock"
LOOK = 2.0  # seconds; who only looks whether a folder is in use holds its lock for a moment
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# What a file system without locks answers.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)


@dataclass(frozen=True)
class Holder:
    """The process that holds the lock of a folder."""

    who: str
    doubt: str  # what to do if it is gone; empty if the system would know


class Busy(ValueError):  # noqa: N818 (a state of a folder, not a fault)
    """Another process works in a run's folder."""

    exit_code = 75  # of a command that ends with it: try again later, as sysexits.h has it


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Keep other processes from working in the same folder.

    Raises Busy, naming the owner of the lock, if another one does; ValueError for a folder that is
    closed, or leads elsewhere.
    """
    try:
        prepare(folder)
        lock = take(folder / LOCK, LOOK)
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        raise ValueError(f"{folder} may not be written to: {error.strerror}.") from None
    if not lock.is_locked:
        raise Busy(
            f"Another process works in {folder}: {owner(folder / LOCK)}; wait for it, or stop it."
            f"{doubt(lock)}"
        )
    with hold_lock(lock):
        remove_unfinished_of_run(folder)
        yield


@contextmanager
def in_turn(path: Path) -> Iterator[None]:
    """Wait for a lock as long as it takes, and say for whom if it takes longer."""
    lock = take(path, LOOK)
    if not lock.is_locked:
        log.info("Waiting for %s.%s", owner(path), doubt(lock))
        lock = take(path, -1)
    with hold_lock(lock):
        yield


def holder(folder: Path) -> Holder | None:
    """The process that works in the folder, as far as can be told."""
    path = folder / LOCK
    if not path.exists():
        return None
    try:
        lock = take(path, 0)
    except PermissionError:
        return Holder(owner(path), f" {path} may not be opened, so it may have ended.")
    if lock.is_locked:
        give_back(lock)
        return None
    return Holder(owner(path), doubt(lock))


def take(path: Path, timeout: float) -> BaseFileLock:
    """A lock on this file, held if it could be had within so many seconds; -1 waits for ever."""
    lock = FileLock(path) if knows_locks(path.parent) else SoftFileLock(path)
    with suppress(Timeout):
        lock.acquire(timeout=timeout)
    return lock


def knows_locks(folder: Path) -> bool:
    """Return whether the folder's file system has locks; filelock knows one answer alone."""
    if os.name == "nt":  # whose locks are of another kind
        return True
    import fcntl

    with TemporaryFile(dir=folder) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                return False
            raise
    return True


@contextmanager
def hold_lock(lock: BaseFileLock) -> Iterator[None]:
    """Sign a lock that was taken, as locks without the system's help are, and free it after use."""
    if not isinstance(lock, SoftFileLock):
        name = f"{os.getpid()}\n{socket.gethostname()}\n"
        with suppress(OSError):  # on a full disk, who it is stays unsaid
            Path(lock.lock_file).write_text(name, encoding="utf-8")
    try:
        yield
    finally:
        give_back(lock)


def give_back(lock: BaseFileLock) -> None:
    """Free a lock; its file goes first, which would be a lock itself on another file system."""
    if not isinstance(lock, SoftFileLock):
        with suppress(OSError):  # of a folder that is closed, or gone
            Path(lock.lock_file).unlink()
    lock.release()


def owner(path: Path) -> str:
    """The process that a lock's file names, with its machine and since when."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(path.stat().st_mtime))
    except OSError:
        return "it has just ended"
    if len(lines) < 2 or not lines[0].isdigit():
        return f"who is not recorded, since {since}"
    # Behind a question mark stands the container, as a number.
    return f"process {lines[0]} on {lines[1].partition('?')[0]}, since {since}"


def doubt(lock: BaseFileLock) -> str:
    """Say what to do if the owner of a lock is gone; empty if the system frees the lock then."""
    if not isinstance(lock, SoftFileLock):
        return ""
    return (
        " This file system has no locks that end with their process: if that process is gone, "
        f"delete {lock.lock_file}."
    )
