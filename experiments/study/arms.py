"""The arms of a study: one method on one task, and the runs that follow from its config."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.results.identity import plain, short_hash
from experiments.settings.compose import compose_config
from experiments.settings.scalars import quote
from experiments.stored import kinds
from experiments.stored.study import TRUST, classes
from experiments.study.cells import Cell, Point
from experiments.study.composing import Composed, Composer, compose
from experiments.study.settings import Settings, find_references, parse_override, update


@dataclass(frozen=True)
class Arm:
    """One method on one task under one protocol: what is tuned, and then repeated."""

    protocol: str
    task: str
    method: str
    overrides: tuple[str, ...]
    study: str  # its name
    marks: tuple[str, ...]  # how a tracker groups the runs: no part of what they are
    start: Cell | None  # the run whose adapter the arm's runs begin with
    trusted: bool = True  # whether it may name any class, as a user's own command may
    composer: Composer | None = field(default=None, compare=False, repr=False)  # of all arms
    cells: dict[tuple, Cell] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def composed(self) -> Composed:
        """The config of a cell before stage, point and seed are set.

        Raises ValueError for a class that only the user's own command may name.
        """
        if self.composer is None:
            found = compose(self.overrides)
        else:
            found = self.composer.pair(self.task, self.method)
            if self.start is not None:
                found = replace(found, sections=found.sections | {"start": str(self.start.folder)})
        if not self.trusted:
            for target in classes(found.sections):
                if kinds.current_path(target) not in kinds.names():
                    raise ValueError(f"{self.method} on {self.task} names {target}; {TRUST}.")
        return found

    @cached_property
    def config(self) -> DictConfig:
        """The same for whoever reads it."""
        return OmegaConf.create(self.composed.sections)

    def own_value(self, key: str) -> Any:
        """The method's own value of a setting."""
        value: Any = self.composed.sections
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, bool | int | float):  # a whole config takes long to make
            return value
        return OmegaConf.select(self.config, key, throw_on_missing=True)

    def cell(
        self, stage: str, point: Point, seed: int, of_stage: tuple[str, ...] = (),
        redraw: bool = False, pause: float | None = None,
    ) -> Cell:  # fmt: skip
        """The run of this arm with this point and seed, and overrides `of_stage` alone.

        With `redraw` the rows that it is selected by are drawn by its seed. It pauses once after
        the share `pause` of its steps.
        """
        key = (stage, point, seed)
        if key not in self.cells:
            staged = () if self.protocol == "paper" else (f"protocol.stage={stage}",)
            if redraw and staged:
                staged = (*staged, f"protocol.seed={seed}")
            for override in of_stage:
                self.check_setting(parse_override(override)[0], "study.trial_overrides")
            settings = (*of_stage, *staged, *point, f"seed={seed}")
            folder, config = self.placed(settings)
            self.cells[key] = Cell(
                self.protocol, self.task, self.method, stage, point, seed, settings,
                (*self.overrides, *settings, *self.marks, self.part_of(stage, point),
                 *([] if pause is None else [f"record.pause={pause}"])),
                folder, config,
            )  # fmt: skip
        return self.cells[key]

    def part_of(self, stage: str, point: Point) -> str:
        """The override by which a run says what it is in its study."""
        texts = (self.study, self.method, stage, *point)
        return f"part_of=[{','.join(map(quote, texts))}]"

    def placed(self, settings: tuple[str, ...]) -> tuple[Path, Settings]:
        """The folder of a cell and its config as plain data.

        Both follow from the arm's, without composing or resolving anything anew, unless something
        else refers to what is set, or folders are named in a way of one's own.
        """
        parent = self.composed.parent
        if parent is None or not all(self.is_plain(text) for text in settings):
            config = compose_config(*self.overrides, *settings)
            return Path(config.hydra.run.dir), plain(config, resolve=True)
        found = update(self.resolved, [parse_override(text) for text in settings])
        return parent / f"s{found['seed']}-{short_hash(found)}", found

    @cached_property
    def resolved(self) -> Settings:
        """The config as plain data."""
        return plain(self.config, resolve=True)

    @cached_property
    def references(self) -> set[str]:
        """Return the keys that settings refer to."""
        return set(find_references(self.composed.sections))

    def is_plain(self, setting: str) -> bool:
        """Return whether a setting changes no other, and is there to be changed."""
        key, value = parse_override(setting)
        self.check_setting(key)
        return "${" not in str(value) and not any(
            f"{key}.".startswith(f"{other}.") or f"{other}.".startswith(f"{key}.")
            for other in self.references
        )

    def check_setting(self, key: str, where: str = "study.axes") -> None:
        """Raise ValueError for a setting that is none; one that is null is one."""
        if OmegaConf.select(self.config, key, default=...) is ...:
            raise ValueError(f"{where}: there is no setting '{key}'.")

    def changed(self, settings: tuple[str, ...]) -> DictConfig:
        """The arm's config with these overrides; composing it anew would take much longer."""
        config = deepcopy(self.config)
        for key, value in map(parse_override, settings):
            self.check_setting(key)
            OmegaConf.update(config, key, value)
        return config
