"""Tables of the page: what a cell shows, and by what its column is sorted."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from analysis.looks import PATHS, look_of

NONE = "\u2013"  # where there is nothing to show


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A text, and the number or the text that sorts it.

    `letters` stand raised behind it, `small` below it; `look` is the method whose mark it bears,
    `link` the address that the text leads to.
    """

    text: str
    key: float | str
    strong: bool = False
    letters: str = ""
    small: str = ""
    look: str = ""
    link: str = ""

    @property
    def content(self) -> Markup:
        """All of it as it stands in a page."""
        shown = escape(self.text)
        if self.link:
            shown = Markup('<a href="{}">{}</a>').format(self.link, shown)
        if self.look:
            shown = draw_mark(self.look) + shown
        if self.letters:
            shown += Markup("<sup>{}</sup>").format(self.letters)
        return shown + Markup("<small>{}</small>").format(self.small) if self.small else shown


def draw_mark(method: str) -> Markup:
    """A method's mark: its shape in its colour."""
    look = look_of(method)
    return Markup(
        '<svg class="swatch s{}" viewBox="-8 -8 16 16" aria-hidden="true"><path d="{}"/></svg>'
    ).format(look.colour, PATHS[look.shape])


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column, and how it looks.

    `numbers` stand to the right, `pick` gives it a picker, `most` a field for its largest number,
    `code` letters of one width, `wrap` lets texts break, `fixed` keeps it in sight. A `shared`
    column is told once, above, where all its rows say the same.
    """

    title: str
    numbers: bool = False
    pick: bool = False
    most: bool = False
    code: bool = False
    wrap: bool = False
    fixed: bool = False
    shared: bool = False
    hint: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that is sorted and filtered in the browser; `name` is unique on the page.

    `told` is what all of its rows share, `left` which of them are shown if not all are.
    """

    name: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    told: str = ""
    left: str = ""

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.name

    def attributes(self, place: int, cell: Cell) -> Markup:
        """Those of a cell's element: what it looks like, and its key if the text is another."""
        column = self.columns[place]
        looks = {
            "number": column.numbers, "strong": cell.strong, "code": column.code,
            "wrap": column.wrap, "fixed": column.fixed,
        }  # fmt: skip
        classes = " ".join(name for name, on in looks.items() if on)
        found = Markup(' class="{}"').format(classes) if classes else Markup()
        key = "" if cell.key == math.inf else short(cell.key)
        alone = not (cell.letters or cell.small)  # else the element holds more than the key
        return found if alone and key == cell.text else found + Markup(' data-key="{}"').format(key)

    def values(self, place: int) -> list[str]:
        """Return the values that a picker offers."""
        return sorted({row[place].text for row in self.rows})

    @property
    def pickers(self) -> list[tuple[int, str, list[str]]]:
        """Place, title and values of the columns that have a picker, if there is a choice."""
        found = [(i, c.title, self.values(i)) for i, c in enumerate(self.columns) if c.pick]
        return [(place, title, values) for place, title, values in found if len(values) > 1]

    @property
    def limits(self) -> list[tuple[int, str]]:
        """Place and title of the columns that have a field for the largest number."""
        return [(place, column.title) for place, column in enumerate(self.columns) if column.most]

    def frame(self) -> pd.DataFrame:
        """The texts as they are read."""
        rows = [[cell.text for cell in row] for row in self.rows]
        return pd.DataFrame(rows, columns=[column.title for column in self.columns])


def short(key: float | str) -> str:
    """A key as it is written: of a number as many digits as tell it from its neighbours."""
    return key if isinstance(key, str) else f"{key:.9g}"


def text(value: Any, strong: bool = False) -> Cell:
    """A cell that shows a text and is sorted by it; nothing comes last."""
    if value is None:
        return Cell(text=NONE, key=math.inf)
    return Cell(text=str(value), key=str(value), strong=strong)


def numeric(value: float | None, show: Callable[[float], str] = str, strong: bool = False) -> Cell:
    """A cell that shows a number and is sorted by it; what is not known comes last."""
    if value is None or math.isnan(value):
        return Cell(text=NONE, key=math.inf)
    return Cell(text=show(value), key=float(value), strong=strong)


def table(
    name: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], most: int | None = None
) -> Table:
    """A table, with what all of its rows share told once; of more than `most` rows the first."""
    body = [list(row) for row in rows]
    left = "" if most is None or len(body) <= most else f"the first {most:,} of {len(body):,}"
    body = body[:most]
    texts = [{row[i].text for row in body} for i in range(len(columns))]
    once = [column.shared and len(texts[i]) == 1 for i, column in enumerate(columns)]
    told = [f"{column.title} {texts[i].pop()}" for i, column in enumerate(columns) if once[i]]
    return Table(
        name=name,
        columns=[column for column, same in zip(columns, once, strict=True) if not same],
        rows=[[cell for cell, same in zip(row, once, strict=True) if not same] for row in body],
        told=", ".join(told),
        left=left,
    )
