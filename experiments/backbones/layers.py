"""The model boundary: whatever a checkpoint holds becomes plain linear layers of one precision."""

from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import mark_linear_map

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class SplitLinear(nn.Module):
    """A fused projection as several linear layers, which are adapted one by one."""

    def __init__(self, parts: Mapping[str, nn.Linear]) -> None:
        super().__init__()
        self.names = tuple(parts)
        for name, part in parts.items():
            self.add_module(name, part)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The projections by name, in the order of the fused one's outputs."""
        return {name: self.get_submodule(name) for name in self.names}

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts.values()], dim=-1)


class CastLinear(nn.Linear):
    """A linear layer that casts its weights to the input's dtype at use."""

    casts_at_use = True

    @mark_linear_map
    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return F.linear(input, self.weight.to(input.dtype), bias)


class CastLayerNorm(nn.LayerNorm):
    """A layer norm computed in float32, whatever it is given."""

    casts_at_use = True

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.float()).to(input.dtype)


class CastEmbedding(nn.Embedding):
    """An embedding that gives bfloat16, also while its own table trains in float32."""

    casts_at_use = True

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).to(torch.bfloat16)


@cache
def casting(kind: type[nn.Module]) -> type[nn.Module]:
    """A norm's class whose result has the type of its input, whatever its weight has."""

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return kind.forward(self, x, *args, **kwargs).to(x.dtype)

    return type(f"Cast{kind.__name__}", (kind,), {"forward": forward, "casts_at_use": True})


def is_norm(module: nn.Module) -> bool:
    """Return whether a module is a norm of a model's own: its weight alone, one for each column."""
    own = dict(module.named_parameters())
    return own.keys() == {"weight"} and own["weight"].ndim == 1


CASTING = {nn.Linear: CastLinear, nn.LayerNorm: CastLayerNorm, nn.Embedding: CastEmbedding}


def store_matrices(backbone: nn.Module, dtype: torch.dtype) -> None:
    """Hold linear and embedding tables in `dtype`; biases and norms stay in float32.

    It comes before a method adapts the model: all start from the same rounded weights.
    """
    if dtype == torch.float32:
        return
    for module in backbone.modules():
        if type(module) in CASTING:
            module.__class__ = CASTING[type(module)]
        elif is_norm(module):
            module.__class__ = casting(type(module))
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data = module.weight.data.to(dtype)


def float_masters(model: nn.Module) -> None:
    """Hold whatever trains in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
