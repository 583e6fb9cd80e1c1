"""The folder of all runs: a link to the newest one, and nothing of those that never began."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

from experiments.disk.folders import COMMAND, LOG
from experiments.disk.locks import LOCK, holder

OUTPUTS = Path("outputs")  # as conf/config.yaml has it
LATEST = "latest"
UNFINISHED = "UNFINISHED"  # in the folder of a run without a result


def link_latest(folder: Path) -> None:
    """Make `outputs/latest` lead to the run that has just finished, if it lies in `outputs`.

    It is for people. Readers of a folder of runs follow no links, so that none counts twice.
    Nothing happens on a system without links, or if something else has the name.
    """
    if not is_inside(folder):
        return
    link = OUTPUTS / LATEST
    with suppress(OSError):
        if link.is_symlink():
            link.unlink()
        link.symlink_to(os.path.relpath(folder, OUTPUTS), target_is_directory=True)


def remove_unbegun(folder: Path) -> None:
    """Remove the folder of a run that failed before it had anything to keep.

    It then holds nothing but the command; what is no such folder, or is in use, stays as it is.
    """
    with suppress(OSError):
        names = {path.name for path in folder.iterdir()}
        if names <= {COMMAND, LOG, UNFINISHED, LOCK} and holder(folder) is None:
            shutil.rmtree(folder)
            parents = [parent for parent in folder.parents if is_inside(parent)]
            for parent in parents:  # until one holds something else
                parent.rmdir()


def is_empty(folder: Path) -> bool:
    """Return whether nothing lies in a folder, or it is not there."""
    try:
        return not any(folder.iterdir())
    except FileNotFoundError:
        return True
    except OSError:  # closed, or no folder: a run says so itself
        return False


def is_inside(folder: Path) -> bool:
    """Return whether a folder lies below `outputs`."""
    return OUTPUTS.absolute() in folder.absolute().parents
