"""A run's folder as a place to write: no links out of it, nothing of dead writers, and its log."""

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from io import TextIOWrapper
from pathlib import Path
from typing import cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.disk.files import atomic_write, open_to_append, remove_unfinished

COMMAND = ".hydra"  # what was asked for, as Hydra composed it
SNAPSHOTS = "snapshots"
BEGINNING = 10.0  # seconds that writing a command takes at most
LOG = "run.log"
SESSION = "*run-*"  # of wandb: run-20261129_..., offline-run-...
# Its records go into the log of a run alone: the screen has them already (`stored/said.py`).
ONLY_LOG = logging.getLogger("experiments.log")
ONLY_LOG.propagate = False
ONLY_LOG.setLevel(logging.INFO)
FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"


def prepare(folder: Path) -> None:
    """Make a run's folder, and make sure that what is written into it stays in it.

    Raises ValueError for a link in it that leads out, or in its place, and for a closed folder;
    OSError if it cannot be made.
    """
    check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"{folder} may not be written to: {os.strerror(errno.EACCES)}.")
    for path in links(folder):
        raise ValueError(
            f"{path} is a link to a place outside of its run, and a run writes through none; "
            "delete it."
        )


def check_place(folder: Path) -> None:
    """Raise ValueError if a link stands in the place of a run's folder.

    Below the working folder every part but the first may be somebody else's, as in a study that was
    handed over; where the first leads, and where any other path does, is the user's choice.
    """
    here = Path.cwd()
    below = folder.absolute().is_relative_to(here)
    parts = list(folder.absolute().relative_to(here).parents)[:-2] if below else []
    for path in (folder, *(here / part for part in parts)):
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and a run writes through none; delete it.")


def links(folder: Path) -> Iterator[Path]:
    """The links in a folder that lead out of it, those inside left out.

    A tracker keeps a folder for each of its sessions, with a link to its log in the user's cache.
    Nothing is written into one that is over.
    """
    home = folder.resolve()
    for parent, folders, files in os.walk(folder):
        if Path(parent) == folder / "wandb":
            folders[:] = [
                name
                for name in folders
                if not fnmatch(name, SESSION) or Path(parent, name).is_symlink()
            ]
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() and not inside(path, home):
                yield path


def inside(link: Path, home: Path) -> bool:
    """Return whether a link leads to a place in a folder."""
    try:
        return link.resolve().is_relative_to(home)
    except (OSError, RuntimeError):  # it leads to itself
        return False


def tidy(folder: Path, leftovers: tuple[str, ...]) -> None:
    """Remove what a run that is over no longer needs, and what its killed writers left.

    What another user owns stays as it is.
    """
    try:
        for pattern in leftovers:
            for path in folder.glob(pattern):
                path.unlink(missing_ok=True)
        remove_unfinished_of_run(folder)
    except OSError:
        return


def remove_unfinished_of_run(folder: Path) -> None:
    """Remove what killed writers left in the folder of a run, in which no other process works.

    Others that begin meanwhile say so in `.hydra` before they look whether the folder is in use.
    """
    remove_unfinished(folder)
    remove_unfinished(folder / SNAPSHOTS)
    remove_unfinished(folder / COMMAND, older=BEGINNING)


@contextmanager
def keep_command(folder: Path, config: DictConfig) -> Iterator[None]:
    """Keep what was asked for in a run's folder, and in the block what is logged.

    Hydra would do both by itself, through any link, and with a traceback if it cannot.
    """
    prepare(folder)
    hydra_config = cast(DictConfig, OmegaConf.create({"hydra": HydraConfig.get()}))
    overrides = HydraConfig.get().overrides.task
    for name, content in (
        ("config.yaml", config), ("hydra.yaml", hydra_config), ("overrides.yaml", overrides),
    ):  # fmt: skip
        with atomic_write(folder / COMMAND / name) as file:
            file.write_text(OmegaConf.to_yaml(content), encoding="utf-8")
    # Opened here, since the handler would follow a link.
    with TextIOWrapper(open_to_append(folder / LOG), "utf-8", line_buffering=True) as stream:
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logging.Formatter(FORMAT))
        loggers = (logging.getLogger(), ONLY_LOG)
        for logger in loggers:
            logger.addHandler(handler)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
