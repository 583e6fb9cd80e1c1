"""Where rows come from: a local folder or the Hugging Face hub.

A source hands out columns as they stand in the data; what they mean is the task's business.
"""

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.data.tables import Part, Table, number_rows, place, read_table
from experiments.disk.hub import snapshot
from experiments.disk.userfolders import expand_home
from experiments.stored.shown import near


@dataclass(frozen=True, kw_only=True)
class Source(ABC):
    """One place that data comes from."""

    @property
    def name(self) -> str:
        """The source's name in results; it is no setting, so that no result can be mislabelled."""
        return type(self).__name__.lower()

    @abstractmethod
    def table(self, part: Part) -> Table:
        """The columns of one split."""


@dataclass(frozen=True, kw_only=True)
class Local(Source):
    """Files in a folder: tsv, csv, json, jsonl or parquet, recognised by suffix."""

    dir: str  # folder that holds the files which the task names

    def table(self, part: Part) -> Table:
        if part.file is None:
            raise ValueError(f"Task '{part.task}' names no local file for split '{part.split}'.")
        return read_table(self.find(part.file), part)

    def find(self, file: str) -> Path:
        """The path of a file below the folder."""
        folder = expand_home(self.dir, "data.dir")
        if not folder.is_dir():
            raise ValueError(f"data.dir is not a folder: {folder}.{siblings(folder)}")
        path = folder / file
        if not path.is_file():
            there = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
            raise ValueError(
                f"No file {path}: data.dir must be the folder that holds {file}; "
                f"{folder} holds {there}."
            )
        return path


@dataclass(frozen=True, kw_only=True)
class Hub(Source):
    """Parquet files of the Hugging Face hub, from the local cache if they are there."""

    def table(self, part: Part) -> Table:
        hub = part.hub
        if hub is None or part.split not in hub.files:
            raise ValueError(
                f"Task '{part.task}' names no hub files for split '{part.split}'; "
                "use data=local data.dir=FOLDER."
            )
        pattern = hub.files[part.split]
        folder = snapshot(hub.path, "dataset", [pattern], hub.revision)
        paths = sorted(folder.glob(pattern))
        names = [hub.columns.get(column, column) for column in part.columns]
        values = hub_columns(f"{hub.path}/{pattern}", paths, names)
        columns = {column: values[name] for column, name in zip(part.columns, names, strict=True)}
        sha256 = hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
        # The folder of a snapshot is named by its commit.
        origin = f"{hub.path}@{folder.name}/{pattern}"
        return number_rows(origin, columns, sha256)


def siblings(folder: Path) -> str:
    """A hint at the folder beside a missing one that was probably meant, or nothing."""
    if not folder.parent.is_dir():
        return ""
    return near(folder.name, [path.name for path in folder.parent.iterdir()])


def hub_columns(where: str, paths: list[Path], names: list[str]) -> dict[str, list[Any]]:
    """The named columns of a downloaded data set."""
    from datasets import Dataset, disable_progress_bars  # takes a second, so only where used
    from datasets.exceptions import DatasetGenerationError

    disable_progress_bars()
    try:
        rows = Dataset.from_parquet([str(path) for path in paths], keep_in_memory=True)
    except DatasetGenerationError as error:
        raise ValueError(f"{where} cannot be read ({error.__cause__}).") from None
    for name in names:
        place(where, rows.column_names, name)
    return {name: list(rows[name]) for name in names}
