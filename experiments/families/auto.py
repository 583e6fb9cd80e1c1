"""Every other model that transformers loads: on its own modules, with linears found by looking."""

from collections.abc import Mapping
from typing import Any

import torch.nn as nn
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from experiments.backbones.heads import LastTokenHead, PooledHead
from experiments.families.base import Family
from experiments.families.gpt2 import linear_from_conv
from variants.base import replace_module


class Anything(Family):
    """A model of any architecture, without a packed pass."""

    model_types = ()
    causal = False  # what matters of it is inside transformers' own pass
    packed = False

    def unsupported(self, config: PreTrainedConfig) -> str | None:
        return f"model_type={config.model_type}"

    def max_length(self, config: PreTrainedConfig) -> int:
        """The longest input; a model without a table of positions has no limit of its own."""
        return getattr(config, "max_position_embeddings", None) or 2**20

    def plain(self, backbone: nn.Module) -> None:
        for name, module in list(backbone.named_modules()):
            if isinstance(module, Conv1D):
                replace_module(backbone, name, linear_from_conv(module.weight, module.bias))

    def as_loaded(self, backbone: nn.Module, like: nn.Module) -> dict[str, Tensor]:
        state = super().as_loaded(backbone, like)
        for name, module in like.named_modules():
            if isinstance(module, Conv1D):
                state[f"{name}.weight"] = state[f"{name}.weight"].t().contiguous()
        return state

    def predicts_tokens(self, config: PreTrainedConfig) -> bool:
        """Return whether transformers has it as a model that only predicts the next token."""
        decoder = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
        return decoder and not getattr(config, "is_encoder_decoder", False)

    def head(self, config: PreTrainedConfig, num_outputs: int) -> nn.Module:
        if self.predicts_tokens(config):
            return LastTokenHead(config.hidden_size, num_outputs)
        return PooledHead(config.hidden_size, num_outputs)

    def head_names(self, config: PreTrainedConfig) -> Mapping[str, str]:
        if self.predicts_tokens(config):
            return {"score": "score"}
        raise ValueError(
            f"transformers' classifier of model_type '{config.model_type}' is built otherwise than "
            "the head here, so that a merged model cannot be written as one."
        )

    def tiny_config(self, **changes: Any) -> PreTrainedConfig:
        sizes = {
            "vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64,
            "max_position_embeddings": 140,
        }  # fmt: skip
        return AutoConfig.for_model(**{"model_type": "distilbert", **sizes, **changes})


FAMILY = Anything()
