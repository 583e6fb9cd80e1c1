"""Tiny backbones of every family, with their states and gradients."""

from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from experiments.data.batches import Batch
from experiments.families.base import family_of
from experiments.models.engine import Engine

LENGTHS = [9, 2, 7, 1, 12, 3]


CLOSE = {"rtol": 1e-8, "atol": 1e-9}


def backbone_of(config: PreTrainedConfig, double: bool = True) -> PreTrainedModel:
    """A plain backbone of random weights, no bias zero and no norm one."""
    torch.manual_seed(0)
    family = family_of(config)
    backbone = AutoModel.from_config(config, **family.loading(config))
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    family.plain(backbone)
    if double:
        compute_norms_exactly(backbone)
    return backbone.double() if double else backbone


def compute_norms_exactly(model: torch.nn.Module) -> None:
    """Compute norms of RMS in float64, where transformers' modules round to float32."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(rms_norm, module)


def rms_norm(norm: Any, x: Tensor) -> Tensor:
    """transformers' norm without its rounding; Gemma's weights are told less one."""
    gemma = hasattr(norm, "eps")
    eps = norm.eps if gemma else norm.variance_epsilon
    weight = 1 + norm.weight if gemma else norm.weight
    return F.rms_norm(x, [x.shape[-1]], weight, eps)


def batch_of(config: PreTrainedConfig) -> Batch:
    """Random tokens in examples of several lengths."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, config.vocab_size, (sum(LENGTHS),), generator=generator)
    padding = {"input_ids": config.pad_token_id or 0}
    return Batch({"input_ids": ids}, np.array(LENGTHS), None, np.arange(len(LENGTHS)), padding)


def states_and_gradients(
    backbone: Any, batch: Batch, engine: Engine, places: np.ndarray
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The last hidden states, and the gradients of what trains."""
    trained = [p for p in backbone.parameters() if p.requires_grad]
    states = engine.states(backbone, batch, places)
    weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view(states.shape)
    return states, torch.autograd.grad((states * weights).sum(), trained)
