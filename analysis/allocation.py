"""Where the methods that choose put their parameters: AdaLoRA's ranks, LoRA-drop's kept layers.

    python -m analysis.allocation RUN [RUN ...] [--out FOLDER]

Read from what a run's telemetry says of each matrix, and on task=planted held against the truth.
"""

import argparse
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from analysis import figures
from analysis.load import read
from analysis.names import place
from experiments.disk.files import read_lines
from experiments.stored.history import NAME as HISTORY
from experiments.stored.shown import fail, file_name, plain

PLANTED = re.compile(r"^planted \w+ in (.+?); ")  # as the task says where its data are from


@dataclass(frozen=True)
class Allocation:
    """The amount that a method kept in each matrix, and the true amounts."""

    kept: dict[str, float]
    planted: set[str]
    each: float  # true amount in each planted matrix

    def __post_init__(self) -> None:
        missing = sorted(self.planted - self.kept.keys())
        if missing or not self.planted:
            raise ValueError(
                f"The truth must lie in adapted matrices: {missing[0]} is not one of them."
                if missing
                else "Nothing is planted, so there is no truth to compare with."
            )

    @property
    def hits(self) -> float:
        """The amount that was kept where something is planted."""
        return sum(kept for name, kept in self.kept.items() if name in self.planted)

    @property
    def precision(self) -> float:
        """The share of what is kept that lies in planted matrices."""
        return self.hits / max(sum(self.kept.values()), 1)

    @property
    def recall(self) -> float:
        """The share of the truth that is kept."""
        found = [min(self.kept[name], self.each) for name in self.planted]
        return sum(found) / (self.each * len(self.planted))

    @property
    def chance(self) -> float:
        """The precision of keeping without looking."""
        return len(self.planted) / len(self.kept)


def ranks(folder: str | Path) -> pd.DataFrame:
    """The rank that each matrix has at the end of a run.

    Raises ValueError for a run whose method allocates no ranks.
    """
    return per_matrix(Path(folder), "rank")


def rank_history(folder: str | Path) -> pd.DataFrame:
    """The rank of each matrix by the last allocation before each logged step."""
    path = Path(folder) / HISTORY
    rows = [
        {"step": int(record["step"]), **place(name), "rank": value}
        for record in read_lines(path)
        for name, value in matrix_figures(record, "rank").items()
    ]
    if not rows:
        raise ValueError(f"{path} says nothing of ranks: the method allocates none.")
    return pd.DataFrame(rows)


def importance(folder: str | Path) -> pd.DataFrame:
    """The importance of each matrix as the probe found it, and whether it has a pair of its own.

    Raises ValueError for a run whose method measures none.
    """
    table = per_matrix(Path(folder), "importance")
    own = per_matrix(Path(folder), "own")
    return table.merge(own.astype({"own": bool}))


def against_truth(folder: str | Path) -> Allocation:
    """Return what a run on task=planted kept, and the truth; raises ValueError for other runs.

    The amount is the rank if ranks are allocated, and else one for each pair of its own.
    """
    result = read_result(Path(folder))
    where = planted(folder)
    if not where:
        raise ValueError(f"{folder} is no run on task=planted, so where the truth lies is unknown.")
    rank = matrix_figures(result["telemetry"], "rank")
    if rank:
        return Allocation(rank, where, float(result["config"]["task"]["rank"]))
    table = per_matrix(Path(folder), "own")
    return Allocation(dict(zip(table["name"], table["own"], strict=True)), where, 1.0)


def planted(folder: str | Path) -> set[str]:
    """The matrices that a run's task has changed; none, if it is no such task."""
    source = read_result(Path(folder))["examples"]["source"]["train"]
    found = PLANTED.match(source or "")
    return set(found[1].split(", ")) if found else set()


def per_matrix(folder: Path, what: str) -> pd.DataFrame:
    """One figure of the final telemetry for each matrix."""
    found = matrix_figures(read_result(folder)["telemetry"], what)
    if not found:
        raise ValueError(f"{folder} says nothing of '{what}' per matrix in its telemetry.")
    return pd.DataFrame([{**place(name), what: value} for name, value in found.items()])


def matrix_figures(telemetry: dict[str, float], what: str) -> dict[str, float]:
    """The figures `what/NAME` by name."""
    prefix = f"{what}/"
    return {k.removeprefix(prefix): v for k, v in telemetry.items() if k.startswith(prefix)}


def read_result(folder: Path) -> dict[str, Any]:
    """The content of a run's result.json."""
    path = folder / "result.json"
    if not path.is_file():
        raise ValueError(f"{folder} holds no finished run: there is no result.json in it.")
    return read(path)


def draw(folder: Path, out: Path, marked: Collection[str]) -> pd.DataFrame:
    """Write the figures of one run, and give the table they show."""
    if matrix_figures(read_result(folder)["telemetry"], "rank"):
        table = in_layers(folder, ranks(folder))
        figures.save(figures.rank_map(table, marked=marked), out / "rank_map")
        figures.save(figures.budget_curve(rank_history(folder)), out / "budget")
        return table
    table = in_layers(folder, importance(folder))
    figures.save(figures.importance_bars(table, marked=marked), out / "importance")
    return table


def in_layers(folder: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The matrices that stand in a numbered layer; raises ValueError if there is none."""
    found = table.dropna(subset=["layer"])
    if found.empty:
        raise ValueError(
            f"{folder / 'result.json'}: telemetry names no matrix in a numbered layer, as "
            f"'{table['name'].iloc[0]}' is none."
        )
    return found


def shown(table: pd.DataFrame, title: str = "") -> Table:
    """A tidy table as it fits on a screen, the names of layers left out."""
    screen = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    columns = [column for column in table if column != "name"]
    for column in columns:
        screen.add_column(plain(column), justify="right", no_wrap=True)
    for row in table[columns].itertuples(index=False):
        screen.add_row(*(plain(f"{cell:.4g}" if isinstance(cell, float) else cell) for cell in row))
    return screen


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.allocation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="folder of a finished run"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("outputs/allocation"), help="folder of tables and figures"
    )
    given = parser.parse_args()
    console = Console(width=110)
    try:
        for run in given.runs:
            where = planted(run)
            label = read_result(run)["label"]
            out = given.out / file_name(f"{label['variant']}-{run.name}")
            table = draw(run, out, where)
            console.print(plain(run))
            if where:
                console.print(shown(table.assign(planted=table["name"].isin(list(where)))))
                found = against_truth(run)
                console.print(
                    f"precision {found.precision:.2f} (chance {found.chance:.2f}), "
                    f"recall {found.recall:.2f}"
                )
            else:
                console.print(shown(table))
            console.print(plain(f"Figures are in {out}."))
    except (ValueError, OSError) as error:
        fail(error)


if __name__ == "__main__":
    main()
