"""Plain data of a file against the types that it should have: what does not fit is named by key.

A type becomes a function once, so that thousands of results are checked in no time.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints, is_typeddict

from experiments.disk.files import check_record
from experiments.stored.shown import near, visible

Check = Callable[[Any, str], Any]  # a value and its dotted key; the value as it is to be used
WORDS = {
    str: "a text", int: "a whole number", float: "a number", bool: "true or false",
    NoneType: "null", list: "a list", dict: "an object",
}  # fmt: skip
SHOWN = 40  # characters of a wrong value


def fit_record(
    path: Path, content: dict[str, Any], kind: Any, check: Callable[[Any], None] | None = None
) -> Any:
    """The content of a record as one of this type, held to a further check and to its checksum.

    Raises ValueError naming the file and the key of what is wrong.
    """
    try:
        check_finite(content)
        found = fit(content, kind, "")
        if check is not None:
            check(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    check_record(path, content)
    return found


def fit(value: Any, kind: Any, key: str) -> Any:
    """The value as one of this type, with a dataclass in place of each object that is one.

    The types are those of JSON, lists, tuples and dictionaries of them, unions, literals, typed
    dictionaries (further keys may be there) and dataclasses (they may not). Raises ValueError
    beginning with the dotted key of what does not fit.
    """
    return check_of(kind)(value, key)


@cache
def check_of(kind: Any) -> Check:
    """The function that checks values of a type."""
    if isinstance(kind, type) and is_dataclass(kind):
        return of_dataclass(kind)
    if is_typeddict(kind):
        return of_keys(kind)
    origin, inside = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return of_union(inside)
    if origin is Literal:
        return of_choices(inside)
    if origin is list:
        return of_list(check_of(inside[0]))
    if origin is tuple:
        return of_places(tuple(map(check_of, inside)))
    if origin is dict:
        return of_items(check_of(inside[1]))
    return {Any: anything, float: number}.get(kind) or of_plain(kind)


def anything(value: Any, key: str) -> Any:
    """Any value."""
    return value


def number(value: Any, key: str) -> Any:
    """A finite number. JSON has one kind of them; a boolean is none, though Python takes it so."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise wrong(key, WORDS[float], value)
    if not finite(value):
        raise wrong(key, "a finite number", value)
    return value


def finite(value: int | float) -> bool:
    """Return whether a number is one that a float can hold."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def of_plain(kind: type) -> Check:
    """Values of a class without parts, or with parts of any kind."""

    def check(value: Any, key: str) -> Any:
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise wrong(key, WORDS.get(kind, kind.__name__), value)
        return value

    return check


def of_union(kinds: tuple[Any, ...]) -> Check:
    """Values of one of several types."""
    others = [kind for kind in kinds if kind is not NoneType]
    checks = [check_of(kind) for kind in others]
    words = " or ".join(WORDS.get(get_origin(kind) or kind, str(kind)) for kind in others)

    def check(value: Any, key: str) -> Any:
        if value is None and NoneType in kinds:
            return None
        if len(checks) == 1:
            return checks[0](value, key)
        for one in checks:
            try:
                return one(value, key)
            except ValueError:
                continue
        raise wrong(key, words, value)

    return check


def of_choices(choices: tuple[Any, ...]) -> Check:
    """Values that are one of a few."""

    def check(value: Any, key: str) -> Any:
        if not any(value == choice and type(value) is type(choice) for choice in choices):
            raise wrong(key, f"one of {', '.join(map(str, choices))}", value)
        return value

    return check


def of_list(inside: Check) -> Check:
    """Lists of one type."""

    def check(value: Any, key: str) -> list[Any]:
        if not isinstance(value, list):
            raise wrong(key, WORDS[list], value)
        return [inside(item, f"{key}[{place}]") for place, item in enumerate(value)]

    return check


def of_places(inside: tuple[Check, ...]) -> Check:
    """Lists with a type for each place."""

    def check(value: Any, key: str) -> list[Any]:
        if not isinstance(value, list) or len(value) != len(inside):
            raise wrong(key, f"a list of {len(inside)}", value)
        pairs = enumerate(zip(value, inside, strict=True))
        return [one(item, f"{key}[{place}]") for place, (item, one) in pairs]

    return check


def of_items(inside: Check) -> Check:
    """Objects with any keys and values of one type."""

    def check(value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(key, WORDS[dict], value)
        if inside is anything:
            return value
        return {name: inside(item, f"{key}.{name}") for name, item in value.items()}

    return check


def of_keys(kind: Any) -> Check:
    """Objects with the keys of a typed dictionary, and perhaps others, which are left alone."""
    checks = {name: check_of(inside) for name, inside in get_type_hints(kind).items()}
    required = kind.__required_keys__

    def check(value: Any, key: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise wrong(key, WORDS[dict], value)
        prefix = f"{key}." if key else ""
        found = dict(value)
        for name, inside in checks.items():
            if name in value:
                found[name] = inside(value[name], prefix + name)
            elif name in required:
                raise ValueError(f"{visible(prefix)}{name} is missing.")
        return found

    return check


def of_dataclass(kind: Any) -> Check:
    """Objects of a dataclass, which get its fields and no other."""
    known = {field.name: field for field in fields(kind)}
    types = get_type_hints(kind)
    checks = {name: check_of(types[name]) for name in known}
    floats = {name for name in known if is_float(types[name])}

    def check(value: Any, key: str) -> Any:
        if not isinstance(value, Mapping):
            raise wrong(key, WORDS[dict], value)
        check_names(value, known, kind.__name__, key)
        prefix = f"{key}." if key else ""
        found = {name: checks[name](item, f"{prefix}{name}") for name, item in value.items()}
        # A whole number becomes the float that a setting takes.
        whole = {n: float(v) for n, v in found.items() if n in floats and isinstance(v, int)}
        return kind(**found | whole)

    return check


def is_float(kind: Any) -> bool:
    """Return whether numbers of a type are floats."""
    return kind is float or (float in get_args(kind) and int not in get_args(kind))


def check_known(section: str, given: Iterable[str], known: Iterable[str], owner: str) -> None:
    """Raise ValueError for a name that is not among the known ones, and suggest the nearest."""
    known = list(known)
    for name in given:
        if name not in known:
            raise ValueError(
                f"{section} has no setting '{visible(name)}'.{near(name, known, 0.5)} "
                f"{owner} has: {', '.join(known)}."
            )


def check_names(value: Mapping[str, Any], known: Mapping[str, Any], owner: str, key: str) -> None:
    """Raise ValueError for a field that there is none of, or that is missing."""
    check_known(visible(key), value, known, owner)
    for name, field in known.items():
        if name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{visible(key)}.{name} is missing.")


def wrong(key: str, expected: str, value: Any) -> ValueError:
    """The error for a value of another type."""
    shown = repr(value)
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
    return ValueError(f"{visible(key)} must be {expected}, got {shown}.")


def check_finite(content: Mapping[str, Any]) -> None:
    """Raise ValueError naming a number, anywhere in plain data, that is NaN or infinite."""
    try:
        json.dumps(content, allow_nan=False)
    except ValueError:
        find_infinite(content, "")
        raise


def find_infinite(value: Any, key: str) -> None:
    """Raise ValueError naming the first number that is NaN or infinite."""
    if isinstance(value, float) and not math.isfinite(value):
        raise wrong(key, "a finite number", value)
    if isinstance(value, Mapping):
        for name, item in value.items():
            find_infinite(item, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            find_infinite(item, f"{key}[{place}]")
