"""Values of YAML as they are written: `no` is a word, and `007` is not seven.

YAML 1.1, which OmegaConf reads, takes `no`, `on`, `007`, `0x1F` and `1:30` for truth values and
numbers, and nothing remembers what stood there. Here only `true`, `false` and plain decimal numbers
are more than text. A setting that is a truth value or a number still takes the other forms: its
type decides.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import _utils

PLAIN = {
    "tag:yaml.org,2002:bool": re.compile(r"(?:true|false)\Z"),
    "tag:yaml.org,2002:int": re.compile(r"(?:0|-?[1-9][0-9]*)\Z"),
}
ESCAPED = {"'": "\\'", "$": "\\$", "": ""}  # what stands in quotes for what, if anything
DROPPED = {"tag:yaml.org,2002:value"}  # a lone `=`, for which there is no constructor


@contextmanager
def as_written() -> Iterator[None]:
    """Let OmegaConf read files so within this block, Hydra's among them."""
    original = _utils.get_yaml_loader

    def plain_loader() -> Any:
        loader = original()
        loader.yaml_implicit_resolvers = {
            first: [(tag, regexp) for tag, regexp in resolvers if tag not in {*PLAIN, *DROPPED}]
            for first, resolvers in loader.yaml_implicit_resolvers.items()
        }
        for tag, regexp in PLAIN.items():
            loader.add_implicit_resolver(tag, regexp, None)
        return loader

    _utils.get_yaml_loader = plain_loader
    try:
        yield
    finally:
        _utils.get_yaml_loader = original


@cache  # a large study quotes the same few texts for thousands of runs
def quote(text: str) -> str:
    """A text as a value of an override, in quotes if Hydra would read it otherwise."""
    if re.fullmatch(r"[\w./:@+-]+", text, re.ASCII) and not plain_value(text):
        return text
    # Backslashes count before a quote or a reference alone, and then each for half of one.
    inside = re.sub(r"(\\*)('|\$(?=\{)|\Z)", lambda found: 2 * found[1] + ESCAPED[found[2]], text)
    return f"'{inside}'"


def literal(value: Any) -> Any:
    """A value that OmegaConf reads as it is, whatever looks like a reference in its texts."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda found: f"{2 * found[1]}\\${{", value)
    if isinstance(value, list):
        return [literal(item) for item in value]
    if isinstance(value, dict):
        return {key: literal(item) for key, item in value.items()}
    return value


def plain_value(text: str) -> bool:
    """Return whether Hydra takes a text without quotes for a number, a truth value or null."""
    value = OverridesParser.create().parse_override(f"key={text}").value()
    return not isinstance(value, str) or value != text


def texts(path: str, kind: Any, value: Any) -> Any:
    """The value of a setting of this type with a text in each place that takes one.

    `path` is the setting's dotted name. Raises ValueError for a value whose text is lost.
    """
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        kinds = [one for one in get_args(kind) if one is not NoneType]
        return value if value is None else texts(path, kinds[0], value)
    if kind is str:
        return text(path, value)
    if get_origin(kind) is list and isinstance(value, list):
        (inner,) = get_args(kind)
        return [texts(f"{path}[{i}]", inner, item) for i, item in enumerate(value)]
    if get_origin(kind) is dict and isinstance(value, dict):
        outer, inner = get_args(kind)
        return {
            texts(path, outer, key): texts(f"{path}.{key}", inner, item)
            for key, item in value.items()
        }
    if is_dataclass(kind) and isinstance(value, dict):
        kinds = {field.name: field.type for field in fields(kind)}
        return {key: texts(f"{path}.{key}", kinds.get(key), item) for key, item in value.items()}
    return value


def text(path: str, value: Any) -> Any:
    """A scalar as it was written."""
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, float):
        read = "nothing" if value is None else f"the number {value}"
        raise ValueError(f"{path} must be a text, and stands for {read}; put it in quotes.")
    return str(value) if isinstance(value, int) else value
