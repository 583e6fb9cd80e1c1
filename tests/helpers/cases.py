"""Cases of the contract after a few steps of training, and adapters made from them."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from conftest import Case

from experiments.adapters import saved
from experiments.backbones.layers import float_masters
from experiments.machine.randomness import seed_everything
from experiments.models.model import Loaded
from variants.base import (
    Progress,
    decay_groups,
)

FAMILIES = ["roberta", "bert", "gpt2", "llama"]


def adapted(case: Callable[..., Case], variant: str, family: str, precision: str = "fp32") -> Case:
    """A variant in place, its adapters initialised from a seed."""
    made = case(variant, family=family, precision=precision)
    seed_everything(0)
    made.run.variant.adapt(made.model.backbone)
    float_masters(made.model)
    return made


def train_steps(made: Case, steps: int = 20) -> None:
    """Train on one batch, hooks included, as the loop does."""
    model, variant = made.model, made.run.variant
    groups = variant.param_groups(model.backbone, 1e-2, 0.01)
    optimizer = torch.optim.AdamW(groups + decay_groups(model.head, 1e-2, 0.0))
    model.train()
    for step in range(1, steps + 1):
        loss, _ = model.loss(made.batch)
        (loss / len(made.batch.rows) + variant.penalty(model.backbone)).backward()
        variant.after_backward(model.backbone, Progress(step, steps))
        optimizer.step()
        variant.after_step(model.backbone, Progress(step, steps))
        optimizer.zero_grad()
    model.eval()


@dataclass
class Trained:
    """A trained case, and the backbone's parameters as they were before."""

    case: Case
    before: dict[str, torch.Tensor]


TRAINED: dict[str, Trained] = {}


def trained_case(
    case: Callable[..., Case], variant: str, family: str, precision: str = "fp32"
) -> Trained:
    """A case after a few steps; a copy, as one training serves many tests."""
    made = adapted(case, variant, family, precision)
    key = repr(made.run)
    if key not in TRAINED:
        named = made.model.backbone.named_parameters()
        before = {name: p.detach().clone() for name, p in named}
        train_steps(made)
        TRAINED[key] = Trained(made, before)
    ended = TRAINED[key]
    return Trained(Case(made.run, deepcopy(ended.case.model), made.batch), ended.before)


@torch.no_grad()
def logits(made: Case) -> torch.Tensor:
    return made.model(made.batch)


def trained(case: Callable[..., Case], variant: str, family: str, precision: str = "fp32") -> Case:
    return trained_case(case, variant, family, precision).case


def keep(made: Case, folder: Path) -> Path:
    """The trained case as an adapter in a folder."""
    loaded = Loaded(made.model, tokenizer=None, max_length=0)  # type: ignore[arg-type]
    saved.write(saved.of_run(made.run, loaded, made.run.model.weights_hash()), folder)
    return folder
