"""The numbers that papers print, as one table: `published()`.

`analysis/published/` has a file for each paper, with those numbers alone that could be read in the
paper itself or in its authors' code and logs. The papers of LoRA+, LoRA-XS, LoRA-FA, LoRA-drop and
Delta-LoRA have no file, because of their tables that is not so.
"""

import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import yaml

from experiments.stored.shown import near

PUBLISHED = Path(__file__).parent / "published"
UNITS = {"percent": 100.0, "one": 1.0}  # what is divided by, to be on our scale
SELECTIONS = ("best epoch", "last step")
Cell = dict[Any, Any]  # a number and what it is of: a row of what `published` gives
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Column:
    """The task, metric and unit of one column of a table."""

    task: str
    metric: str
    unit: str  # percent | one
    split: str = ""  # empty: all that the task scores, together


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a table: a method on a model, its scores in the order of the columns."""

    label: str  # as printed
    variant: str
    model: str
    scores: list  # 95.1, "95.1 ± 0.2", or null where it is left out
    trained: int | None = None  # parameters, as printed
    settings: list = field(default_factory=list)  # the values of `paper` that stand for it
    copied: str = ""  # whose numbers these are, where the paper only repeats them
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of a paper, and how its numbers came about; empty is what is not known."""

    name: str
    data: str
    columns: dict  # Column by its name
    rows: list  # of Row
    selection: str = ""  # best epoch | last step
    statistic: str = ""  # over the seeds: mean | median
    seeds: int | None = None
    spread: str = ""  # what follows the ±
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One file of published numbers."""

    title: str
    authors: str
    year: int
    arxiv: str
    tables: list  # of Table
    not_ours: list = field(default_factory=list)  # variants, models and tasks of no file here


def published(folder: Path = PUBLISHED) -> pd.DataFrame:
    """Every published number as one row, scores and spreads on our scale.

    Raises ValueError naming file and key if a file is not as it should be.
    """
    paths = sorted(folder.glob("*.yaml"))
    if not paths:
        raise ValueError(f"There are no published numbers in {folder}.")
    found = pd.DataFrame([cell for path in paths for cell in cells(path)])
    return found.astype({"trained": "Int64", "seeds": "Int64"})


def read(path: Path) -> Paper:
    """One file, checked against the dataclasses above."""
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML ({' '.join(str(error).split())}).") from None
    paper = build(Paper, given, f"{path}")
    tables = enumerate(paper.tables)
    return replace(paper, tables=[table(one, f"{path}: tables[{i}]") for i, one in tables])


def table(given: Any, where: str) -> Table:
    """One table with its columns and rows."""
    read = build(Table, given, where)
    if read.selection not in ("", *SELECTIONS):
        known = " or ".join(SELECTIONS)
        raise ValueError(f"{where}.selection must be {known}, got '{read.selection}'.")
    columns = {
        name: build(Column, one, f"{where}.columns.{name}") for name, one in read.columns.items()
    }
    rows = [build(Row, one, f"{where}.rows[{i}]") for i, one in enumerate(read.rows)]
    return replace(read, columns=columns, rows=rows)


def build(cls: type[T], given: Any, where: str) -> T:
    """An object of the dataclass, whose fields say which keys there are and of what type."""
    if not isinstance(given, dict):
        raise ValueError(f"{where} must be keys and values, got {given!r}.")
    known = {one.name: one for one in fields(cls)}  # type: ignore[arg-type]
    for key, value in given.items():
        if key not in known:
            hint = near(str(key), known) or f" Known are: {', '.join(known)}."
            raise ValueError(f"{where} has an unknown key '{key}'.{hint}")
        if isinstance(value, bool) or not isinstance(value, known[key].type):  # type: ignore[arg-type]
            kind = getattr(known[key].type, "__name__", known[key].type)
            raise ValueError(f"{where}.{key} must be of type {kind}, got {value!r}.")
    for key, one in known.items():
        if key not in given and one.default is MISSING and one.default_factory is MISSING:
            raise ValueError(f"{where} has no '{key}'.")
    return cls(**given)


def cells(path: Path) -> list[Cell]:
    """The numbers of one paper, in the order of its file."""
    paper = read(path)
    return [
        {"paper": path.stem, "arxiv": paper.arxiv, **cell, "not_ours": strangers(cell, paper)}
        for t, table in enumerate(paper.tables)
        for r, row in enumerate(table.rows)
        for cell in row_cells(table, row, f"{path}: tables[{t}].rows[{r}].scores")
    ]


def row_cells(table: Table, row: Row, where: str) -> Iterator[Cell]:
    """Yield one row's numbers, without those that the table leaves out."""
    if len(row.scores) != len(table.columns):
        raise ValueError(f"{where} has {len(row.scores)} values for {len(table.columns)} columns.")
    for (name, column), printed in zip(table.columns.items(), row.scores, strict=True):
        if printed is not None:
            score, spread = numbers(printed, column.unit, f"{where} ({name})")
            about = described(table, row, column)
            yield {**about, "column": name, "score": score, "spread": spread}


def strangers(cell: Cell, paper: Paper) -> tuple[str, ...]:
    """Return the names of a number's method, model and task that this project does not have."""
    return tuple(cell[key] for key in ("variant", "model", "task") if cell[key] in paper.not_ours)


def numbers(printed: Any, unit: str, where: str) -> tuple[float, float]:
    """A printed score and its spread on our scale; a spread that is not printed is NaN."""
    if unit not in UNITS:
        raise ValueError(f"{where}: unit must be {' or '.join(UNITS)}, got '{unit}'.")
    parts = str(printed).split("±")
    try:
        values = [float(part) / UNITS[unit] for part in parts]
    except ValueError:
        values = []
    if len(values) not in (1, 2) or not all(math.isfinite(value) for value in values):
        raise ValueError(f"{where}: expected a number, or a number ± a number, got '{printed}'.")
    if unit == "percent" and abs(values[0]) > 1:
        raise ValueError(f"{where}: {printed} is more than 100 percent.")
    return values[0], values[1] if len(values) == 2 else math.nan


def described(table: Table, row: Row, column: Column) -> Cell:
    """Describe a number: its method, model and task, and how it came about."""
    return {
        "table": table.name,
        "label": row.label,
        "variant": row.variant,
        "model": row.model,
        "task": column.task,
        "split": column.split,
        "metric": column.metric,
        "trained": row.trained,
        "data": table.data,
        "selection": table.selection,
        "statistic": table.statistic,
        "seeds": table.seeds,
        "spread_is": table.spread,
        "settings": tuple(row.settings),
        "copied": row.copied,
        "note": "; ".join(note for note in (table.note, row.note) if note),
    }
