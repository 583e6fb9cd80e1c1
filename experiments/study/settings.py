"""Settings of cells as plain data: changed without composing, and held against a result's."""

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.results.identity import identity
from experiments.stored.kinds import with_kinds

Settings = dict[str, Any]
REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@cache
def parse_override(override: str) -> tuple[str, Any]:
    """The key and the value of `variant.lr=0.001`."""
    (found,) = OverridesParser.create().parse_overrides([override])
    return found.key_or_group, found.value()


def update(config: Settings, changes: Iterable[tuple[str, Any]]) -> Settings:
    """A config with other values under some dotted keys; the rest is shared, not copied."""
    found = dict(config)
    for key, value in changes:
        node, *inner = key.split(".")
        if not inner:
            found[node] = value
        else:
            found[node] = update(found[node], [(".".join(inner), value)])
    return found


def find_references(node: Any) -> Iterator[str]:
    """The dotted keys that texts in a config, unresolved, refer to."""
    if isinstance(node, Mapping):
        for item in node.values():
            yield from find_references(item)
    elif isinstance(node, list):
        for item in node:
            yield from find_references(item)
    elif isinstance(node, str):
        yield from REFERENCE.findall(node)


def differing(asked: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """The settings that decide a result, and differ between what was asked for and a result."""
    return list(differences(with_kinds(identity(asked)), identity(stored), ""))


def differences(one: Any, other: Any, key: str) -> Iterator[str]:
    """The dotted keys that two nodes of plain data have both, with different values."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for name in one.keys() & other.keys():
            yield from differences(one[name], other[name], f"{key}.{name}".lstrip("."))
    elif not alike(one, other):
        yield f"{key} is {other!r:.60}, not {one!r:.60}"


def alike(one: Any, other: Any) -> bool:
    """Return whether two values are one, however they were typed."""
    if one == other:
        return True
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    # A setting is typed as text or as a number, and stored as what its class makes of it.
    return not isinstance(one, bool) and not isinstance(other, bool) and str(one) == str(other)
