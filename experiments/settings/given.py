"""The sections of a composed config as they were given, before their classes are imported."""

from copy import deepcopy
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from experiments.settings.commandline import tell_new_name
from experiments.settings.schema import read_schema
from experiments.settings.sections import check, naming, plain
from experiments.stored.roles import MOVED
from experiments.stored.typed import check_known

RUN = "experiments.settings.config.Run"
BESIDE = ("hydra", "study", "backend")  # sections that are none of a run's


def list_given(cfg: DictConfig) -> dict[str, Any]:
    """The sections and values of a run by name; raises ValueError for one that no run has."""
    with naming():
        cfg = with_moved_settings(cfg)
        given = {str(key): cfg[key] for key in cfg if key not in BESIDE}
    schema = read_schema(RUN)
    assert schema is not None
    check_known("config", given, schema.settings, "It")
    return given


def check_config(cfg: DictConfig) -> dict[str, Any]:
    """The run that a config describes as plain data, with its names and types checked.

    A section is None if its class is from elsewhere, so that only importing it tells. Raises
    ValueError naming the wrong key or value. Imports no class of settings, and so no torch.
    """
    return {
        key: check(key, node) if OmegaConf.is_dict(node) else plain(node)
        for key, node in list_given(cfg).items()
    }


def with_moved_settings(cfg: DictConfig) -> DictConfig:
    """A config with the settings that a file of the user's has in former places where they belong.

    Says so of each.
    """
    for old, new in MOVED.items():
        section, _, key = old.partition(".")
        node = cfg.get(section)
        if OmegaConf.is_dict(node) and key in node:
            tell_new_name(old)
            cfg = deepcopy(cfg)
            OmegaConf.update(cfg, new, node._get_node(key), force_add=True)
            with open_dict(cfg):
                del cfg[section][key]
    return cfg
