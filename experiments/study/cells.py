"""The cells of a study: runs, told by their overrides, with what is known of them so far."""

import json
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from experiments.api import composed
from experiments.files import read_object, write_json
from experiments.locks import holder
from experiments.results import read_result

FAILURE = "failure.json"
OUTPUT = "output.log"  # what the process of a cell printed

Point = tuple[str, ...]  # overrides, one per tuned setting; () is every setting as it stands


@dataclass(frozen=True)
class Outcome:
    """Where a cell stands: waiting, running, interrupted, complete, diverged or failed."""

    status: str
    reason: str | None = None
    score: float | None = None

    @property
    def settled(self) -> bool:
        """Whether nothing more will come of it by itself."""
        return self.status in ("complete", "diverged", "failed")


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    protocol: str
    task: str
    method: str
    stage: str  # start (under paper alone), select or test
    point: Point
    seed: int
    settings: tuple[str, ...]  # overrides beside those of its arm
    overrides: tuple[str, ...]  # of the command that is this run
    folder: Path

    @property
    def title(self) -> str:
        """What it is, in a few words."""
        words = [self.task, self.method, self.protocol, self.stage, short(" ".join(self.point))]
        return " ".join([*filter(None, words), f"s{self.seed}"])

    def outcome(self) -> Outcome:
        """What the folder says."""
        if (self.folder / "result.json").exists():
            result = read_result(self.folder)
            return Outcome(result.status, result.failure, result.primary.get("score"))
        if (self.folder / FAILURE).exists():
            return Outcome("failed", read_object(self.folder / FAILURE)["reason"])
        if (held := holder(self.folder)) is not None:
            return Outcome("running", f"{held.who}.{held.doubt}" if held.doubt else None)
        return Outcome("interrupted" if (self.folder / "UNFINISHED").exists() else "waiting")

    def fail(self, reason: str) -> None:
        """Record that the run came to nothing."""
        write_json(self.folder / FAILURE, {"reason": reason, "overrides": list(self.overrides)})

    def forget(self) -> None:
        """Take back a failure or a divergence, so that the run is tried again."""
        (self.folder / FAILURE).unlink(missing_ok=True)
        if self.outcome().status == "diverged":
            (self.folder / "result.json").unlink()


@dataclass(frozen=True)
class Trial:
    """One point of an arm, with the mean score over its tuning seeds."""

    point: Point
    cells: tuple[Cell, ...]
    score: float | None  # none: a run failed or diverged, or is not done
    scores: tuple[float, ...] = ()  # of its cells, once all of them have one


@dataclass(frozen=True)
class Arm:
    """One method on one task under one protocol: what is tuned, and then repeated."""

    protocol: str
    task: str
    method: str
    overrides: tuple[str, ...]
    marks: tuple[str, ...]  # how a tracker groups the runs: no part of what they are
    start: Cell | None  # the run whose adapter the arm's runs begin with
    cells: dict[tuple, Cell] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def config(self) -> DictConfig:
        """The config of a cell before stage, point and seed are set; composing takes a moment."""
        return composed(*self.overrides)

    def own(self, key: str) -> Any:
        """The method's own value of a setting."""
        return OmegaConf.select(self.config, key, throw_on_missing=True)

    def cell(self, stage: str, point: Point, seed: int, redraw: bool = False) -> Cell:
        """The run of this arm with these settings and this seed.

        With `redraw` the rows that it is selected by are drawn by its seed.
        """
        key = (stage, point, seed)
        if key not in self.cells:
            staged = () if self.protocol == "paper" else (f"protocol.stage={stage}",)
            if redraw and staged:
                staged = (*staged, f"protocol.seed={seed}")
            settings = (*staged, *point, f"seed={seed}")
            config = self.changed(settings)
            HydraConfig.instance().set_config(config)
            folder = Path(config.hydra.run.dir)
            self.cells[key] = Cell(
                self.protocol, self.task, self.method, stage, point, seed, settings,
                (*self.overrides, *settings, *self.marks), folder,
            )  # fmt: skip
        return self.cells[key]

    def changed(self, settings: tuple[str, ...]) -> DictConfig:
        """The arm's config with these overrides; composing it anew would take much longer."""
        config = deepcopy(self.config)
        for override in OverridesParser.create().parse_overrides(list(settings)):
            # A setting that is null is one.
            if OmegaConf.select(config, override.key_or_group, default=...) is ...:
                raise ValueError(f"study.axes: there is no setting '{override.key_or_group}'.")
            OmegaConf.update(config, override.key_or_group, override.value())
        return config


def short(point: str) -> str:
    """Overrides without the sections of their settings."""
    parts = (part.partition("=") for part in point.split())
    return " ".join(f"{key.rpartition('.')[2]}{equals}{value}" for key, equals, value in parts)


def last_words(folder: Path) -> str:
    """The last line that the process of a cell printed, or nothing."""
    path = folder / OUTPUT
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    spoken = [line.strip() for line in lines if line.strip()]
    if spoken and spoken[-1].startswith("Set the environment variable HYDRA_FULL_ERROR"):
        spoken.pop()
    return spoken[-1] if spoken else ""


def steps(folder: Path) -> dict[str, float]:
    """The last record of a run's history, or an empty one."""
    path = folder / "history.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in reversed(lines):
        try:
            return json.loads(line)
        except json.JSONDecodeError:
            continue  # the last line is being written
    return {}
