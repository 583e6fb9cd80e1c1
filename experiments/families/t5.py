"""T5 and its like: encoder-decoders that are given a text and answer with another.

Raffel et al., 2020, arXiv:1910.10683 (T5); Xue et al., 2021, arXiv:2010.11934 (mT5); Chung et al.,
2023, arXiv:2304.09151 (umT5). They run on transformers' own modules.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from experiments.families.base import Family
from variants.base import at_least_float32


class FeedForward(nn.Module):
    """A feed-forward layer that does not read the weight of `wo`, which an adapter makes anew."""

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self
        inner = own.act(own.wi_0(x)) * own.wi_1(x) if hasattr(own, "wi_0") else own.act(own.wi(x))
        return own.wo(own.dropout(inner))


class Norm(nn.Module):
    """An RMS norm computed in float32, whatever it is given."""

    def forward(self, x: Tensor) -> Tensor:
        own: Any = self
        wide = at_least_float32(x)
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + own.variance_epsilon)
        return (own.weight * (wide * scale)).to(x.dtype)


class EncoderDecoders(Family):
    """Encoder-decoders with T5's blocks."""

    model_types = ("t5", "mt5", "umt5")
    causal = False
    packed = False
    encoder_decoder = True

    def max_length(self, config: PreTrainedConfig) -> int:
        """The longest input; positions are relative, so there is no limit."""
        return 2**20

    def predicts_tokens(self, config: PreTrainedConfig) -> bool:
        return True

    def output_scale(self, config: PreTrainedConfig) -> float:
        # The later T5 1.1 and mT5 have an output of their own, and leave its states as they are.
        scaled = {"t5": getattr(config, "scale_decoder_outputs", True), "mt5": False, "umt5": True}
        return config.d_model**-0.5 if scaled[config.model_type] else 1.0

    def plain(self, backbone: nn.Module) -> None:
        for module in backbone.modules():
            if type(module).__name__.endswith(("DenseActDense", "DenseGatedActDense")):
                module.__class__ = FeedForward
            elif type(module).__name__.endswith("LayerNorm"):
                module.__class__ = Norm

    def prefix(self, backbone: PreTrainedModel) -> str:
        return ""

    def head(self, config: PreTrainedConfig, num_outputs: int) -> nn.Module:
        raise ValueError(
            f"A model of type '{config.model_type}' is an encoder-decoder, which answers in words "
            "and has no head here: choose a task that generates, or one whose labels are words "
            "(task.choices, as conf/task/commonsense.yaml explains)."
        )

    def head_names(self, config: PreTrainedConfig) -> Mapping[str, str]:
        return {}

    def tiny_config(self, **changes: Any) -> PreTrainedConfig:
        sizes = {
            "vocab_size": 64, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4,
            "decoder_start_token_id": 0,
        }  # fmt: skip
        return AutoConfig.for_model(**{"model_type": "t5", **sizes, **changes})


FAMILY = EncoderDecoders()
