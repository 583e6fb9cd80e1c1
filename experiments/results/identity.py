"""The settings that make a run what it is, and the short name that follows from them.

It imports next to nothing, so that composing a config and finding its typos takes no time.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.stored import roles
from experiments.stored.places import mask_paths

# Whole sections that are newer, by the setting that is null where nothing of them is asked for.
UNUSED = {"forgetting": "file"}


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run, described as plain data, that can change its result.

    An absolute path counts by its hash, so that what is published without it is the same run.
    """
    kept = roles.keep_named(roles.regroup(config))
    for path, before in roles.LATER.items():
        section, _, key = path.partition(".")
        if kept.get(section, {}).get(key, ...) == before:
            kept[section].pop(key)
    for section, key in UNUSED.items():
        node = kept.get(section)
        if node is None or (isinstance(node, dict) and node.get(key) is None):
            kept.pop(section, None)
    return mask_paths(kept)


def cell_id(*, _root_: DictConfig) -> str:
    """A short hash over every setting that can change the result (Hydra resolver `cell_id`)."""
    try:
        config = plain(_root_, resolve=True)
    except OmegaConfBaseException:
        # The folder needs some name, so that reading the config can say what is wrong with it.
        config = plain(_root_, resolve=False)
    return short_hash(config)


def short_hash(config: Mapping[str, Any]) -> str:
    """A short hash over every setting, in a config as plain data, that can change the result."""
    text = json.dumps(roles.ungroup(identity(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def plain(config: DictConfig, resolve: bool) -> dict[str, Any]:
    """A config without Hydra's part as plain data.

    Section by section, since a copy without that part takes longer than all else.
    """
    found: dict[str, Any] = {}
    for key in config:
        if key != "hydra":
            node = config._get_node(str(key))
            if resolve and OmegaConf.is_interpolation(config, str(key)):
                node = config[key]
            found[str(key)] = value_of(node, resolve)
    return found


def value_of(node: Any, resolve: bool) -> Any:
    """A node of a config as plain data."""
    if OmegaConf.is_config(node):
        return OmegaConf.to_container(node, resolve=resolve)
    return node._value() if isinstance(node, Node) else node


def study_or(study: str | None, cell: str) -> str:
    """The folder of a study, or that of a single run (Hydra resolver `study_or`)."""
    return cell if study is None else f"studies/{study}"


def last_part(path: str) -> str:
    """The last name of a path or a hub's id, without the ending of a file (`last_part`)."""
    return re.sub(r"\.(gguf|safetensors)$", "", str(path).rstrip("/").rpartition("/")[2])


OmegaConf.register_new_resolver("last_part", last_part, replace=True)
OmegaConf.register_new_resolver("cell_id", cell_id, replace=True)
OmegaConf.register_new_resolver("study_or", study_or, replace=True)
