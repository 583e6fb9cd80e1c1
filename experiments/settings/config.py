"""From Hydra's composed config to typed, frozen objects; no DictConfig goes past this file."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from experiments.data.sources import Source
from experiments.data.splits import Limits
from experiments.models.forgetting import Forgetting
from experiments.models.pretrained import Pretrained
from experiments.results.result import title
from experiments.settings.given import list_given
from experiments.settings.protocol import Protocol
from experiments.settings.sections import (
    build,
    describe_section,
    plain,
    restore_section,
)
from experiments.settings.tracking import Tracker
from experiments.settings.train import Compute, Record, Train
from experiments.stored import kinds
from experiments.stored.typed import check_known
from experiments.tasks.base import Task
from variants.base import Variant


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, completely: with the data and the weights, all that its result depends on."""

    variant: Variant
    task: Task
    data: Source
    model: Pretrained
    train: Train
    compute: Compute
    record: Record
    tracker: Tracker
    protocol: Protocol
    seed: int  # of the head, the order of examples, the adapter and dropout
    start: str | None = None  # folder of a finished run, whose adapter this one begins with
    paper: str | None = None  # the published setting this is, where it is one
    forgetting: Forgetting | None = None  # the general text that is measured before and after
    part_of: list | None = None  # a study's name, the method, the stage, and the point's settings

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise ValueError(f"seed must be a whole number, got {self.seed!r}.")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed must lie in [0, 2^63), got {self.seed}.")
        for field in fields(self):
            value, kind = getattr(self, field.name), cast(type, field.type)
            if not isinstance(value, kind):
                name = getattr(kind, "__name__", str(kind))
                raise ValueError(f"{field.name} must be of type {name}, got {value!r}.")
        if self.variant.lr < 0:
            raise ValueError(f"variant.lr must not be negative, got {self.variant.lr}.")
        if self.train.prefix_cache and self.compute.engine != "packed":
            raise ValueError(
                f"train.prefix_cache needs compute.engine=packed, got '{self.compute.engine}'."
            )

    @property
    def limits(self) -> Limits:
        """The limits that evaluation keeps to."""
        return Limits(self.train.max_length, self.compute.eval_batch_size)

    @property
    def label(self) -> dict[str, str]:
        """The names a result is listed under; the data source is part of the task's."""
        return {
            "variant": type(self.variant).__module__.rpartition(".")[2],
            "task": f"{self.data.name}/{self.task.name}",
            "model": self.model.name,
        }

    @property
    def general_text(self) -> Forgetting | None:
        """The text whose loss is measured before and after training, if any."""
        return self.forgetting if self.forgetting and self.forgetting.file else None

    @property
    def title(self) -> str:
        """The labels and the seed in one line."""
        return title(self.label, self.seed)


def read(cfg: DictConfig) -> Run:
    """The typed run that a composed config describes.

    Raises ValueError naming the wrong key or value and the near right one.
    """
    built = {
        key: build(key, node) if OmegaConf.is_dict(node) else plain(node)
        for key, node in list_given(cfg).items()
    }
    optional = ("start", "paper", "part_of", "forgetting")
    missing = [f.name for f in fields(Run) if f.name not in (*built, *optional)]
    if missing:
        raise ValueError(f"config has no '{missing[0]}'.")
    return Run(**built)


def describe(run: Run) -> dict[str, Any]:
    """The run as plain data, from which `restore_run` makes an equal one."""
    sections = {f.name: getattr(run, f.name) for f in fields(Run)}
    return {name: describe_section(value) for name, value in sections.items()}


def restore_run(config: Mapping[str, Any], other: kinds.Other = kinds.refuse) -> Run:
    """The run that a file describes; text in it is text, and refers to nothing.

    Raises ValueError naming the wrong key; `other` finds classes that are none of the project's.
    """
    check_known("config", config, [f.name for f in fields(Run)], "It")
    for field in fields(Run):
        if field.name not in config and field.default is MISSING:
            raise ValueError(f"config has no '{field.name}'.")
    return Run(**{key: restore_section(key, value, other) for key, value in config.items()})
