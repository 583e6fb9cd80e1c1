"""From Hydra's composed config to typed, frozen objects; no DictConfig goes past this file."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from types import UnionType
from typing import Any, cast, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.forgetting import Forgetting
from experiments.models import Pretrained
from experiments.protocol import Protocol
from experiments.results import title
from experiments.scalars import literal, texts
from experiments.stored import kinds
from experiments.stored.kinds import KIND, TARGET
from experiments.stored.typed import fit
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
    protocol: Protocol
    seed: int
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
    with naming():
        given = {str(key): cfg[key] for key in cfg if key not in ("hydra", "study")}
    check_names("config", given, [f.name for f in fields(Run)])
    built = {
        key: build(key, node) if OmegaConf.is_dict(node) else plain(node)
        for key, node in given.items()
    }
    optional = ("start", "paper", "part_of", "forgetting")
    missing = [f.name for f in fields(Run) if f.name not in (*built, *optional)]
    if missing:
        raise ValueError(f"config has no '{missing[0]}'.")
    return Run(**built)


def build(section: str, node: DictConfig) -> Any:
    """The object that `node._target_` names; that dataclass is the schema of names and types."""
    if OmegaConf.is_missing(node, "_target_") or "_target_" not in node:
        raise ValueError(f"{section} has no _target_, so it is not known what it is.")
    with naming(section):
        cls = schema(section, node._target_)
        given = {str(key): node[key] for key in node if key != "_target_"}
        check_names(section, given, [f.name for f in fields(cls)], cls.__name__)
        check_lists(section, given, cls)
        for field in fields(cls):
            if field.name in given:
                value = plain(given[field.name])
                value = texts(f"{section}.{field.name}", field.type, value)
                given[field.name] = literal(value)  # references in it are resolved by now
        built = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(cls), given))
    for name, value in vars(built).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{section}.{name} must be a finite number, got {value}.")
    return built


def plain(value: Any) -> Any:
    """A value of a config with lists and dictionaries of Python's."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def schema(section: str, target: Any) -> Any:
    """The dataclass that a dotted name stands for."""
    module, _, name = str(target).rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{section}._target_ '{target}' is not to be had: {error}.") from None
    if not (isinstance(cls, type) and is_dataclass(cls)):
        raise ValueError(f"{section}._target_ must name a dataclass, got '{target}'.")
    return cls


@contextmanager
def naming(section: str = "") -> Iterator[None]:
    """Make an error of OmegaConf one sentence that begins with the key."""
    try:
        yield
    except OmegaConfBaseException as error:
        key = error.full_key or section
        # The key is told from the top where a reference is broken, else from the section.
        if section and key.partition(".")[0] != section:
            key = f"{section}.{key}"
        raise ValueError(f"{key}: {first_line(error)}.") from None


def first_line(error: OmegaConfBaseException) -> str:
    """Return the error message without the lines in which OmegaConf repeats the key."""
    return (error.msg or str(error)).splitlines()[0].rstrip(".")


def check_names(section: str, given: Iterable[str], known: list[str], owner: str = "It") -> None:
    """Raise for a name that is not among the known ones, and suggest the nearest."""
    for name in given:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"{section} has no setting '{name}'.{hint} {owner} has: {', '.join(known)}."
            )


def check_lists(section: str, given: dict[str, Any], cls: Any) -> None:
    """Raise for a single value where a list is due, which OmegaConf says in terms of its own."""
    for field in fields(cls):
        value = given.get(field.name)
        kinds = get_args(field.type) if isinstance(field.type, UnionType) else [field.type]
        if any(get_origin(kind) is list for kind in kinds) and isinstance(value, str | int | float):
            raise ValueError(f"{section}.{field.name} must be a list such as [{value}].")


def describe(run: Run) -> dict[str, Any]:
    """The run as plain data, from which `restored` makes an equal one."""
    sections = {f.name: getattr(run, f.name) for f in fields(Run)}
    return {name: describe_section(value) for name, value in sections.items()}


def describe_section(value: Any) -> Any:
    """A section with its kind, or a plain value as it is."""
    if not hasattr(type(value), "__dataclass_fields__"):
        return value
    return {KIND: kinds.kind_of(kinds.path_of(type(value))), **kinds.with_kinds(asdict(value))}


def restored(config: Mapping[str, Any], other: kinds.Other = kinds.refuse) -> Run:
    """The run that a file describes; text in it is text, and refers to nothing.

    Raises ValueError naming the wrong key; `other` finds classes that are none of the project's.
    """
    check_names("config", config, [f.name for f in fields(Run)])
    for field in fields(Run):
        if field.name not in config and field.default is MISSING:
            raise ValueError(f"config has no '{field.name}'.")
    return Run(**{key: restored_section(key, value, other) for key, value in config.items()})


def restored_section(section: str, value: Any, other: kinds.Other = kinds.refuse) -> Any:
    """The object that a file describes in one of its sections, or a plain value as it is."""
    if not isinstance(value, Mapping):
        return value
    if KIND not in value and TARGET not in value:
        raise ValueError(f"{section} has no {KIND}, so it is not known what it is.")
    cls = kinds.class_of(section, value.get(KIND, value.get(TARGET)), other)
    if not is_dataclass(cls):
        raise ValueError(f"{section} must be of a kind with settings, got '{cls.__name__}'.")
    rest = {
        key: kinds.with_targets(key, item, other)
        for key, item in value.items()
        if key not in (KIND, TARGET)
    }
    return fit(rest, cls, section)
