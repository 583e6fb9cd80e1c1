"""The settings of runs: what each is for, and where those of earlier versions stand now.

Every question of the kind "do these two runs differ?" is answered from the one table of roles.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

from experiments.stored import kinds
from experiments.stored.kinds import KIND, TARGET


class Role(Enum):
    """The purpose of a setting. A setting that no table names decides the result."""

    RESULT = "decides the number: part of the run's name, compared and audited"
    SOURCE = "where data or weights lie: part of the name, compared by what the files hold"
    REPETITION = "which of several equal runs it is: part of the name"
    RECORD = "what is kept and shown of the run, and in which portions: part of the name"
    PLACE = "where it is carried out, and how it is watched: not part of the name"


# A section stands for all that is in it.
ROLES = {
    "seed": Role.REPETITION,
    "data.dir": Role.SOURCE,
    "model.path": Role.SOURCE,
    "paper": Role.RECORD,
    "forgetting": Role.RECORD,
    "train.divergence_ratio": Role.RECORD,
    "compute.eval_batch_size": Role.RECORD,
    "record.snapshots": Role.RECORD,
    "record": Role.PLACE,
    "compute.device": Role.PLACE,
    "tracker": Role.PLACE,
    "backend": Role.PLACE,
    "study": Role.PLACE,
    "part_of": Role.PLACE,
}

# Where settings of earlier versions stand now.
MOVED = {
    "train.engine": "compute.engine",
    "train.lean": "compute.recompute_mlp",
    "train.checkpointing": "compute.checkpointing",
    "train.device": "compute.device",
    "train.eval_batch_size": "compute.eval_batch_size",
    "train.explode": "train.divergence_ratio",
    "train.snapshots": "record.snapshots",
    "train.log_every": "record.log_every",
    "train.checkpoint_every": "record.checkpoint_every",
    "study.cells": "backend.max_parallel",
    "study.cells_per_gpu": "backend.per_gpu",
    "study.memory": "backend.memory",
    "study.worker": "backend.worker",
    "study.begin": "study.start_from",
    "study.extend": "study.max_grid_extensions",
}
# Settings that are newer than some results, with the value that is how runs were before. With it
# a run is what it was, under the same name.
LATER = {"train.subset": "fixed", "train.held_out": None, "model.head": None, "task.words": None,
         "record.pause": None}  # fmt: skip
OF_SOME_KINDS = ("task.words",)  # not every kind of its section has it
FORMER = {new: old for old, new in MOVED.items()}


def role_of(key: str) -> Role:
    """The role of a setting by its dotted key: its own, or that of the section it stands in."""
    while key:
        if key in ROLES:
            return ROLES[key]
        key = key.rpartition(".")[0]
    return Role.RESULT


def is_compared(key: str) -> bool:
    """Return whether two runs that differ in a setting are runs of different things."""
    return role_of(key) is Role.RESULT


def is_harmless(key: str) -> bool:
    """Return whether a run with another value is still one of the same published setting."""
    return role_of(key) in (Role.PLACE, Role.RECORD, Role.REPETITION)


def keep_named(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a config, as plain data, that a run's name is made of."""
    kept = {}
    for section, node in config.items():
        if isinstance(node, Mapping):
            node = {k: v for k, v in node.items() if role_of(f"{section}.{k}") is not Role.PLACE}
        if role_of(section) is not Role.PLACE or (isinstance(node, dict) and node):
            kept[section] = node
    return kept


def regroup(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config of any version, as plain data, with every setting where it stands now.

    What stands at its former place was asked for there, so it wins.
    """
    return move_settings(config, MOVED)


def ungroup(config: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `regroup`: run names are made from the places of settings at the first."""
    found = move_settings(config, FORMER)
    return kinds.with_first_paths(
        {key: node for key, node in found.items() if not is_empty(key, node)}
    )


def is_empty(section: str, node: Any) -> bool:
    """Return whether a section newer than run names has nothing left but its usual class."""
    usual = {TARGET: kinds.target_of(section, section), KIND: section}
    return section in ("compute", "record") and not any(
        usual.get(key) != value for key, value in node.items()
    )


def with_later(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config, as plain data, with the settings that are newer than it as they were before."""
    found = dict(config)
    for path, before in LATER.items():
        section, _, key = path.partition(".")
        if isinstance(node := found.get(section), Mapping) and path not in OF_SOME_KINDS:
            found[section] = {key: before, **node}
    return found


def find_moved(config: Mapping[str, Any]) -> list[str]:
    """The settings of a config, as plain data, that stand at a former place."""
    return [
        old
        for old in MOVED
        if isinstance(node := config.get(old.partition(".")[0]), Mapping)
        and old.partition(".")[2] in node
    ]


def move_settings(config: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """A config, as plain data, with settings moved from some dotted keys to others."""
    found = {key: dict(node) if isinstance(node, Mapping) else node for key, node in config.items()}
    for old, new in places.items():
        section, _, key = old.partition(".")
        node = found.get(section)
        if isinstance(node, dict) and key in node:
            target, _, name = new.partition(".")
            found.setdefault(target, {})[name] = node.pop(key)
    return found


def rename_override(override: str) -> str:
    """An override of the command line with the setting's name of today."""
    prefix = override[: len(override) - len(override.lstrip("+~"))]
    key, equals, value = override[len(prefix) :].partition("=")
    return f"{prefix}{MOVED.get(key, key)}{equals}{value}"
