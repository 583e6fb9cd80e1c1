"""The kinds of things that files may name, and the project's own classes for them: a closed table.

A method's kind is the name of its file in `conf/variant`; any other's follows from its class, so
that `TextTask` is `text` and `Pretrained` is `pretrained`. The table is found by listing `conf/`,
so nothing is registered. A class from elsewhere is found by its dotted path, and only if the
caller allows it: a user's own command line may name what it likes, a file may not.
"""

import re
from argparse import ArgumentParser
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

CONF = Path(__file__).parents[2] / "conf"
KIND, TARGET = "_kind_", "_target_"  # in files, and in conf/
METHODS = "variant"  # the section whose kinds are named by file
LINE = re.compile(rf"^\s*{TARGET}:\s*([\w.]+)\s*$", re.MULTILINE)
# Where classes lie now that YAML files and results name by an earlier path.
MOVED = {
    "experiments.models.Pretrained": "experiments.models.pretrained.Pretrained",
    "experiments.protocol.Clean": "experiments.settings.protocol.Clean",
    "experiments.protocol.Paper": "experiments.settings.protocol.Paper",
    "experiments.tasks.sources.Hub": "experiments.data.sources.Hub",
    "experiments.tasks.sources.Local": "experiments.data.sources.Local",
    "experiments.tasks.sources.Mini": "experiments.mini.source.Mini",
    "experiments.tracking.Tracker": "experiments.settings.tracking.Tracker",
    "experiments.training.Train": "experiments.settings.train.Train",
}
FIRST = {now: before for before, now in MOVED.items()}

Other = Callable[[str, str], type]  # the class for a section and a dotted path from elsewhere


@cache
def table() -> dict[str, dict[str, str]]:
    """By section the dotted path of the class of every kind."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(CONF.glob("*/*.yaml")):
        for target in LINE.findall(path.read_text(encoding="utf-8")):
            section = path.parent.name
            name = path.stem if section == METHODS else short(target)
            found.setdefault(section, {})[name] = target
    return found


def short(target: str) -> str:
    """The kind of a class that no file is named after: its name in small letters."""
    name = target.rpartition(".")[2].removesuffix("Task")
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


@cache
def names() -> dict[str, str]:
    """The kind of each of the project's own classes, by dotted path."""
    found: dict[str, str] = {}
    for section, kinds in table().items():
        for name, target in kinds.items():
            # Several files may set one method up; its own is named as its module is.
            own = target.rpartition(".")[0].rpartition(".")[2]
            if target not in found or (section == METHODS and name == own):
                found[target] = name
    return found


def kind_of(target: str) -> str:
    """The kind of a class by its dotted path; a class from elsewhere is its own."""
    return names().get(current_path(target), target)


def current_path(target: str) -> str:
    """The dotted path of a class now, for one that it may have had in an earlier version."""
    return MOVED.get(target, target)


def with_first_paths(node: Any) -> Any:
    """Plain data of a config with the first dotted path of every class, at any depth.

    The names of folders are hashes of these, so that no run is lost when a class moves.
    """
    if isinstance(node, Mapping):
        return {
            key: FIRST.get(value, value)
            if key == TARGET and isinstance(value, str)
            else with_first_paths(value)
            for key, value in node.items()
        }
    return [with_first_paths(item) for item in node] if isinstance(node, list | tuple) else node


def target_of(section: str, kind: str) -> str | None:
    """The dotted path of a kind of the project's own, or None."""
    return table().get(section, {}).get(kind_of(kind))


def path_of(cls: type) -> str:
    """The dotted path of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def refuse(section: str, path: str) -> type:
    """No class from elsewhere."""
    known = ", ".join(sorted(table().get(section, {})))
    raise ValueError(
        f"{section} is of the kind '{path}', which is none of this project's ({known}); a class "
        "that only a file names is imported with --trust alone."
    )


def trust(section: str, path: str) -> type:
    """Any class that can be imported."""
    return load(section, path)


def add_option(parser: ArgumentParser) -> None:
    """Let a command trust what it is given: `--trust` becomes the option `other`."""
    parser.add_argument(
        "--trust", dest="other", action="store_const", const=trust, default=refuse,
        help="import classes from outside the project that the files name; only for your own files",
    )  # fmt: skip


def among(*classes: type) -> Other:
    """The classes that the user's own command has named already, and no other."""

    def find(section: str, path: str) -> type:
        for cls in classes:
            if path_of(cls) == path:
                return cls
        return refuse(section, path)

    return find


def class_of(section: str, kind: Any, other: Other = refuse) -> type:
    """The class of a kind that a file names.

    Raises ValueError for one that is none of the project's own, unless `other` has it.
    """
    if not isinstance(kind, str):
        raise ValueError(f"{section}.{KIND} must be a text, got {kind!r:.40}.")
    target = target_of(section, kind)
    return load(section, target) if target is not None else other(section, kind)


def load(section: str, target: str) -> type:
    """The class that a dotted path stands for."""
    module, _, name = current_path(target).rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{section}: '{target}' is not to be had: {error}.") from None


def with_kinds(node: Any) -> Any:
    """Plain data of a config with kinds in place of dotted paths, at any depth."""
    if isinstance(node, Mapping):
        return {
            (KIND if key == TARGET else key): (
                kind_of(value) if key == TARGET and isinstance(value, str) else with_kinds(value)
            )
            for key, value in node.items()
        }
    return [with_kinds(item) for item in node] if isinstance(node, list | tuple) else node


def with_targets(section: str, node: Any, other: Other = refuse) -> Any:
    """The inverse of `with_kinds` inside a section; every class in it is looked up on the way."""
    if isinstance(node, Mapping):
        return {
            (TARGET if key in (KIND, TARGET) else key): (
                path_of(class_of(section, value, other))
                if key in (KIND, TARGET)
                else with_targets(str(key), value, other)
            )
            for key, value in node.items()
        }
    return [with_targets(section, item, other) for item in node] if isinstance(node, list) else node
