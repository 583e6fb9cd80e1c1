"""study.json: how a study was asked for, so that it goes on by its name alone.

A study that somebody handed over may choose among this project's methods, tasks and settings. What
only the user's own command line may say is refused in it: folders of settings, Hydra's own part,
classes, and references that are worked out by a resolver (`${oc.env:HOME}`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from experiments.disk.files import NOT_JSON, check_record, read_object, write_record
from experiments.stored.kinds import KIND, TARGET
from experiments.stored.roles import regroup, rename_override
from experiments.stored.typed import check_finite, fit

NAME = "study.json"
FORMAT = 2  # 1 had the folders of settings among its overrides, and no checksum
READ = (1, FORMAT)
SEARCHPATH = "hydra.searchpath="
TRUST = "--trust lets it, if the study is your own"
RESOLVER = re.compile(r"\$\{.*:", re.DOTALL)
OWN_KINDS = {f"{section}.{key}" for section in ("study", "backend") for key in (KIND, TARGET)}
CLASSES = re.compile(rf"{TARGET}|{KIND}")


class Stored(TypedDict):
    """The whole file."""

    format: int
    name: str
    study: dict[str, Any]
    overrides: list[str]
    folders: NotRequired[list[str]]
    backend: NotRequired[dict[str, Any]]


def read(path: Path, trusted: bool) -> dict[str, Any]:
    """The content of a study.json of any version that is read, in the terms of the latest.

    Raises ValueError naming the file and the key of what is wrong, or of what only a trusted file
    may say.
    """
    content = read_object(path, NOT_JSON)
    version = content.setdefault("format", 1)
    if version not in READ or isinstance(version, bool | float):
        readable = " and ".join(map(str, READ))
        raise ValueError(f"{path} has format {version!r:.40}, and this version reads {readable}.")
    try:
        check_finite(content)
        found = upgrade(fit(content, Stored, ""))
        if not trusted:
            check_untrusted(found)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    check_record(path, content)
    return found


def upgrade(content: dict[str, Any]) -> dict[str, Any]:
    """The content with the folders of settings beside the overrides."""
    folders = [text for text in content["overrides"] if text.startswith(SEARCHPATH)]
    others = [text for text in content["overrides"] if not text.startswith(SEARCHPATH)]
    sections = {key: content[key] for key in ("study", "backend") if key in content}
    return (
        content
        | regroup(sections)
        | {"overrides": [*map(rename_override, others)], "folders": content.get("folders", folders)}
    )


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a study of the latest version."""
    write_record(path, {"format": FORMAT, **content})


def check_untrusted(content: Mapping[str, Any]) -> None:
    """Raise ValueError for what only the user's own command line may say."""
    if content["folders"]:
        raise ValueError(f"folders names {content['folders'][0]} to read settings from; {TRUST}.")
    for key, text in texts(content):
        if RESOLVER.search(text):
            raise ValueError(f"{key} has {text!r}, which is worked out by a resolver; {TRUST}.")
        if CLASSES.search(text):
            raise ValueError(f"{key} has {text!r}, which names a class; {TRUST}.")
    for key, text in overrides(content):
        name, _, value = text.lstrip("+~").partition("=")
        if name == "tracker" or (name == "tracker.mode" and "online" in value):
            raise ValueError(f"{key} has {text!r}, which may send your runs elsewhere; {TRUST}.")
        # A setting may be a path; a group, which has no dot in its name, chooses a file by its own.
        if "." not in name.split("@")[0] and ("/" in value or ".." in value):
            raise ValueError(f"{key} has {text!r}, which chooses a file by a path; {TRUST}.")


def texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in plain data, names included, with the dotted key of where it stands."""
    if isinstance(node, Mapping):
        for name, item in node.items():
            inside = f"{key}.{name}".lstrip(".")
            if inside not in OWN_KINDS:
                yield key or name, str(name)
                yield from texts(item, inside)
    elif isinstance(node, list):
        for item in node:
            yield from texts(item, key)
    elif isinstance(node, str):
        yield key, node


def overrides(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Every override that a cell of the study may have, with the key of where it stands."""
    study = content["study"]
    yield from texts(content["overrides"], "overrides")
    for key in ("overrides", "trial_overrides"):
        yield from texts(study.get(key), f"study.{key}")
    for group, key in (("variant", "methods"), ("task", "tasks")):
        named = study.get(key)
        for name, listed in named.items() if isinstance(named, Mapping) else ():
            own = list(texts(listed, f"study.{key}.{name}"))
            yield from own
            if not any(text.startswith(f"{group}=") for _, text in own):
                yield f"study.{key}", f"{group}={name}"
    by_method = study.get("own_axes")
    every = {"axes": study.get("axes")}
    if isinstance(by_method, Mapping):
        every |= {f"own_axes.{method}": axes for method, axes in by_method.items()}
    for where, axes in every.items():
        for name, values in axes.items() if isinstance(axes, Mapping) else ():
            listed = texts(values, f"study.{where}.{name}")
            yield from ((key, f"{name}={text}") for key, text in listed)


def classes(config: Any) -> Iterable[str]:
    """Every dotted path that a composed config names as a class, at any depth."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if key == TARGET:
                yield str(value)
            else:
                yield from classes(value)
    elif isinstance(config, list):
        for item in config:
            yield from classes(item)
