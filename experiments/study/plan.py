"""The cells that a study consists of, as far as the results so far tell.

The plan follows from the study and from what lies in the cells' folders, and from nothing else: so
a study that is killed, or carried out by several processes at once, comes to the same cells.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from math import prod
from pathlib import Path
from statistics import fmean

from experiments.settings.scalars import quote
from experiments.stored.summary import TUNING_SEED
from experiments.study import race, search
from experiments.study.arms import Arm
from experiments.study.cells import Cell, Outcome, Point, Trial
from experiments.study.choice import best, edge, extend_grid, finalists
from experiments.study.composing import Composer
from experiments.study.design import (
    Study,
    check_free,
    format_override,
    format_value,
    is_list,
    log_grid,
)

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
        from experiments.study.match import match_rank  # which loads models

        rank = match_rank(arm.config, self.unmatched(protocol, task, other).config)
        return (
            arm
            if rank is None
            else replace(
                arm, overrides=(*arm.overrides, f"variant.rank={rank}"), composer=None, cells={}
            )
        )

    def unmatched(self, protocol: str, task: str, method: str) -> Arm:
        """One method on one task."""
        start = self.start(protocol, task, method)
        begun = () if start is None else (f"start={quote(str(start.folder))}",)
        return Arm(
            protocol=protocol,
            task=task,
            method=method,
            overrides=(*self.overrides(protocol, task, method), *begun),
            study=self.name,
            marks=(
                f"tracker.group={quote(self.name)}",
                f"tracker.tags=[{protocol},{quote(task)},{quote(method)}]",
            ),
            start=start,
            trusted=self.trusted,
            composer=self.composers.get(protocol) if task in self.study.tasks else None,
        )

    def overrides(self, protocol: str, task: str, method: str) -> tuple[str, ...]:
        """The overrides that one method on one task has, whatever its runs begin with."""
        return (
            *self.study.overrides,
            *self.study.task(task),
            *self.study.method(method),
            *self.common,
            *self.folders,
            f"protocol={protocol}",
        )

    @cached_property
    def composers(self) -> dict[str, Composer]:
        """Composers of the configs, by protocol; empty if the user brings settings of their own."""
        if self.folders:
            return {}
        return {
            protocol: Composer(
                partial(self.overrides, protocol), self.study.tasks, self.study.methods
            )
            for protocol in self.study.protocols
        }

    def start(self, protocol: str, task: str, method: str) -> Cell | None:
        """The run whose adapter the runs of an arm begin with: the method as it stands."""
        if protocol != "paper" or task not in self.study.start_from:
            return None
        return self.arm(protocol, self.study.start_from[task], method).cell("start", (), 0)

    def refresh(self) -> list[Cell]:
        """Look at the folders again; returns every cell that is known to belong to the study."""
        # A cell that is stopped goes on after all if another one of its method comes to nothing.
        self.outcomes = {
            cell: known
            for cell, known in self.outcomes.items()
            if known.settled and known.status != "stopped"
        }
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

    def is_finished(self, trial: Trial) -> bool:
        """Return whether nothing more will come of a trial by itself."""
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
        """How many cells the study will have, as far as can be told before it is over.

        A grid that grows and a second point that is as good add cells when they are known.
        """
        known = dict.fromkeys(self.cells())
        if all(self.outcome(cell).settled for cell in known):
            return len(known)
        counts = Counter((cell.protocol, cell.task, cell.method, cell.stage) for cell in known)
        total = sum(cell.stage == "start" for cell in known)
        for arm in (arm for arms in self.groups.values() for arm in arms):
            tried, final = (
                counts[arm.protocol, arm.task, arm.method, stage] for stage in ("select", "test")
            )
            total += tried if final else max(tried, self.expected_trials(arm))
            total += max(final, self.study.seeds)
        return total

    def expected_trials(self, arm: Arm) -> int:
        """How many trials a method gets, with the further ones of a race."""
        points = self.points(arm)
        more = min(2, points) * race.MORE if self.study.races else 0
        return points * self.study.tuning_seeds + more

    def complete(self, cell: Cell) -> bool:
        """Return whether the cell has a result that is one."""
        return self.outcome(cell).status == "complete"

    def finals(self, arm: Arm, trials: dict[str, list[Trial]]) -> list[Cell]:
        """The runs that are reported, once the trials that decide their settings are over.

        In a race these are runs at the best point, and at the second best if it is as good.
        """
        shared = self.study.max_grid_extensions or self.study.races
        decisive = trials.values() if shared else [trials[arm.method]]
        waiting = any(not self.is_finished(trial) for line in decisive for trial in line)
        chosen = best(trials[arm.method])
        if waiting or chosen is None:
            return []
        second = self.rival(arm, trials)
        points = [chosen.point] if second is None else [chosen.point, second.point]
        return [
            arm.cell("test", point, seed) for point in points for seed in range(self.study.seeds)
        ]

    def rival(self, arm: Arm, trials: dict[str, list[Trial]]) -> Trial | None:
        """The second best point of a race, if it is within one standard error of the best."""
        if not self.study.races:
            return None
        pairs = {method: pair for method, line in trials.items() if (pair := finalists(line))}
        if arm.method not in pairs:
            return None
        error = race.pool_error((a.scores, b.scores) for a, b in pairs.values())
        first, second = pairs[arm.method]
        return second if race.are_close(first.scores, second.scores, error) else None

    def trials(self, arms: list[Arm]) -> dict[str, list[Trial]]:
        """By method, the points that it is tried at by now."""
        lines = self.first_trials(arms)
        if self.study.halves:
            for line in lines.values():
                self.halve(line)
        if not self.study.races:
            return lines
        return {arm.method: self.race_trials(arm, lines[arm.method]) for arm in arms}

    def halve(self, line: list[Trial]) -> None:
        """Decide which points of a method go on, once all have come to their pause or further.

        Those that had ended before there were pauses are in nobody's way.
        """
        cells = [trial.cells[0] for trial in line]
        known = [self.outcome(cell) for cell in cells]
        if any(not one.settled and one.halfway is None for one in known):
            return
        lost = ("diverged", "failed")
        survivors = race.choose_survivors(
            [None if one.status in lost else one.halfway for one in known]
        )
        for place, (cell, one) in enumerate(zip(cells, known, strict=True)):
            if one.status == "halfway":
                status = "interrupted" if place in survivors else "stopped"
                self.outcomes[cell] = replace(one, status=status)

    def race_trials(self, arm: Arm, line: list[Trial]) -> list[Trial]:
        """The trials with more runs at the best two points, once all have had their first."""
        if any(not self.is_finished(trial) for trial in line) or len(line) < self.points(arm):
            return line
        again = race.best_two([trial.score for trial in line])
        return [
            self.trial(arm, trial.point, 1 + race.MORE) if place in again else trial
            for place, trial in enumerate(line)
        ]

    def points(self, arm: Arm) -> int:
        """The number of points that a method is tried at, without those by which grids grow."""
        if self.study.search == "sample":
            return len(search.sample_points(self.study, arm))
        if self.study.trials is not None:
            return self.study.trials
        return prod(len(self.values(arm, key)) for key in self.study.axes_of(arm.method))

    def first_trials(self, arms: list[Arm]) -> dict[str, list[Trial]]:
        """By method, the points that it is tried at by now, with their first runs."""
        if self.study.search == "sample":
            return {
                arm.method: [
                    self.trial(arm, point) for point in search.sample_points(self.study, arm)
                ]
                for arm in arms
            }
        if self.study.search == "optuna":
            return {arm.method: self.optuna_trials(arm) for arm in arms}
        ends = {arm.method: (0, 0) for arm in arms}
        for _ in range(self.study.max_grid_extensions):
            lines = {arm.method: self.grid_trials(arm, ends[arm.method]) for arm in arms}
            waiting = any(not self.is_finished(trial) for line in lines.values() for trial in line)
            if waiting or not any(edge(line) for line in lines.values()):
                break
            # Every method gets a point more, so that all are tried equally often.
            ends = {method: extend_grid(ends[method], line) for method, line in lines.items()}
        return {arm.method: self.grid_trials(arm, ends[arm.method]) for arm in arms}

    def optuna_trials(self, arm: Arm) -> list[Trial]:
        """The trials of an arm that Optuna has asked for by now."""
        values = [self.values(arm, key) for key in self.study.axes_of(arm.method)]
        return search.ask_trials(
            self.study, arm, values, partial(self.trial, arm), self.is_finished
        )

    def grid_trials(self, arm: Arm, ends: tuple[int, int]) -> list[Trial]:
        """The grid of an arm, grown by this many points at its low and its high end."""
        columns = [
            [format_override(key, format_value(value)) for value in self.values(arm, key, ends)]
            for key in self.study.axes_of(arm.method)
        ]
        return [self.trial(arm, tuple(point)) for point in product(*columns)]

    def values(self, arm: Arm, key: str, ends: tuple[int, int] = (0, 0)) -> list:
        """The values of one axis for one method."""
        axis = self.study.axes_of(arm.method)[key]
        if is_list(axis):
            return axis
        return log_grid(float(arm.own_value(key)), axis["decades"], axis["points"], *ends)

    def trial(self, arm: Arm, point: Point, runs: int | None = None) -> Trial:
        """A point with what is known of it, from as many runs as asked for.

        In a race each tuning seed is scored on rows of its own, so that the choice does not hang on
        one draw of them.
        """
        seeds = range(TUNING_SEED, TUNING_SEED + (runs or self.study.tuning_seeds))
        cells = tuple(
            arm.cell(
                "select", point, seed, tuple(self.study.trial_overrides),
                redraw=self.study.races,
                pause=race.PAUSE if self.study.halves and seed == TUNING_SEED else None,
            )
            for seed in seeds
        )  # fmt: skip
        scores = [self.outcome(cell).score for cell in cells]
        known = tuple(score for score in scores if score is not None)
        mean = fmean(known) if len(known) == len(cells) else None
        return Trial(point, cells, mean, known if mean is not None else ())


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
