"""The summary of a study: how every method was tuned, whether alike, and its scores."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from experiments.disk.outputs import OUTPUTS
from experiments.results.result import Result, read_result
from experiments.stored import summary as stored
from experiments.stored.shown import plain as shown
from experiments.study import audit, race
from experiments.study.arms import Arm
from experiments.study.cells import Cell, Trial, short
from experiments.study.choice import best, edge
from experiments.study.design import STUDIES
from experiments.study.plan import Group, Plan

CONFIDENCE = 0.95
ACROSS = 4  # most points of a method beside each other
PADDING = (0, 2, 0, 0)  # of a cell of a table
EDGES = {-1: "at the low edge", 0: "", 1: "at the high edge"}


@dataclass
class Row:
    """One method on one task under one protocol."""

    protocol: str
    task: str
    method: str
    metric: str | None = None
    tuned_by: str | None = None  # the metric of the selection scores
    trials: int = 0
    curve: list[tuple[str, float | None]] = field(default_factory=list)  # point, selection score
    stopped: list[tuple[str, float]] = field(default_factory=list)  # point, score half-way
    saved_seconds: float = 0.0  # by stopping there, about
    unpaused: int = 0  # points whose first run had no record half-way
    own: float | None = None  # selection score of the method's own settings
    tuned: float | None = None  # that of the chosen ones
    chosen: list[str] | None = None
    rival: list[str] | None = None  # the point that was as good; it has final runs too
    rival_scores: list[float] = field(default_factory=list)
    tries: list[tuple[str, list[float]]] = field(default_factory=list)  # point, scores of its runs
    edge: str = ""
    seeds: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)  # one for each of the seeds
    score: float | None = None  # what the protocol reports of them
    spread: float | None = None  # their standard deviation
    floor: float | None = None  # of the metric's baseline
    trained: int | None = None  # parameters
    tuning_seconds: float = 0.0
    seconds: float = 0.0  # of the runs that are reported
    lost: list[str] = field(default_factory=list)  # runs that failed or diverged, with the reason
    remarks: list[str] = field(default_factory=list)  # how its treatment differed from the others'


@dataclass
class Summary:
    """The rows of a study, by task and protocol."""

    plan: Plan

    @cached_property
    def groups(self) -> dict[Group, list[Row]]:
        """Every method's row, with the remarks of the audit."""
        self.plan.refresh()
        return {group: self.of_group(group) for group in self.plan.groups}

    def of_group(self, group: Group) -> list[Row]:
        """The rows that are compared with each other."""
        arms = self.plan.ready(group)
        trials = self.plan.trials(arms)
        runs = {arm.method: self.results(arm, trials) for arm in arms}
        rows = [
            self.row(arm, trials, runs[arm.method]) if arm in arms else self.unbegun(arm)
            for arm in self.plan.groups[group]
        ]
        known = {method: audit.facts(map(vars, found)) for method, found in runs.items() if found}
        differing = audit.remarks(known)
        sizes = {row.method: row.trained for row in rows if row.trained is not None}
        unequal = audit.unequal(sizes, self.plan.study.parameters) if sizes else {}
        most = max(row.trials for row in rows)
        for row in rows:
            row.remarks += differing.get(row.method, []) + unequal.get(row.method, [])
            if row.trials < most:
                row.remarks.append(f"tried at {row.trials} points (others {most})")
            if len(row.scores) < self.plan.study.seeds:
                row.remarks.append(f"{len(row.scores)} of {self.plan.study.seeds} seeds")
        return rows

    def results(self, arm: Arm, trials: dict[str, list[Trial]]) -> list[Result]:
        """The reported runs of an arm, at its best point, that have ended well."""
        chosen = best(trials[arm.method])
        return [
            read_result(cell.folder)
            for cell in self.plan.finals(arm, trials)
            if chosen is not None and cell.point == chosen.point and self.plan.complete(cell)
        ]

    def scores_at(self, finals: list[Cell], rival: Trial) -> list[float]:
        """The scores of the runs at the second best point."""
        known = [self.plan.outcome(cell) for cell in finals if cell.point == rival.point]
        return [outcome.score for outcome in known if outcome.score is not None]

    def unbegun(self, arm: Arm) -> Row:
        """The row of a method whose first run, with which the others begin, is missing."""
        row, start = Row(arm.protocol, arm.task, arm.method), arm.start
        if start is not None and self.is_lost(start):
            row.lost = [self.lost(start)]
        return row

    def row(self, arm: Arm, trials: dict[str, list[Trial]], runs: list[Result]) -> Row:
        """One method's row."""
        line = trials[arm.method]
        row = Row(arm.protocol, arm.task, arm.method)
        tried = [cell for trial in line for cell in trial.cells]
        finals = self.plan.finals(arm, trials)
        row.trials = len(line)
        row.curve = [(" ".join(trial.point), trial.score) for trial in line]
        row.tries = [(" ".join(trial.point), list(trial.scores)) for trial in line]
        for trial in line:
            known = self.plan.outcome(trial.cells[0])
            if self.plan.study.halves and known.status == "complete":
                row.unpaused += known.halfway is None
            if known.status == "stopped" and known.halfway is not None:
                row.stopped.append((" ".join(trial.point), known.halfway))
                row.saved_seconds += known.saved
        metrics = (self.plan.outcome(cell).metric for cell in tried)
        row.tuned_by = next((metric for metric in metrics if metric is not None), None)
        row.lost = [self.lost(cell) for cell in (*tried, *finals) if self.is_lost(cell)]
        row.tuning_seconds = self.seconds(tried)
        row.seconds = self.seconds(finals)
        chosen = best(line)
        if chosen is not None:
            row.tuned, row.chosen = chosen.score, list(chosen.point)
            row.edge = EDGES[edge(line)] if self.plan.study.search == "grid" else ""
            rival = self.plan.rival(arm, trials) if finals else None
            if rival is not None:
                row.rival, row.rival_scores = list(rival.point), self.scores_at(finals, rival)
            row.own = next((t.score for t in line if self.is_own(arm, t)), None)
        if runs:
            row.metric = runs[0].primary["metric"]
            row.seeds = [run.seed for run in runs]
            row.scores = [run.primary["score"] for run in runs]
            row.score = aggregate_scores(arm.protocol, row.scores)
            row.spread = stdev(row.scores) if len(row.scores) > 1 else None
            row.floor = runs[0].primary.get("floor")  # earlier versions have none
            row.trained = runs[0].cost["parameters"]["trained"]
        return row

    def is_own(self, arm: Arm, trial: Trial) -> bool:
        """Return whether a trial has the method's own settings."""
        given = dict(override.split("=", 1) for override in trial.point)
        return all(str(arm.own_value(key)) == value for key, value in given.items())

    def is_lost(self, cell: Cell) -> bool:
        """Return whether a run failed or diverged."""
        return self.plan.outcome(cell).status in ("diverged", "failed")

    def lost(self, cell: Cell) -> str:
        """Say that a run failed or diverged, and why."""
        outcome = self.plan.outcome(cell)
        return f"{cell.title} {outcome.status}: {outcome.reason}"

    def seconds(self, cells: list[Cell]) -> float:
        """Return the seconds that runs took in all their phases."""
        return sum(self.plan.outcome(cell).seconds for cell in cells)

    @property
    def failed(self) -> bool:
        """True if a cell failed, or one that is reported diverged; a diverged trial is data."""
        for cell, outcome in self.plan.outcomes.items():
            if outcome.status == "failed" or (outcome.status, cell.stage) == ("diverged", "test"):
                return True
        return any(row.score is None for rows in self.groups.values() for row in rows)

    def inflation(self) -> list[dict[str, Any]]:
        """By how many points the best epoch on the scored split beats the clean protocol."""
        rows = {(r.protocol, r.task, r.method): r for rows in self.groups.values() for r in rows}
        pairs = [
            (clean, rows["paper", task, method])
            for (protocol, task, method), clean in rows.items()
            if protocol == "clean" and ("paper", task, method) in rows
        ]
        return [
            difference(clean, paper)
            for clean, paper in pairs
            if set(clean.seeds) & set(paper.seeds)
        ]


def aggregate_scores(protocol: str, scores: list[float]) -> float:
    """The mean over seeds; the median under the paper's protocol."""
    return median(scores) if protocol == "paper" else fmean(scores)


def difference(clean: Row, paper: Row) -> dict[str, Any]:
    """Paper minus clean in points, seed by seed, with the 95 % t-interval of its mean."""
    before = dict(zip(clean.seeds, clean.scores, strict=True))
    after = dict(zip(paper.seeds, paper.scores, strict=True))
    points = [100 * (after[seed] - before[seed]) for seed in before.keys() & after.keys()]
    found = {"task": clean.task, "method": clean.method, "points": fmean(points), "interval": None}
    if len(points) > 1:
        from scipy import stats

        half = stats.t.ppf((1 + CONFIDENCE) / 2, len(points) - 1) * stats.sem(points)
        found["interval"] = [found["points"] - half, found["points"] + half]
    return found


def conclude(plan: Plan) -> bool:
    """Print and write the summary of a study; False if a run that is needed failed."""
    summary = Summary(plan)
    show(summary)
    write(summary, OUTPUTS / STUDIES / plan.name)
    return not summary.failed


def write(summary: Summary, folder: Path) -> None:
    """Write the rows, for other programs."""
    rows = [row for rows in summary.groups.values() for row in rows]
    second = {(row.protocol, row.task, row.method, tuple(row.rival or ())) for row in rows}
    cells = [
        {
            "folder": str(cell.folder),
            "stage": cell.stage,
            "status": outcome.status,
            "choice": int((cell.protocol, cell.task, cell.method, cell.point) in second),
        }
        for cell, outcome in summary.plan.outcomes.items()
    ]
    content = {
        "study": summary.plan.name,
        "tuning": summary.plan.study.tuning,
        "rows": [asdict(row) for row in rows],
        "inflation": summary.inflation(),
    }
    stored.write(folder, content | {"cells": cells})


def show(summary: Summary) -> None:
    """Print for every comparison its tuning, the audit, and the scores."""
    rich = Console()
    for (protocol, task), rows in summary.groups.items():
        split = "held-out rows" if protocol == "clean" else "the scored split"
        others = {row.tuned_by for row in rows} - {None, *(row.metric for row in rows)}
        by = "".join(f" by {metric}" for metric in sorted(filter(None, others)))
        tuned = f", protocol {protocol}; tuned on {split}{by}"
        rich.print("\n", shown(task, "bold"), tuned, sep="")
        rich.print(curves(rows, rich.width))
        remarks = [f"{row.method}: {remark}" for row in rows for remark in row.remarks + row.lost]
        rich.print("Audit: every method was treated alike." if not remarks else "Audit:")
        for remark in remarks:
            rich.print(shown(f"  {remark}"), highlight=False, soft_wrap=True)
        if summary.plan.study.halves:
            rich.print(describe_halving(rows), highlight=False, soft_wrap=True)
        rich.print(scores(rows))
    for item in summary.inflation():
        low, high = item["interval"] or (float("nan"), float("nan"))
        rich.print(
            shown(
                f"{item['task']} {item['method']}: paper minus clean {item['points']:+.2f} points "
                f"[{low:+.2f}, {high:+.2f}]"
            ),
            highlight=False,
        )


def describe_halving(rows: list[Row]) -> str:
    """The rule by which points were stopped half-way, how many were, and the seconds saved."""
    points, stopped = sum(row.trials for row in rows), sum(len(row.stopped) for row in rows)
    saved, spent = sum(row.saved_seconds for row in rows), sum(row.tuning_seconds for row in rows)
    unpaused = sum(row.unpaused for row in rows)
    rest = f" {unpaused} had no record there to pause at (record.log_every)." if unpaused else ""
    return (
        f"Halving: after {race.PAUSE:.0%} of their steps only the better half of every method's "
        f"points continued; {stopped} of {points} points were stopped.{rest} That saved "
        f"about {saved:,.0f} s; all trials took {spent:,.0f} s."
    )


def curves(rows: list[Row], width: int) -> Table:
    """The score at every point, in a table of so many characters.

    The chosen point has a *, and one that is as good a ~. A point that was stopped has its score
    half-way and the mark /2.
    """
    cells = [list(points_of(row)) for row in rows]
    gap = PADDING[1]
    names = max((len(row.method) for row in rows), default=0) + gap
    edges = longest_word(row.edge for row in rows) + gap
    word = longest_word(text for texts in cells for text in texts)
    across = max(1, min(ACROSS, (width - names - edges) // (word + gap)))
    points = [Column(min_width=word, overflow="fold") for _ in range(across)]
    table = Table(Column(no_wrap=True), *points, Column(), box=None, padding=PADDING,
                  show_header=False)  # fmt: skip
    for row, texts in zip(rows, cells, strict=True):
        for line in lines(row, texts, across):
            table.add_row(*map(shown, line))
    return table


def longest_word(texts: Iterable[str]) -> int:
    """The length of the longest word, at which a column cannot break."""
    return max((len(word) for text in texts for word in text.split()), default=0)


def points_of(row: Row) -> Iterator[str]:
    """Every point of a method with its score and its mark."""
    chosen = None if row.chosen is None else " ".join(row.chosen)
    rival = None if row.rival is None else " ".join(row.rival)
    marks = dict.fromkeys(dict(row.stopped), "/2") | {rival: "~", chosen: "*"}
    for point, score in (dict(row.curve) | dict(row.stopped)).items():
        yield f"{short(point)}: {number(score)}{marks.get(point, '')}"


def lines(row: Row, cells: list[str], across: int) -> Iterator[list[str]]:
    """The points of a method, `across` of them in a line, after its name and before its edge."""
    for start in range(0, max(1, len(cells)), across):
        part = cells[start : start + across]
        last = start + across >= len(cells)
        padding = [""] * (across - len(part))
        yield [row.method if start == 0 else "", *part, *padding, row.edge if last else ""]


def scores(rows: list[Row]) -> Table:
    """Tabulate the scores of every method at its chosen settings, and their baseline."""
    metric = next((row.metric for row in rows if row.metric), "score")
    table = plain("method", "own → tuned", metric, "seeds", "trained", "tuning + runs")
    for row in rows:
        spread = "" if row.spread is None else f" ± {row.spread:.4f}"
        table.add_row(
            shown(row.method),
            f"{number(row.own)} → {number(row.tuned)}",
            number(row.score) + spread,
            str(len(row.scores)),
            "-" if row.trained is None else f"{row.trained:,}",
            f"{row.tuning_seconds:,.0f} + {row.seconds:,.0f} s",
        )
    floor = next((row.floor for row in rows if row.floor is not None), None)
    if floor is not None:
        table.add_row("baseline", "", number(floor))
    return table


def plain(*heads: str) -> Table:
    """A table without lines; with a head if it has names."""
    columns = [Column(head, no_wrap=True) for head in heads]
    return Table(*columns, box=None, padding=PADDING, show_header=bool(heads))


def number(value: float | None) -> str:
    """A score with four digits, or - if there is none."""
    return "-" if value is None else f"{value:.4f}"
