"""Plain data of a file against the types that it should have: what does not fit is named by key."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

WORDS = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false",
    NoneType: "null", list: "a list", dict: "an object",
}  # fmt: skip
SHOWN = 40  # characters of a wrong value


def fit(value: Any, kind: Any, key: str) -> Any:
    """The value as one of this type, with a dataclass in place of each object that is one.

    The types are those of JSON, lists, tuples and dictionaries of them, unions, literals, typed
    dictionaries (further keys may be there) and dataclasses (they may not). Raises ValueError
    beginning with the dotted key of what does not fit.
    """
    if isinstance(kind, type) and is_dataclass(kind):
        return kind(**fit_fields(value, kind, key))
    if is_typeddict(kind):
        return fit_keys(value, kind, key)
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        return fit_any(value, get_args(kind), key)
    if origin is Literal:
        return fit_literal(value, get_args(kind), key)
    if origin in (list, tuple):
        return fit_list(value, get_args(kind), key, origin is tuple)
    if origin is dict:
        inside = get_args(kind)[1]
        if not isinstance(value, dict):
            raise wrong(key, "an object", value)
        if inside is Any:
            return value
        return {name: fit(item, inside, f"{key}.{name}") for name, item in value.items()}
    return fit_plain(value, kind, key)


def fit_plain(value: Any, kind: Any, key: str) -> Any:
    """A value that has no parts of its own, or parts of any kind."""
    if kind is Any:
        return value
    if kind is float:
        # JSON has one kind of number; a boolean is none, though Python counts it as one.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise wrong(key, WORDS[float], value)
        if not finite(value):
            raise wrong(key, "a finite number", value)
        return value
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise wrong(key, WORDS.get(kind, kind.__name__), value)
    return value


def finite(value: int | float) -> bool:
    """Whether a number is one that a float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def fit_any(value: Any, kinds: tuple[Any, ...], key: str) -> Any:
    """A value of one of several types."""
    if value is None and NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not NoneType]
    if len(others) == 1:
        return fit(value, others[0], key)
    for kind in others:
        try:
            return fit(value, kind, key)
        except ValueError:
            continue
    words = [WORDS.get(get_origin(kind) or kind, str(kind)) for kind in others]
    raise wrong(key, " or ".join(words), value)


def fit_literal(value: Any, choices: tuple[Any, ...], key: str) -> Any:
    """A value that is one of a few."""
    if not any(value == choice and type(value) is type(choice) for choice in choices):
        raise wrong(key, f"one of {', '.join(map(str, choices))}", value)
    return value


def fit_list(value: Any, kinds: tuple[Any, ...], key: str, fixed: bool) -> list[Any]:
    """A list of one type, or of one type for each place."""
    if not isinstance(value, list):
        raise wrong(key, WORDS[list], value)
    if fixed and len(value) != len(kinds):
        raise wrong(key, f"a list of {len(kinds)}", value)
    inside = kinds if fixed else kinds * len(value)
    return [
        fit(item, kind, f"{key}[{place}]")
        for place, (item, kind) in enumerate(zip(value, inside, strict=True))
    ]


def fit_keys(value: Any, kind: Any, key: str) -> dict[str, Any]:
    """An object with the keys of a typed dictionary, and perhaps others, which are left alone."""
    if not isinstance(value, dict):
        raise wrong(key, "an object", value)
    prefix = f"{key}." if key else ""
    found = dict(value)
    for name, inside in hints(kind).items():
        if name in value:
            found[name] = fit(value[name], inside, f"{prefix}{name}")
        elif name in kind.__required_keys__:
            raise ValueError(f"{prefix}{name} is missing.")
    return found


def fit_fields(value: Any, kind: Any, key: str) -> dict[str, Any]:
    """The fields of a dataclass."""
    if not isinstance(value, Mapping):
        raise wrong(key, "an object", value)
    types, prefix = hints(kind), f"{key}." if key else ""
    known = {field.name: field for field in fields(kind)}
    for name in value:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ValueError(
                f"{key} has no setting '{name}'.{hint} {kind.__name__} has: {', '.join(known)}."
            )
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{name} is missing.")
    return {
        name: as_float(fit(item, types[name], f"{prefix}{name}"), types[name])
        for name, item in value.items()
    }


def as_float(value: Any, kind: Any) -> Any:
    """A whole number as the float that a setting takes; in other data it stays as it is."""
    floats = kind is float or (float in get_args(kind) and int not in get_args(kind))
    return float(value) if floats and isinstance(value, int) else value


@cache
def hints(kind: Any) -> dict[str, Any]:
    """The types of the parts of a class."""
    return get_type_hints(kind)


def wrong(key: str, expected: str, value: Any) -> ValueError:
    """The error for a value of another type."""
    shown = repr(value)
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    return ValueError(f"{key} must be {expected}, got {shown}.")


def check_finite(value: Any, key: str = "") -> None:
    """Raise ValueError naming a number, in data of any shape, that is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong(key, "a finite number", value)
    if isinstance(value, dict):
        for name, item in value.items():
            check_finite(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            check_finite(item, f"{key}[{place}]")
