"""The rank at which a method trains as many parameters as another."""

import json
from functools import cache

import torch
from omegaconf import DictConfig, OmegaConf

from experiments.settings.config import read
from experiments.training.measure import count_parameters


def match_rank(config: DictConfig, reference: DictConfig) -> int | None:
    """The rank at which a method trains as nearly as can be what the reference trains.

    None for a method without a rank, or with a rank that the method changes itself. Each rank is
    taken to add as many parameters as the one before it; if it does not, the audit says that the
    sizes differ.
    """
    variant = read(config).variant
    if not variant.sized_by_rank:
        return None
    own, step = config.variant.rank, variant.rank_step
    added = count_trained(config, own + step) - count_trained(config, own)
    steps = round((count_trained(reference) - count_trained(config, own)) / added)
    return max(step, own + step * steps)


def count_trained(config: DictConfig, rank: int | None = None) -> int:
    """How many parameters of the backbone a method trains, with another rank if one is given."""
    chosen = {} if rank is None else {"variant": {"rank": rank}}
    kept = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    whole = OmegaConf.to_container(OmegaConf.merge(kept, chosen), resolve=True)
    return count_run(json.dumps(whole))


@cache
def count_run(config: str) -> int:
    """How many parameters of the backbone a run trains."""
    run = read(DictConfig(json.loads(config)))
    with torch.random.fork_rng(devices=[]):
        loaded = run.model.load(run.task.num_outputs, torch.Generator(), run.train.precision)
        run.variant.adapt(loaded.model.backbone)
    return count_parameters(loaded.model)["trained"]
