"""Folders of the user's own, on machines that may have no home for one.

In a container the user may be a bare number: without an entry in passwd, with HOME unset, or with a
HOME that does not exist.
"""

import os
from pathlib import Path
from tempfile import TemporaryFile


def cache_folder() -> Path | None:
    """Where the user's caches lie, or None if there is no home directory."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # not to be determined
        return None


def can_write(folder: Path | None) -> bool:
    """Return whether there is such a folder, made if need be, and files can be made in it."""
    if folder is None:
        return False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError:
        return False
    return True


def own_cache(name: str, what: str) -> Path:
    """The project's folder of this name in the user's cache; all in it may be deleted.

    Raises ValueError, naming what would be kept there, if it cannot be made.
    """
    cache = cache_folder()
    if cache is None:
        raise ValueError(
            f"The user's cache would keep {what}, and this user has no home directory: "
            "XDG_CACHE_HOME may name a folder."
        )
    folder = cache / "lora-assay" / name
    if not can_write(folder):
        raise ValueError(
            f"{what[0].upper()}{what[1:]} cannot be kept in {folder}: it cannot be written to; "
            "XDG_CACHE_HOME may name another folder."
        )
    return folder


def expand_home(path: str, setting: str) -> Path:
    """A path with `~` resolved; raises ValueError, naming the setting, if there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(
            f"{setting}: '{path}' begins with a home directory that is not known; name the folder "
            "in full, or set HOME."
        ) from None
