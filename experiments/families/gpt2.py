"""GPT-2: a decoder with a norm before each part.  Radford et al., 2019.

The modules and their names are transformers', its fused projections split; its forward passes are
not used.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
import torch.nn as nn
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig
from transformers.pytorch_utils import Conv1D

from experiments.backbones.attention import attention
from experiments.backbones.dropout import dropout, rate
from experiments.backbones.gates import ACTIVATIONS, recompute_later
from experiments.backbones.heads import LastTokenHead
from experiments.backbones.layers import SplitLinear
from experiments.backbones.norms import add_norm
from experiments.backbones.stream import Layout
from experiments.families.base import Family, unknown_activation
from variants.base import replace_module


class GPT2(Family):
    """GPT-2 and models of its architecture."""

    model_types = ("gpt2",)
    causal = True
    transposed = True
    otherwise: ClassVar = {
        "activation_function": unknown_activation,
        "is_decoder": bool,
        "add_cross_attention": bool,
        "scale_attn_by_inverse_layer_idx": bool,
        "scale_attn_weights": lambda value: not value,
    }

    def plain(self, backbone: nn.Module) -> None:
        for name, module in list(backbone.named_modules()):
            if isinstance(module, Conv1D):
                fused = name.endswith("c_attn")
                plain = split(module) if fused else linear_from_conv(module.weight, module.bias)
                replace_module(backbone, name, plain)

    def as_loaded(self, backbone: nn.Module, like: nn.Module) -> dict[str, Tensor]:
        state = super().as_loaded(backbone, like)
        for name, module in like.named_modules():
            if isinstance(module, Conv1D):
                ours = backbone.get_submodule(name)
                parts = ours.parts if isinstance(ours, SplitLinear) else {"": ours}
                weights = [cast(Tensor, part.weight) for part in parts.values()]
                state[f"{name}.weight"] = torch.cat([w.float() for w in weights]).t().contiguous()
                biases = [cast(Tensor, part.bias) for part in parts.values()]
                state[f"{name}.bias"] = torch.cat([b.float() for b in biases])
        return state

    def head(self, config: PreTrainedConfig, num_outputs: int) -> nn.Module:
        return LastTokenHead(config.n_embd, num_outputs)

    def head_names(self, config: PreTrainedConfig) -> Mapping[str, str]:
        return {"score": "score"}

    def tiny_config(self, **changes: Any) -> PreTrainedConfig:
        sizes = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 140}
        return AutoConfig.for_model(**{"model_type": "gpt2", **sizes, **changes})

    def embed(self, backbone: Any, columns: dict[str, Tensor], layout: Layout) -> Tensor:
        x = backbone.wte(columns["input_ids"]) + backbone.wpe(layout.positions)
        return dropout(x, backbone.drop)

    def below(self, backbone: Any) -> list[nn.Module]:
        return [backbone.wte, backbone.wpe]

    def blocks(self, backbone: Any) -> nn.ModuleList:
        return backbone.h

    def block(
        self, backbone: Any, context: Any, layer: Any, x: Tensor, layout: Layout, recompute: bool
    ) -> Tensor:
        config, own, mlp = backbone.config, layer.attn, layer.mlp
        normed, x = add_norm(None, x, layer.ln_1)
        query, key, value = own.c_attn.parts.values()
        q, k, v = query(layout.queries(normed)), key(normed), value(normed)
        mixed = attention(q, k, v, layout, config.n_head, rate(own.attn_dropout))
        seen = layout.queries(x)
        normed, x = add_norm(own.c_proj(mixed), seen, layer.ln_2, own.resid_dropout)
        act = ACTIVATIONS[config.activation_function]
        inner = recompute_later(recompute, lambda x: act(mlp.c_fc(x)), normed)
        return x + dropout(mlp.c_proj(inner), mlp.dropout)

    def finish(self, backbone: Any, x: Tensor) -> Tensor:
        return backbone.ln_f(x)


def split(fused: Conv1D) -> SplitLinear:
    """GPT-2's fused projection as three linear layers: q, k and v are adapted one by one."""
    weights, biases = fused.weight.chunk(3, dim=1), fused.bias.chunk(3)
    return SplitLinear(dict(zip("qkv", map(linear_from_conv, weights, biases), strict=True)))


def linear_from_conv(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A linear layer from a Conv1D's weight [d_in, d_out]."""
    d_in, d_out = weight.shape
    linear = nn.Linear(d_in, d_out, device="meta")
    linear.weight = nn.Parameter(weight.detach().t().contiguous())
    linear.bias = nn.Parameter(bias.detach().clone())
    return linear


FAMILY = GPT2()
