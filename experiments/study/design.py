"""What a study is: methods, tasks and seeds, and how every method is tuned alike."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEARCHES = ("grid", "optuna")
# What the cells of a study set themselves.
TAKEN = ("variant", "task", "protocol", "seed", "start", "study")
DECADES = 100  # of an axis: beyond that are no numbers
MOST = 100_000  # cells of a study: what is more is a slip of the keyboard
# What Hydra reads as a text without quotes, whatever surrounds it.
BARE = re.compile(r"[A-Za-z_./][\w./+\-]*", re.ASCII)
WORDS = ("true", "false", "null", "inf", "nan")  # no texts, whatever their case
TUNING_SEED = 1000  # the first seed of a trial; those that are reported count from 0
PROTOCOLS = ("clean", "paper")
RATE = {"variant.lr": {"decades": 2.0, "points": 5}}
OUTPUTS = Path("outputs")  # as conf/config.yaml has it
STUDIES = Path("studies")  # below it


@dataclass(frozen=True, kw_only=True)
class Study:
    """These methods on these tasks, tuned alike, then run with many seeds."""

    methods: dict[str, list[str]]  # name -> overrides; without one for variant, that of the name
    tasks: dict[str, list[str]]  # likewise
    overrides: list[str]  # of every cell: model, data, length of training ...
    protocols: list[str]  # clean: choose on rows of the train split; paper: on the scored split
    begin: dict[str, str]  # paper: task -> task whose adapter it starts from
    # Setting -> {decades, points} around each method's own value, or values; null: RATE.
    axes: dict[str, Any] | None
    search: str  # grid: every point; optuna: as many trials, each chosen by those before
    trials: int | None  # points a method is tried at; null: as many as the grid has
    tuning_seeds: int  # runs of each point
    seeds: int  # runs of the chosen point
    extend: int  # further points for all methods of a task, while a best one lies at an edge
    match: str | None  # method whose trained parameters the others' ranks are chosen for
    parameters: float  # tolerance: largest ratio of trained parameters between two methods
    cells: int | None  # carried out at once; null: one per core, or per slot of a GPU
    cells_per_gpu: int
    memory: float | None  # GiB a cell may take; null: no limit
    dry_run: bool  # only say what would be done
    worker: int | None  # any number; makes `-m study=NAME study.worker=range(4)` four processes

    def __post_init__(self) -> None:
        for name in ("methods", "tasks", "protocols"):
            if not getattr(self, name):
                raise ValueError(f"study.{name} must name at least one.")
        for protocol in self.protocols:
            if protocol not in PROTOCOLS:
                raise ValueError(
                    f"study.protocols must be of {', '.join(PROTOCOLS)}, got '{protocol}'."
                )
        if self.match is not None and self.match not in self.methods:
            raise ValueError(
                f"study.match must be one of {', '.join(self.methods)}, got '{self.match}'."
            )
        if self.search not in SEARCHES:
            raise ValueError(f"study.search must be {' or '.join(SEARCHES)}, got '{self.search}'.")
        for name in ("tuning_seeds", "seeds", "cells", "cells_per_gpu", "trials", "memory"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"study.{name} must be positive, got {value}.")
        if self.extend < 0:
            raise ValueError(f"study.extend must not be negative, got {self.extend}.")
        if self.parameters < 1:
            raise ValueError(f"study.parameters must be at least 1, got {self.parameters}.")
        for key, axis in self.tuned.items():
            check_axis(key, axis)
        if self.extend and (len(self.tuned) != 1 or any(map(is_list, self.tuned.values()))):
            raise ValueError("study.extend needs a single axis, with decades and points.")
        self.check_overrides()
        self.check_size()

    def check_overrides(self) -> None:
        """Raise ValueError for a setting that the study itself decides, wherever it stands."""
        for override in (*self.overrides, *(f"{key}=" for key in self.tuned)):
            check_free(override)
        for group, named in (("variant", self.methods), ("task", self.tasks)):
            for override in (text for overrides in named.values() for text in overrides):
                check_free(override, but=group)

    def check_size(self) -> None:
        """Raise ValueError for a number of cells that nobody means."""
        points = self.trials if self.search == "optuna" and self.trials else 1
        if points == 1:
            for axis in self.tuned.values():
                points *= (len(axis) if is_list(axis) else axis["points"]) + self.extend
        arms = len(self.protocols) * len(self.tasks) * len(self.methods)
        cells = arms * (points * self.tuning_seeds + self.seeds)
        if cells > MOST:
            raise ValueError(
                f"The study has {cells:,} cells, and {MOST:,} are the most: see study.seeds, "
                "study.tuning_seeds, study.trials and the points of study.axes."
            )

    @property
    def tuned(self) -> dict[str, Any]:
        """The axes, or the learning rate's where none are named."""
        return RATE if self.axes is None else self.axes

    def method(self, name: str) -> list[str]:
        """The overrides that make a cell one of this method."""
        return named("variant", name, self.methods[name])

    def task(self, name: str) -> list[str]:
        """The overrides that make a cell one of this task."""
        return named("task", name, self.tasks.get(name, []))


def named(group: str, name: str, overrides: list[str]) -> list[str]:
    """The overrides, preceded by the choice of the group's file where they have none."""
    chosen = any(override.startswith(f"{group}=") for override in overrides)
    return overrides if chosen else [f"{group}={quoted(name)}", *overrides]


def check_free(override: str, but: str = "") -> None:
    """Raise ValueError for a setting that the study itself decides, `but` excepted."""
    key = override.lstrip("+~").partition("=")[0].partition("@")[0]
    if key in TAKEN and key != but:
        raise ValueError(f"A study chooses {key} itself, so '{override}' has no place beside it.")
    if re.match(r"hydra\b", key):
        raise ValueError(
            f"A study's cells lie and log where its plan says, so '{override}' has no place in it."
        )


def typed(key: str, value: object) -> str:
    """A setting as one types it, from a value that is typed already or is a number."""
    return f"{key}={'null' if value is None else value}"


def written(value: object) -> object:
    """A value of a list as one types it."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(str(written(item)) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{written(item)}' for key, item in value.items())}}}"
    return "null" if value is None else value


def quoted(text: str) -> str:
    """A text as Hydra reads it back, whatever is in it: as it is, or in quotes."""
    if BARE.fullmatch(text) and text.lower() not in WORDS:
        return text
    # Backslashes count before a quote or a reference alone, and then each for half of one.
    inside = re.sub(r"(\\*)('|\$(?=\{)|\Z)", lambda found: 2 * found[1] + ESCAPED[found[2]], text)
    return f"'{inside}'"


ESCAPED = {"'": "\\'", "$": "\\$", "": ""}


def is_list(axis: Any) -> bool:
    """Whether the values of an axis are told one by one."""
    return isinstance(axis, list)


def check_axis(key: str, axis: Any) -> None:
    """Raise ValueError for an axis that is neither a list nor a log grid."""
    where = f"study.axes.{key}"
    if is_list(axis) and axis:
        return
    if not isinstance(axis, dict) or set(axis) != {"decades", "points"}:
        raise ValueError(f"{where} must be a list of values, or {{decades, points}}, got {axis!r}.")
    points, decades = axis["points"], axis["decades"]
    whole = isinstance(points, int) and not isinstance(points, bool)
    number = isinstance(decades, int | float) and not isinstance(decades, bool)
    if not whole or not number or points < 1 or not 0 < decades <= DECADES:
        raise ValueError(
            f"{where} must have a positive whole number of points, and decades between 0 and "
            f"{DECADES}, got {axis!r}."
        )


def log_grid(
    middle: float, decades: float, points: int, below: int = 0, above: int = 0
) -> list[float]:
    """Numbers around `middle`, evenly spaced in their logarithm, and so many more at the ends."""
    step = decades / max(1, points - 1)
    first = -(points - 1) / 2 - below
    places = [first + i for i in range(below + points + above)]
    return [rounded(middle * 10 ** (step * place)) for place in places]


def rounded(value: float) -> float:
    """Three significant digits, so that a rate is the same however it was come by."""
    return float(f"{value:.3g}")
