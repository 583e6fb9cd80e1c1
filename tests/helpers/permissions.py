"""Actions without root's rights, and a folder that every user reaches."""

import ctypes
import os
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


def drop_rights() -> None:
    """Give up root's right to pass by the modes of files, as any other user has to heed them.

    The user stays the same, so that Python's own packages can be read wherever they lie.
    """
    version_3, this_process, nothing = 0x20080522, 0, (0,) * 6
    header = struct.pack("=II", version_3, this_process)
    assert ctypes.CDLL(None).capset(header, struct.pack("=6I", *nothing)) == 0


def as_nobody(action: Callable[[], object]) -> str:
    """What an action says or raises, in a process without root's rights."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                drop_rights()
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
