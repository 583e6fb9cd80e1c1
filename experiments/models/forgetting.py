"""The general text of which a run measures how much was forgotten; `general_text` measures it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.data.splits import Split
from experiments.data.tables import Part, Table, check_unicode, decode_text, digest, read_table
from experiments.disk.files import check_regular
from experiments.disk.userfolders import expand_home

LINES = ".txt"  # the suffix of a file with a text per line


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """The text whose loss is measured."""

    file: str | None  # null: nothing is measured
    column: str | None  # of a table
    rows: int  # the first ones of the file

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise ValueError(f"forgetting.rows must be at least 1, got {self.rows}.")
        if self.file is None and self.column is not None:
            raise ValueError(f"forgetting.column is '{self.column}', and forgetting.file is null.")

    def read(self) -> Split:
        """The texts; raises ValueError naming the file, the column or the row that is wrong."""
        path = expand_home(str(self.file), "forgetting.file")
        if not path.is_file():
            raise ValueError(f"forgetting.file: there is no file {path}.")
        table = self.lines(path) if path.suffix.lower() == LINES else self.table(path)
        texts = [(text,) for text in checked(table) if text.strip()][: self.rows]
        if not texts:
            raise ValueError(f"forgetting.file: {path} holds no text.")
        return Split(np.arange(len(texts)), texts, None, table.origin, table.sha256)

    def lines(self, path: Path) -> Table:
        """The lines of a plain text."""
        if self.column is not None:
            raise ValueError(f"forgetting.column is '{self.column}', and {path} has no columns.")
        check_regular(path)
        data = path.read_bytes()
        lines = [line.rstrip("\r") for line in decode_text(path, data).split("\n")]
        return Table(str(path), {"text": lines}, list(range(1, len(lines) + 1)), digest(data))

    def table(self, path: Path) -> Table:
        """The column of a table."""
        if self.column is None:
            raise ValueError(
                f"forgetting.column must name the column of {path} that holds the texts; a file "
                f"with a text per line ends in {LINES}."
            )
        part = Part(
            task="forgetting", split="held-out", columns=[self.column], file=str(path), header=None,
            hub=None, skip_malformed=False,
        )  # fmt: skip
        return read_table(path, part)


def checked(table: Table) -> list[str]:
    """The texts of a table's one column; raises ValueError for a cell that is none."""
    (texts,) = table.columns.values()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"{table.where(row)} must hold a text, got {text!r:.40}.")
        check_unicode(table.where(row), text)
    return texts
