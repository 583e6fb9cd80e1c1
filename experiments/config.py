"""From Hydra's composed config to typed, frozen objects; no DictConfig goes past this file."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.models import Pretrained
from experiments.tasks.base import Task
from experiments.tasks.sources import Source
from experiments.tracking import Tracker
from experiments.training import Train
from variants.base import Variant


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run, completely: with the data and the weights, all that its result depends on."""

    variant: Variant
    task: Task
    data: Source
    model: Pretrained
    train: Train
    tracker: Tracker
    seed: int
    paper: str | None = None  # the published setting this is, where it is one

    @property
    def label(self) -> dict[str, str]:
        """The names a result is listed under; the data source is part of the task's."""
        return {
            "variant": type(self.variant).__module__.rpartition(".")[2],
            "task": f"{self.data.name}/{self.task.name}",
            "model": self.model.name,
        }

    @property
    def title(self) -> str:
        """The labels and the seed in one line."""
        return "/".join([*self.label.values(), f"s{self.seed}"])


def read(cfg: DictConfig) -> Run:
    """The typed run that a composed config describes.

    Raises ValueError naming the wrong key or value and the near right one.
    """
    given = {str(key): cfg[key] for key in cfg if key != "hydra"}
    check_names("config", given, [f.name for f in fields(Run)])
    built = {
        key: build(key, node) if OmegaConf.is_dict(node) else node for key, node in given.items()
    }
    missing = [f.name for f in fields(Run) if f.name not in built and f.name != "paper"]
    if missing:
        raise ValueError(f"config has no section '{missing[0]}'.")
    if isinstance(built["seed"], bool) or not isinstance(built["seed"], int):
        raise ValueError(f"seed must be a whole number, got {built['seed']!r}.")
    return Run(**built)


def build(section: str, node: DictConfig) -> Any:
    """The object that `node._target_` names; that dataclass is the schema of names and types."""
    if OmegaConf.is_missing(node, "_target_") or "_target_" not in node:
        raise ValueError(f"{section} has no _target_, so it is not known what it is.")
    cls = get_class(node._target_)
    try:
        given = {str(key): node[key] for key in node if key != "_target_"}
        check_names(section, given, [f.name for f in fields(cls)], cls.__name__)
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), given))
    except OmegaConfBaseException as error:
        key = f"{section}.{error.full_key}" if error.full_key else section
        raise ValueError(f"{key}: {first_line(error)}") from None


def first_line(error: OmegaConfBaseException) -> str:
    """What went wrong, without the lines in which OmegaConf repeats the key."""
    return (error.msg or str(error)).splitlines()[0]


def check_names(section: str, given: Iterable[str], known: list[str], owner: str = "It") -> None:
    """Raise for a name that is not among the known ones, and suggest the nearest."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"{section} has no setting '{name}'.{hint} {owner} has: {', '.join(known)}."
            )


def describe(run: Run) -> dict[str, Any]:
    """The run as plain data, from which `read` makes an equal one."""
    sections = {f.name: getattr(run, f.name) for f in fields(Run)}
    return {name: describe_section(value) for name, value in sections.items()}


def describe_section(value: Any) -> Any:
    """A section with the class that reads it, or a plain value as it is."""
    if not hasattr(type(value), "__dataclass_fields__"):
        return value
    return {"_target_": f"{type(value).__module__}.{type(value).__qualname__}", **asdict(value)}
