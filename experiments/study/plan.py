"""Which cells a study consists of, as far as the results so far tell.

The plan follows from the study and from what lies in the cells' folders, and from nothing else: so
a study that is killed, or carried out by several processes at once, comes to the same cells.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import fmean

from experiments.study import search
from experiments.study.arms import Arm
from experiments.study.cells import Cell, Outcome, Point, Trial
from experiments.study.design import (
    TUNING_SEED,
    Study,
    check_free,
    is_list,
    log_grid,
    quoted,
    typed,
    written,
)
from experiments.study.match import matched

Group = tuple[str, str]  # protocol and task: what methods are compared under


@dataclass
class Plan:
    """A study with its cells, and what is known of each."""

    study: Study
    name: str
    common: list[str]  # overrides from the command line
    folders: list[str] = field(default_factory=list)  # overrides that find settings elsewhere
    trusted: bool = True  # whether the study may name any class, as a user's own command may
    outcomes: dict[Cell, Outcome] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for override in self.common:
            check_free(override)

    @cached_property
    def groups(self) -> dict[Group, list[Arm]]:
        """The arms that are tuned alike and compared."""
        return {
            (protocol, task): [self.arm(protocol, task, method) for method in self.study.methods]
            for protocol in self.study.protocols
            for task in self.study.tasks
        }

    def arm(self, protocol: str, task: str, method: str) -> Arm:
        """One method on one task, of the size of the method that all are matched with."""
        arm = self.unmatched(protocol, task, method)
        other = self.study.match
        if other is None or method == other:
            return arm
        rank = matched(arm.config, self.unmatched(protocol, task, other).config)
        return (
            arm
            if rank is None
            else replace(arm, overrides=(*arm.overrides, f"variant.rank={rank}"))
        )

    def unmatched(self, protocol: str, task: str, method: str) -> Arm:
        """One method on one task."""
        start = self.start(protocol, task, method)
        return Arm(
            protocol=protocol,
            task=task,
            method=method,
            overrides=(
                *self.study.overrides,
                *self.study.task(task),
                *self.study.method(method),
                *self.common,
                *self.folders,
                f"protocol={protocol}",
                *([] if start is None else [f"start={quoted(str(start.folder))}"]),
            ),
            marks=(
                f"tracker.group={quoted(self.name)}",
                f"tracker.tags=[{protocol},{quoted(task)},{quoted(method)}]",
            ),
            start=start,
            trusted=self.trusted,
        )

    def start(self, protocol: str, task: str, method: str) -> Cell | None:
        """The run whose adapter the runs of an arm begin with: the method as it stands."""
        if protocol != "paper" or task not in self.study.begin:
            return None
        return self.arm(protocol, self.study.begin[task], method).cell("start", (), 0)

    def look(self) -> list[Cell]:
        """Look at the folders again; returns every cell that is known to belong to the study."""
        self.outcomes = {cell: known for cell, known in self.outcomes.items() if known.settled}
        found = list(dict.fromkeys(self.cells()))
        check_apart(found)
        for cell in found:
            self.outcome(cell)
        return found

    def outcome(self, cell: Cell) -> Outcome:
        """Where the cell stood when it was last looked at."""
        if cell not in self.outcomes:
            self.outcomes[cell] = cell.outcome()
        return self.outcomes[cell]

    def over(self, trial: Trial) -> bool:
        """Whether nothing more will come of a trial by itself."""
        return all(self.outcome(cell).settled for cell in trial.cells)

    def cells(self) -> Iterator[Cell]:
        """The cells that can be carried out by now, or were."""
        for group in self.groups:
            yield from self.of_group(group)

    def of_group(self, group: Group) -> Iterator[Cell]:
        """First the runs that others begin with, then the trials, then the chosen settings."""
        arms = self.groups[group]
        yield from (arm.start for arm in arms if arm.start is not None)
        ready = self.ready(group)
        trials = self.trials(ready)
        for arm in ready:
            yield from (cell for trial in trials[arm.method] for cell in trial.cells)
        for arm in ready:
            yield from self.finals(arm, trials)

    def ready(self, group: Group) -> list[Arm]:
        """The arms that can be tuned; a start that failed is on record."""
        arms = self.groups[group]
        return [arm for arm in arms if arm.start is None or self.complete(arm.start)]

    def expected(self) -> int:
        """How many cells the study will have, as far as can be told before all trials are over."""
        known = list(dict.fromkeys(self.cells()))
        finals = sum(cell.stage == "test" for cell in known)
        arms = sum(len(arms) for arms in self.groups.values())
        return len(known) - finals + arms * self.study.seeds

    def complete(self, cell: Cell) -> bool:
        """Whether the cell has a result that is one."""
        return self.outcome(cell).status == "complete"

    def finals(self, arm: Arm, trials: dict[str, list[Trial]]) -> list[Cell]:
        """The runs that are reported, once the trials that decide their settings are over."""
        decisive = trials.values() if self.study.extend else [trials[arm.method]]
        waiting = any(not self.over(trial) for line in decisive for trial in line)
        chosen = best(trials[arm.method])
        if waiting or chosen is None:
            return []
        return [arm.cell("test", chosen.point, seed) for seed in range(self.study.seeds)]

    def trials(self, arms: list[Arm]) -> dict[str, list[Trial]]:
        """By method, the points that it is tried at by now."""
        if self.study.search == "optuna":
            return {arm.method: search.asked(self, arm) for arm in arms}
        ends = {arm.method: (0, 0) for arm in arms}
        for _ in range(self.study.extend):
            lines = {arm.method: self.line(arm, ends[arm.method]) for arm in arms}
            waiting = any(not self.over(trial) for line in lines.values() for trial in line)
            if waiting or not any(edge(line) for line in lines.values()):
                break
            # Every method gets a point more, so that all are tried equally often.
            ends = {method: further(ends[method], line) for method, line in lines.items()}
        return {arm.method: self.line(arm, ends[arm.method]) for arm in arms}

    def line(self, arm: Arm, ends: tuple[int, int]) -> list[Trial]:
        """The grid of an arm, grown by this many points at its low and its high end."""
        columns = [
            [typed(key, written(value)) for value in self.values(arm, key, ends)]
            for key in self.study.tuned
        ]
        return [self.trial(arm, tuple(point)) for point in product(*columns)]

    def values(self, arm: Arm, key: str, ends: tuple[int, int] = (0, 0)) -> list:
        """The values of one axis for one method."""
        axis = self.study.tuned[key]
        if is_list(axis):
            return axis
        return log_grid(float(arm.own(key)), axis["decades"], axis["points"], *ends)

    def trial(self, arm: Arm, point: Point) -> Trial:
        """A point with what is known of it."""
        seeds = range(TUNING_SEED, TUNING_SEED + self.study.tuning_seeds)
        cells = tuple(arm.cell("select", point, seed) for seed in seeds)
        scores = [self.outcome(cell).score for cell in cells]
        known = [score for score in scores if score is not None]
        return Trial(point, cells, fmean(known) if len(known) == len(cells) else None)


def check_apart(cells: list[Cell]) -> None:
    """Raise ValueError for two cells that are one run, and so would be read as two results.

    A run that others begin with may be one of its own arm, and is then done once.
    """
    known: dict[Path, Cell] = {}
    for cell in cells:
        other = known.setdefault(cell.folder, cell)
        arms = [(one.protocol, one.task, one.method) for one in (cell, other)]
        if other is not cell and (arms[0] != arms[1] or "start" not in (cell.stage, other.stage)):
            raise ValueError(
                f"'{other.title}' and '{cell.title}' have the same settings and are one run, in "
                f"{cell.folder}; say in what they differ, or leave one out."
            )


def best(trials: list[Trial]) -> Trial | None:
    """The trial with the highest score, the first of several; None where none succeeded."""
    scored = [trial for trial in trials if trial.score is not None]
    return max(scored, key=score, default=None)


def score(trial: Trial) -> float:
    """The score of a trial that has one."""
    assert trial.score is not None
    return trial.score


def edge(trials: list[Trial]) -> int:
    """At which end of an axis of numbers the best point lies: -1 the low, 1 the high, 0 neither."""
    chosen = best(trials)
    if chosen is None:
        return 0
    for axis, value in zip(zip(*(t.point for t in trials), strict=True), chosen.point, strict=True):
        numbers = sorted({number for setting in axis if (number := parsed(setting)) is not None})
        place = parsed(value)
        if len(numbers) > 1 and place in (numbers[0], numbers[-1]):
            return -1 if place == numbers[0] else 1
    return 0


def parsed(setting: str) -> float | None:
    """The number of `variant.lr=0.001`; None for what is no number."""
    try:
        return float(setting.partition("=")[2])
    except ValueError:
        return None


def further(ends: tuple[int, int], trials: list[Trial]) -> tuple[int, int]:
    """The ends of a grid that grows by a point on the side that its best point is nearer to."""
    low, high = ends
    chosen = best(trials)
    place = 0 if chosen is None else trials.index(chosen)
    return (low + 1, high) if 2 * place < len(trials) else (low, high + 1)
