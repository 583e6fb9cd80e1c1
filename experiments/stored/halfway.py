"""halfway.json: what a run had come to when it paused, from which the same command goes on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from experiments.disk.files import NOT_JSON, read_object, write_record
from experiments.stored.typed import fit_record

NAME = "halfway.json"


class Halfway(TypedDict):
    """The whole file."""

    step: int  # after which it paused
    steps: int  # that the whole run takes
    metric: str
    score: float  # on the splits that the run is scored on at its end
    seconds: float  # that it has cost so far, as a result counts them
    training_seconds: float  # the training's part of them
    key: dict[str, Any]  # the run's fingerprint


def read(folder: Path) -> Halfway | None:
    """Read what a run had come to at its pause; None if it has not paused.

    Raises ValueError naming the file and the key of what is wrong.
    """
    path = folder / NAME
    if not path.exists():
        return None
    return fit_record(path, read_object(path, NOT_JSON), Halfway)


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write what a run has come to."""
    write_record(folder / NAME, dict(content))
