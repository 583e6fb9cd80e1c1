"""The model boundary: whatever a checkpoint holds becomes plain linear layers of one precision."""

from typing import cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from variants.base import mark_linear_map, replace_module

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class SplitLinear(nn.Module):
    """GPT-2's fused projection as three linear layers: q, k and v are adapted one by one."""

    def __init__(self, fused: Conv1D) -> None:
        super().__init__()
        weights, biases = fused.weight.chunk(3, dim=1), fused.bias.chunk(3)
        self.q, self.k, self.v = map(linear_from_conv, weights, biases)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """The projections by name, in the order of the fused one's outputs."""
        return {"q": self.q, "k": self.k, "v": self.v}

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.q(x), self.k(x), self.v(x)), dim=-1)


def linear_from_conv(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer from a Conv1D's weight [d_in, d_out]."""
    d_in, d_out = weight.shape
    linear = nn.Linear(d_in, d_out, device="meta")
    linear.weight = nn.Parameter(weight.detach().t().contiguous())
    linear.bias = nn.Parameter(bias.detach().clone())
    return linear


def plain_linears(backbone: nn.Module) -> None:
    """Turn GPT-2's Conv1D and fused projections into nn.Linear; other models have nothing else."""
    for name, module in list(backbone.named_modules()):
        if isinstance(module, Conv1D):
            fused = name.endswith("c_attn")
            plain = SplitLinear(module) if fused else linear_from_conv(module.weight, module.bias)
            replace_module(backbone, name, plain)


def as_loaded(backbone: nn.Module, like: nn.Module) -> dict[str, Tensor]:
    """The weights of a plain backbone under the names and in the layout of `like`, as transformers
    builds the same model: GPT-2's projections fused and transposed again."""
    state = {name: t for name, t in backbone.state_dict().items() if name in like.state_dict()}
    for name, module in like.named_modules():
        if isinstance(module, Conv1D):
            ours = backbone.get_submodule(name)
            parts = ours.parts if isinstance(ours, SplitLinear) else {"": ours}
            weights = [cast(Tensor, part.weight) for part in parts.values()]
            state[f"{name}.weight"] = torch.cat([w.float() for w in weights]).t().contiguous()
            biases = [cast(Tensor, part.bias) for part in parts.values()]
            state[f"{name}.bias"] = torch.cat([b.float() for b in biases])
    return state


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
        if isinstance(module, nn.Linear | nn.Embedding):
            module.weight.data = module.weight.data.to(dtype)


def float_masters(model: nn.Module) -> None:
    """Hold whatever trains in float32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()


def tied_output(backbone: nn.Module) -> nn.Linear:
    """The layer that predicts tokens by the backbone's own embedding table, as one parameter."""
    table = cast(nn.Embedding, backbone.get_input_embeddings()).weight  # type: ignore[operator]
    output = CastLinear(table.shape[1], table.shape[0], bias=False, device="meta")
    output.weight = table
    return output
