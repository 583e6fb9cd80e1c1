"""All published studies below a folder as one page."""

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from analysis.family import count
from analysis.load import STUDIES, study_in
from analysis.report import words
from analysis.report.comparisons import Comparison
from analysis.report.html_tables import Cell, Column, numeric, table, text
from analysis.report.leaderboard import (
    effective_rates,
    machines,
    mean,
    mean_cell,
    row_of,
    training_times,
)
from analysis.report.material import Record, gather
from analysis.report.page import Report, render, unread
from analysis.report.sections import (
    BASELINE,
    METHOD,
    MODEL,
    PROTOCOL,
    RATE,
    STUDY,
    TASK,
    floor_cell,
    number,
    where,
)
from experiments.stored import result, summary
from experiments.stored.shown import visible

NAME = "index.html"
COLUMNS = (
    METHOD, STUDY, TASK, MODEL, PROTOCOL,
    number("score", "mean over the seeds; below it its 95 % interval"), BASELINE,
    Column(title="metric", shared=True),
    Column(title="parameters", numbers=True, most=True, hint="trained, without the head"),
    number("time", "of training one run, mean over the seeds"), RATE,
    number("rows", "of the train split that were trained on"), number("seeds"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Study:
    """A published study: its report, and the ways from the page to its runs."""

    title: str
    report: Report
    page: Path  # the folder that the page lies in
    link: str  # the address of its summary, if it has one
    command: str  # writes its whole report

    @property
    def machines(self) -> str:
        """The machines and stacks that times are of."""
        return machines(self.report.found, self.report.cost_tables) if self.report.found else ""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One seed behind a number: its score, and the addresses of its files."""

    seed: int
    score: str
    files: dict[str, str]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One method on one task of one study: a row of the board, and the runs behind it.

    `commands` repeat the runs; those that differ in the seed alone have one command together, with
    the other seeds.
    """

    name: str
    title: str
    cells: list[Cell]
    runs: list[Run]
    commands: list[tuple[str, str]]


def find_studies(folder: Path) -> list[Path]:
    """The own folders of all studies below a folder, in order. Raises ValueError without one."""
    places = [path for path in sorted(folder.rglob(f"{STUDIES}/*")) if study_in(path) is not None]
    if not places:
        raise ValueError(
            f"There is no study below {folder}. python -m analysis.report {folder} reports runs "
            "that are of no study."
        )
    return places


def read_studies(folder: Path, page: Path) -> tuple[list[Study], list[str]]:
    """Every study below a folder that can be read, and why others, or files of them, cannot.

    Raises ValueError if there is none.
    """
    places = find_studies(folder)
    names = [place.name for place in places]
    found: list[Study] = []
    left_out: list[str] = []
    for place in places:
        inside = place.relative_to(folder).as_posix()
        try:
            study = read_study(folder, inside, page)
        except ValueError as error:
            left_out.append(str(error))
            print(f"left out: {visible(error)}", file=sys.stderr)
            continue
        left_out += study.report.material.left_out
        found.append(replace(study, title=inside) if names.count(place.name) > 1 else study)
    if not found:
        raise ValueError(left_out[0])
    return found, left_out


def read_study(folder: Path, inside: str, page: Path) -> Study:
    """The study at a place inside a folder, judged. Raises ValueError if it has no runs."""
    place = folder / inside
    report = Report(gather(place))
    report.found  # noqa: B018  (judged now, so that what does not fit is known)
    path = place / summary.NAME
    # As it is called from where the folder lies, so that a page holds no path of a machine.
    called = shlex.quote(f"{folder.resolve().name}/{inside}")
    return Study(
        title=place.name,
        report=report,
        page=page,
        link=address(path, page) if path.exists() else "",
        command=f"python -m analysis.report {called}",
    )


def make_page(folder: Path, page: Path) -> str:
    """The page on all studies below a folder; `page` is the folder that it will lie in."""
    studies, left_out = read_studies(folder, page)
    places = [(study, one) for study in studies for one in study.report.found]
    board = [entry for study, one in places for entry in entries(study, one)]
    named = [replace(entry, name=f"runs-{i}") for i, entry in enumerate(board, start=1)]
    values = {
        "summary": facts(studies),
        "board": table("board", COLUMNS, map(linked, named)),
        "studies": studies,
        "entries": named,
        "notices": list(unread([reason.replace(f"{folder}/", "") for reason in left_out])),
    }
    return render("index.html", values)


def facts(studies: Sequence[Study]) -> list[tuple[str, str]]:
    """Count the studies, runs, methods and so on: numbers with their nouns."""
    found = [one for study in studies for one in study.report.found]
    numbers = [
        (len(studies), "study"),
        (sum(len(one.runs) for one in found), "run"),
        (len({name for one in found for name in one.methods["method"]}), "method"),
        (len({one.task for one in found}), "task"),
        (len({one.model for one in found}), "model"),
    ]
    return [(f"{value:,}", count(value, noun).partition(" ")[2]) for value, noun in numbers]


def entries(study: Study, one: Comparison) -> Iterator[Entry]:
    """The methods of one task, best first."""
    for method in one.methods["method"]:
        runs = one.runs[one.runs["method"] == method].sort_values("seed")
        results = [study.report.material.results[place] for place in runs.index]
        yield Entry(
            name="",
            title=f"{method} on {one.task} with {one.model}, {study.title}",
            cells=row(study, one, method, results),
            runs=[one_run(run, one.metric, study.page) for run in results],
            commands=commands(results),
        )


def row(study: Study, one: Comparison, method: str, results: Sequence[Record]) -> list[Cell]:
    """One method on one task."""
    known = row_of(one.methods, method)
    assert known is not None, method
    costs = study.report.cost_tables
    task, model, protocol = where(one)
    rates = effective_rates(one, method)
    seconds = mean(training_times(method, [one], costs))
    return [
        Cell(text=method, key=method, strong=True, look=method),
        text(study.title), task, model, protocol,
        mean_cell(known, one.metric),
        floor_cell(one),
        text(one.metric),
        numeric(known["trained"], lambda value: f"{value:,.0f}"),
        numeric(seconds, words.duration),
        Cell(text=words.rates(rates), key=min(rates, default=float("inf"))),
        rows_trained_on(results),
        seeds_cell(known),
    ]  # fmt: skip


def rows_trained_on(results: Sequence[Record]) -> Cell:
    """How many rows of the train split were trained on: one number, or the least and the most."""
    sizes = sorted({run["examples"]["trained_on"] for run in results})
    shown = [f"{size:,}" for size in (sizes[0], sizes[-1])]
    return Cell(text=" to ".join(dict.fromkeys(shown)), key=float(sizes[0]))


def seeds_cell(known: Record) -> Cell:
    """The number of seeds with a score, and below it how many runs diverged."""
    lost = f"{known['lost']} diverged" if known["lost"] else ""
    return Cell(text=str(known["seeds"]), key=float(known["seeds"]), small=lost)


def linked(entry: Entry) -> list[Cell]:
    """The cells of a row; each number of the method's own leads to the runs behind it."""
    return [
        replace(cell, link=f"#{entry.name}") if column.numbers and column != BASELINE else cell
        for column, cell in zip(COLUMNS, entry.cells, strict=True)
    ]


def one_run(run: Record, metric: str, page: Path) -> Run:
    """A seed of a method."""
    folder = Path(run["folder"])
    files = [name for name in (result.NAME, result.PREDICTIONS) if (folder / name).exists()]
    return Run(
        seed=run["seed"],
        score=words.score(run["primary"]["score"], metric),
        files={name: address(folder / name, page) for name in files},
    )


def address(path: Path, page: Path) -> str:
    """The way from a page's folder to a file or folder, as a browser takes it."""
    return quote(Path(os.path.relpath(path, page)).as_posix())


def commands(results: Iterable[Record]) -> list[tuple[str, str]]:
    """The commands that repeat runs, each with the other seeds that it is for."""
    seeds: dict[tuple[str, ...], list[int]] = {}
    for run in results:
        if run["overrides"]:
            same = tuple(word for word in run["overrides"] if not word.startswith("seed="))
            seeds.setdefault(same, []).append(run["seed"])
    return [
        (shlex.join(["python", "run.py", *same, f"seed={first}"]), ", ".join(map(str, others)))
        for same, (first, *others) in seeds.items()
    ]
