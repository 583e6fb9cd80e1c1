"""From one section of a config, or of a file, to the object that it describes."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from importlib import import_module
from types import UnionType
from typing import Any, cast, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.settings.scalars import literal, texts
from experiments.settings.schema import stand_in
from experiments.stored import kinds
from experiments.stored.kinds import KIND, TARGET
from experiments.stored.typed import check_known, fit


def build(section: str, node: DictConfig) -> Any:
    """The object that `node._target_` names; that dataclass is the schema of names and types."""
    cls = schema(section, target_of(section, node))
    with naming(section):
        built = OmegaConf.to_object(fill(section, node, cls, is_target_word))
    check_finite(section, vars(built))
    return built


def check(section: str, node: DictConfig) -> dict[str, Any] | None:
    """The values of a section as plain data, once its names and types are right.

    They are held against the source of the class, which is not imported. None if that cannot be
    read, as of a class from elsewhere. Raises ValueError naming the wrong key or value.
    """
    target = target_of(section, node)
    cls = stand_in(target)
    if cls is None:
        return None
    with naming(section):
        # The words for many layers are known where torch is; `build` refuses any other.
        filled = fill(section, node, cls, lambda text: True)
        values = asdict(cast(Any, OmegaConf.to_object(filled)))
    check_finite(section, values)
    return {TARGET: kinds.current_path(target), **values}


def is_target_word(text: str) -> bool:
    """Return whether a text stands for many layers, so that it needs no list around it."""
    from variants.base import TARGET_WORDS  # which imports torch

    return text in TARGET_WORDS


def target_of(section: str, node: DictConfig) -> str:
    """The dotted path of a section's class."""
    if OmegaConf.is_missing(node, TARGET) or TARGET not in node:
        raise ValueError(f"{section} has no {TARGET}, so it is not known what it is.")
    with naming(section):
        return str(node[TARGET])


def fill(section: str, node: DictConfig, cls: Any, is_word: Callable[[str], bool]) -> DictConfig:
    """The values of a section in the types that the fields of `cls` have."""
    given = {str(key): node[key] for key in node if key != TARGET}
    check_known(section, given, [f.name for f in fields(cls)], cls.__name__)
    if isinstance(word := given.get("targets"), str) and is_word(word):  # it may stand alone
        given["targets"] = [word]
    check_lists(section, given, cls)
    for field in fields(cls):
        if field.name in given:
            value = plain(given[field.name])
            value = texts(f"{section}.{field.name}", field.type, value)
            given[field.name] = literal(value)  # references in it are resolved by now
    return cast(DictConfig, OmegaConf.merge(OmegaConf.structured(cls), given))


def check_finite(section: str, values: Mapping[str, Any]) -> None:
    """Raise ValueError for a number that is infinite or none."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{section}.{name} must be a finite number, got {value}.")


def plain(value: Any) -> Any:
    """A value of a config with lists and dictionaries of Python's."""
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


def schema(section: str, target: Any) -> Any:
    """The dataclass that a dotted name stands for."""
    module, _, name = kinds.current_path(str(target)).rpartition(".")
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


def check_lists(section: str, given: dict[str, Any], cls: Any) -> None:
    """Raise for a single value where a list is due, which OmegaConf says in terms of its own."""
    for field in fields(cls):
        value = given.get(field.name)
        kinds = get_args(field.type) if isinstance(field.type, UnionType) else [field.type]
        if any(get_origin(kind) is list for kind in kinds) and isinstance(value, str | int | float):
            raise ValueError(f"{section}.{field.name} must be a list such as [{value}].")


def describe_section(value: Any) -> Any:
    """A section with its kind, or a plain value as it is."""
    if not hasattr(type(value), "__dataclass_fields__"):
        return value
    return {KIND: kinds.kind_of(kinds.path_of(type(value))), **kinds.with_kinds(asdict(value))}


def restore_section(section: str, value: Any, other: kinds.Other = kinds.refuse) -> Any:
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
