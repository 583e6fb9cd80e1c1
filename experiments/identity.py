"""Which settings make a run what it is, and the short name that follows from them.

It imports next to nothing, so that composing a config and finding its typos takes no time.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

# What decides where and how a run is carried out, and not what comes out of it.
NOT_IDENTITY = ("tracker", "train.device", "train.checkpoint_every", "train.log_every")


def identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run, described as plain data, that can change its result."""
    kept = {key: dict(node) if isinstance(node, dict) else node for key, node in config.items()}
    for path in NOT_IDENTITY:
        section, _, key = path.partition(".")
        if key:
            kept.get(section, {}).pop(key, None)
        else:
            kept.pop(section, None)
    return kept


def cell_id(*, _root_: DictConfig) -> str:
    """A short hash over every setting that can change the result (Hydra resolver `cell_id`)."""
    config = {
        str(key): OmegaConf.to_container(_root_[key], resolve=True)
        if OmegaConf.is_config(_root_[key])
        else _root_[key]
        for key in _root_
        if key != "hydra"
    }
    text = json.dumps(identity(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


OmegaConf.register_new_resolver("cell_id", cell_id, replace=True)
