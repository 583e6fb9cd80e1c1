"""The design of a study: methods, tasks and seeds, and how every method is tuned alike."""

import re
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from experiments.settings.commandline import with_new_names
from experiments.settings.scalars import quote

SEARCHES = ("grid", "sample", "optuna")
TUNINGS = ("plain", "race", "halving")
# What the cells of a study set themselves.
TAKEN = ("variant", "task", "protocol", "protocol.stage", "seed", "start", "study")
DECADES = 100  # of an axis: beyond that are no numbers
MOST = 100_000  # cells of a study: what is more is a slip of the keyboard
# What Hydra reads as a text without quotes, whatever surrounds it.
PROTOCOLS = ("clean", "paper")
RATE = {"variant.lr": {"decades": 2.0, "points": 5}}
STUDIES = Path("studies")  # below the folder of all runs


@dataclass(frozen=True, kw_only=True)
class Study:
    """These methods on these tasks, tuned alike, then run with many seeds."""

    methods: dict[str, list[str]]  # name -> overrides; without one for variant, that of the name
    tasks: dict[str, list[str]]  # likewise
    overrides: list[str]  # of every cell: model, data, length of training ...
    trial_overrides: list[str]  # of trials alone, after all others
    protocols: list[str]  # clean: choose on rows of the train split; paper: on the scored split
    start_from: dict[str, str]  # paper: task -> task whose adapter it starts from
    # Setting -> {decades, points} around each method's own value, or values; null: RATE.
    axes: dict[str, Any] | None
    own_axes: dict[str, dict[str, Any]]  # method -> further axes of its own, or other values
    search: str  # grid: every point; sample: spread over the space; optuna: by earlier scores
    trials: int | None  # points a method is tried at; null: as many as the grid has
    # plain: tuning_seeds runs of each point; race: one, and two more at the best two; halving: a
    # race in which the worse half of a method's points stops after half its steps
    tuning: str
    tuning_seeds: int  # runs of each point
    seeds: int  # runs of the chosen point
    max_grid_extensions: int  # more points for all methods while a best one is at an edge
    match: str | None  # method whose trained parameters the others' ranks are chosen for
    parameters: float  # tolerance: largest ratio of trained parameters between two methods
    dry_run: bool  # only say what would be done

    def __post_init__(self) -> None:
        self.rename_settings()
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
        self.check_tuning()
        for method in self.own_axes:
            if method not in self.methods:
                near = ", ".join(self.methods)
                raise ValueError(f"study.own_axes must name one of {near}, got '{method}'.")
        self.check_numbers()
        for method in self.methods:
            for key, axis in self.axes_of(method).items():
                check_axis(key, axis)
        self.check_growth()
        self.check_overrides()
        self.check_size()

    def check_tuning(self) -> None:
        """Raise ValueError for a search or a tuning that there is not, or that lacks a number."""
        for name, known in (("search", SEARCHES), ("tuning", TUNINGS)):
            if (value := getattr(self, name)) not in known:
                raise ValueError(f"study.{name} must be one of {', '.join(known)}, got '{value}'.")
        if self.races and self.tuning_seeds != 1:
            raise ValueError(
                f"study.tuning={self.tuning} decides itself how often a point is tried: leave "
                f"study.tuning_seeds at 1, got {self.tuning_seeds}."
            )
        if self.search == "grid" and self.trials is not None:
            raise ValueError(
                "study.search=grid tries every point; study.trials is for sample and optuna."
            )
        if self.search == "sample" and self.trials is None:
            raise ValueError("study.search=sample needs study.trials, the same for every method.")

    def check_growth(self) -> None:
        """Raise ValueError for points that come later, where all must be known or on one axis."""
        single = len(self.tuned) == 1 and not any(map(is_list, self.tuned.values()))
        if self.max_grid_extensions and (not single or self.own_axes or self.search == "sample"):
            raise ValueError(
                "study.max_grid_extensions needs a grid of a single axis, with decades and points."
            )
        if self.halves and (self.search == "optuna" or self.max_grid_extensions):
            raise ValueError(
                "study.tuning=halving compares points that are all known from the start: leave "
                "study.search=optuna and study.max_grid_extensions to study.tuning=race."
            )

    def check_numbers(self) -> None:
        """Raise ValueError for a number out of its range."""
        for name in ("tuning_seeds", "seeds", "trials"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"study.{name} must be positive, got {value}.")
        if self.max_grid_extensions < 0:
            raise ValueError(
                f"study.max_grid_extensions must not be negative, got {self.max_grid_extensions}."
            )
        if self.parameters < 1:
            raise ValueError(f"study.parameters must be at least 1, got {self.parameters}.")

    def rename_settings(self) -> None:
        """Call settings by their names of today, and say so of each that has a former one."""
        for name in ("methods", "tasks"):
            named = {key: with_new_names(texts) for key, texts in getattr(self, name).items()}
            object.__setattr__(self, name, named)
        for name in ("overrides", "trial_overrides"):
            object.__setattr__(self, name, with_new_names(getattr(self, name)))
        own = {method: rename_keys(axes) for method, axes in self.own_axes.items()}
        object.__setattr__(self, "own_axes", own)
        if self.axes is not None:
            object.__setattr__(self, "axes", rename_keys(self.axes))

    def check_overrides(self) -> None:
        """Raise ValueError for a setting that the study itself decides, wherever it stands."""
        axes = {key for method in self.methods for key in self.axes_of(method)}
        settings = (f"{key}=" for key in sorted(axes))
        for override in (*self.overrides, *self.trial_overrides, *settings):
            check_free(override)
        for override in self.trial_overrides:
            key, equals, _ = override.partition("=")
            if not equals or "." not in key or key != key.lstrip("+~"):
                raise ValueError(
                    f"study.trial_overrides sets single settings, as train.epochs=1, got "
                    f"'{override}'."
                )
            if key in axes:
                raise ValueError(
                    f"study.trial_overrides sets {key}, which trials are there to choose."
                )
        for group, named in (("variant", self.methods), ("task", self.tasks)):
            for override in (text for overrides in named.values() for text in overrides):
                check_free(override, but=group)

    def check_size(self) -> None:
        """Raise ValueError for a number of cells that nobody means."""
        points = sum(self.trials or self.grid_points(method) for method in self.methods)
        runs = points * self.tuning_seeds + len(self.methods) * self.seeds
        cells = len(self.protocols) * len(self.tasks) * runs
        if cells > MOST:
            raise ValueError(
                f"The study has {cells:,} cells, and {MOST:,} are the most: see study.seeds, "
                "study.tuning_seeds, study.trials and the points of study.axes."
            )

    def grid_points(self, method: str) -> int:
        """The points of a method's grid, with those by which it may grow."""
        sizes = (
            len(axis) if is_list(axis) else axis["points"] for axis in self.axes_of(method).values()
        )
        return prod(size + self.max_grid_extensions for size in sizes)

    @property
    def races(self) -> bool:
        """True if the best two points of a method get more trials."""
        return self.tuning in ("race", "halving")

    @property
    def halves(self) -> bool:
        """True if points stop after half their steps."""
        return self.tuning == "halving"

    @property
    def tuned(self) -> dict[str, Any]:
        """The axes, or the learning rate's if none are named."""
        return RATE if self.axes is None else self.axes

    def axes_of(self, method: str) -> dict[str, Any]:
        """The axes of one method: those of all, and its own."""
        return {**self.tuned, **self.own_axes.get(method, {})}

    def method(self, name: str) -> list[str]:
        """The overrides that make a cell one of this method."""
        return choose_file("variant", name, self.methods[name])

    def task(self, name: str) -> list[str]:
        """The overrides that make a cell one of this task."""
        return choose_file("task", name, self.tasks.get(name, []))


def rename_keys(axes: dict[str, Any]) -> dict[str, Any]:
    """Axes with the present names of their settings."""
    return dict(zip(with_new_names(axes), axes.values(), strict=True))


def choose_file(group: str, name: str, overrides: list[str]) -> list[str]:
    """The overrides, preceded by the choice of the group's file if they have none."""
    chosen = any(override.startswith(f"{group}=") for override in overrides)
    return overrides if chosen else [f"{group}={quote(name)}", *overrides]


def check_free(override: str, but: str = "") -> None:
    """Raise ValueError for a setting that the study itself decides, `but` excepted."""
    key = override.lstrip("+~").partition("=")[0].partition("@")[0]
    if key in TAKEN and key != but:
        raise ValueError(f"A study chooses {key} itself, so '{override}' has no place beside it.")
    if re.match(r"hydra\b", key):
        raise ValueError(
            f"A study's cells lie and log where its plan says, so '{override}' has no place in it."
        )


def format_override(key: str, value: object) -> str:
    """A setting as one types it, from a value that is typed already or is a number."""
    return f"{key}={'null' if value is None else value}"


def format_value(value: object) -> object:
    """A value of a list as one types it."""
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, list):
        return f"[{','.join(str(format_value(item)) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{format_value(item)}' for key, item in value.items())}}}"
    return "null" if value is None else value


def is_list(axis: Any) -> bool:
    """Return whether the values of an axis are told one by one."""
    return isinstance(axis, list)


def check_axis(key: str, axis: Any) -> None:
    """Raise ValueError for an axis that is neither a list nor a log grid."""
    where = f"study.axes.{key}"
    if is_list(axis) and axis:
        known = [format_override(key, format_value(value)) for value in axis]
        for setting in known:
            if known.count(setting) > 1:
                raise ValueError(f"{where} has a value twice: {setting}.")
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
    """Numbers around `middle`, evenly spaced in their logarithm, and so many more at the ends.

    Each stands there once: around a rate of zero, of a method that has none, lies one point.
    """
    step = decades / max(1, points - 1)
    first = -(points - 1) / 2 - below
    places = [first + i for i in range(below + points + above)]
    return list(dict.fromkeys(round_rate(middle * 10 ** (step * place)) for place in places))


def round_rate(value: float) -> float:
    """Three significant digits, so that a rate is the same however it was come by."""
    return float(f"{value:.3g}")
