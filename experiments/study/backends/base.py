"""The interface of a place where the cells of a study are carried out.

A backend of one's own is a dataclass of settings that derives from `Backend`, and a file in
`conf/backend` that names it.
"""

import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

OUTPUT = "output.log"  # what the processes of a cell printed
BEGIN = "--- begun "  # of the line that each process begins its output with
LOST = 255  # the exit code of a process whose parent process was killed


class Work(Protocol):
    """A cell, as far as a backend knows it."""

    @property
    def overrides(self) -> tuple[str, ...]: ...

    @property
    def folder(self) -> Path: ...


W = TypeVar("W", bound=Work)


class Workers(ABC, Generic[W]):
    """The processes of one study, each of which carries out one cell."""

    @property
    def threads(self) -> int | None:
        """How many threads a cell has on this machine's processor; None if it runs elsewhere."""
        return None

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many cells it carries out at once."""

    @property
    @abstractmethod
    def running(self) -> set[W]:
        """The cells that have a process now."""

    @abstractmethod
    def start(self, cell: W) -> None:
        """Start the process of a cell: `python run.py` with the cell's overrides.

        Its output goes to the file OUTPUT in the cell's folder. There must be a free slot.
        """

    @abstractmethod
    def ended(self) -> Iterator[tuple[W, int]]:
        """Each cell whose process has ended since the last call, with the exit code.

        The exit code of a process that a signal has ended is the signal's number, negative.
        """

    @abstractmethod
    def stop(self) -> None:
        """End all processes; their runs go on from their checkpoints another time."""


@dataclass(frozen=True, kw_only=True)
class Backend(ABC):
    """The settings of a place where cells are carried out."""

    max_parallel: int | None  # cells at once; null: as many as the place has room for
    worker: int | None  # any number; makes `-m study=NAME backend.worker=range(4)` four processes

    def __post_init__(self) -> None:
        if self.max_parallel is not None and self.max_parallel <= 0:
            raise ValueError(f"backend.max_parallel must be positive, got {self.max_parallel}.")

    @abstractmethod
    def workers(self) -> Workers[Any]:
        """Make what starts the processes of a study."""


def explain_exit(exit_code: int) -> str:
    """Explain an exit code in a sentence."""
    if exit_code == LOST:
        return "The process that the study's runs are forked from was killed."
    if exit_code >= 0:
        return f"The process ended with exit code {exit_code}."
    name = signal.Signals(-exit_code).name
    memory = " Perhaps the machine was out of memory." if name == "SIGKILL" else ""
    return f"The process was killed by {name}.{memory}"
