"""history.jsonl: the records of a training run, one for every few steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from experiments.disk.files import read_lines

NAME = "history.jsonl"
PUBLISHED = 60  # records of a published run
HELD_OUT = "held_out_"  # begins the names of what was measured on rows held out of the train split
Item = TypeVar("Item")


def read(folder: Path) -> list[dict[str, Any]]:
    """The records of a run's folder; none if there is no history.

    Raises ValueError naming the line that is no record of a step.
    """
    path = folder / NAME
    if not path.exists():
        return []
    records = read_lines(path)
    for number, record in enumerate(records, start=1):
        if not isinstance(record.get("step"), int) or isinstance(record["step"], bool):
            raise ValueError(f"{path}: line {number} has no step.")
    return records


def to_publish(records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Some of the records, evenly spaced, and all with a measurement on held-out rows."""
    kept = {record["step"] for record in thin(records, PUBLISHED)}
    return [
        record
        for record in records
        if record["step"] in kept or any(name.startswith(HELD_OUT) for name in record)
    ]


def thin(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items (two at least), evenly spaced, the first and the last kept."""
    if len(items) <= most:
        return list(items)
    last = len(items) - 1
    return [items[round(place * last / (most - 1))] for place in range(most)]
