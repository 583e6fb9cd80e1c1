"""summary.json: what a study came to, for the report and other programs."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from experiments.disk.files import NOT_JSON, read_object, write_record
from experiments.stored.typed import fit_record

NAME = "summary.json"
TUNING_SEED = 1000  # the first seed of a trial; those that are reported count from 0


class Row(TypedDict):
    """One method on one task under one protocol: `experiments.study.summary.Row`."""

    protocol: str
    task: str
    method: str
    metric: str | None
    tuned_by: NotRequired[str | None]
    trials: int
    curve: list[tuple[str, float | None]]
    stopped: NotRequired[list[tuple[str, float]]]
    saved_seconds: NotRequired[float]
    unpaused: NotRequired[int]
    own: float | None
    tuned: float | None
    chosen: list[str] | None
    rival: NotRequired[list[str] | None]
    rival_scores: NotRequired[list[float]]
    tries: NotRequired[list[tuple[str, list[float]]]]
    edge: str
    seeds: NotRequired[list[int]]
    scores: list[float]
    score: NotRequired[float | None]
    spread: NotRequired[float | None]
    floor: NotRequired[float | None]
    trained: NotRequired[int | None]
    tuning_seconds: float
    seconds: float
    lost: list[str]
    remarks: list[str]


class Inflation(TypedDict):
    """By how much one protocol flatters a method beside another."""

    task: str
    method: str
    points: float
    interval: tuple[float, float] | None


class Cell(TypedDict):
    """One run."""

    folder: str
    stage: str
    status: NotRequired[str]
    choice: NotRequired[int]


class Stored(TypedDict):
    """The whole file."""

    study: str
    rows: list[Row]
    cells: list[Cell]
    tuning: NotRequired[str]
    inflation: NotRequired[list[Inflation]]


def read(path: Path) -> dict[str, Any] | None:
    """The content of a summary.json, or None for one that is no study's.

    Raises ValueError naming the file and the key of what is wrong.
    """
    content = read_object(path, NOT_JSON)
    if not {"rows", "cells", "inflation"} & set(content):
        return None
    return fit_record(path, content, Stored)


def write(folder: Path, content: dict[str, Any]) -> None:
    """Write what a study came to."""
    write_record(folder / NAME, content)
