"""Compiled kernels kept on disk between processes, if there is a folder for them.

numba looks for one beside the sources and in the user's cache, or takes NUMBA_CACHE_DIR. Without
one every process compiles anew. A file that is damaged is compiled anew, and one that cannot be
written ends no run.
"""

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

from numba.core import config
from numba.core.caching import FunctionCache, IndexDataCacheFile

from experiments.disk.userfolders import cache_folder

log = logging.getLogger(__name__)
DIGEST = hashlib.sha256().digest_size

if cache_folder() is None:
    # Else numba would make a folder named `~`.
    config.CACHE_LOCATOR_CLASSES = (  # pyright: ignore[reportAttributeAccessIssue]
        "UserProvidedCacheLocator,InTreeCacheLocator"
    )


class CheckedFiles(IndexDataCacheFile):
    """numba's files with a checksum at their end; one without it counts as missing."""

    def _load_index(self) -> dict[Any, str]:
        return super()._load_index() if is_whole(Path(self._index_path)) else {}

    def _load_data(self, name: str) -> Any:
        path = Path(self._data_path(name))
        if not is_whole(path):
            raise OSError(f"{path} is damaged.")  # which numba takes for a missing file
        return super()._load_data(name)

    @contextmanager
    def _open_for_write(self, filepath: str) -> Iterator[BytesIO]:
        with super()._open_for_write(filepath) as file:
            content = BytesIO()
            yield content
            file.write(content.getvalue() + hashlib.sha256(content.getvalue()).digest())


class KernelCache(FunctionCache):
    """numba's cache of one kernel on checked files."""

    def __init__(self, function: Callable) -> None:
        super().__init__(function)
        folder = Path(self._cache_file._cache_path)
        self._cache_file = CheckedFiles(str(folder), self._impl.filename_base, stamp_of(function))

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except OSError as error:
            log.info("%s is not kept for the next process: %s", self._name, error)


def stamp_of(function: Callable) -> str:
    """The hash of all files of a kernel's folder, as it may call kernels in each of them."""
    return stamp(Path(function.__code__.co_filename).parent)


@cache
def stamp(folder: Path) -> str:
    """The hash of a folder's Python files."""
    found = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def is_whole(path: Path) -> bool:
    """Return whether a file ends in the checksum of what stands before it."""
    try:
        content = path.read_bytes()
    except OSError:
        return False
    return hashlib.sha256(content[:-DIGEST]).digest() == content[-DIGEST:]


def keep(kernel: Any) -> Any:
    """The compiled function with a cache on disk, or without one if no folder can be had."""
    try:
        kernel._cache = KernelCache(kernel.py_func)
    except RuntimeError:  # numba has found no folder that it may write to
        log.debug("No folder for %s.", kernel)
    return kernel
