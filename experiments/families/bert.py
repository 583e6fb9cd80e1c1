"""BERT, RoBERTa and their like: encoders with a norm behind each sum.

Devlin et al., 2018, arXiv:1810.04805; Liu et al., 2019, arXiv:1907.11692; Conneau et al., 2019,
arXiv:1911.02116 (XLM-R); Martin et al., 2019, arXiv:1911.03894 (CamemBERT); Clark et al., 2020,
arXiv:2003.10555 (ELECTRA). The modules and their names are transformers'; its forward passes are
not used.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn as nn
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from experiments.backbones.attention import attention
from experiments.backbones.dropout import dropout, rate
from experiments.backbones.gates import ACTIVATIONS, recompute_later
from experiments.backbones.heads import FirstTokenHead
from experiments.backbones.norms import add_norm
from experiments.backbones.stream import Layout
from experiments.families.base import Family, Kept, unknown_activation

SHIFTED = ("roberta", "xlm-roberta", "camembert")  # the padding index takes the first positions


class Encoders(Family):
    """Encoders with BERT's blocks."""

    model_types = ("bert", *SHIFTED, "electra")
    causal = False
    kept_padded = Kept(8.0, 1.0, 0.8, 3.0)
    otherwise: ClassVar = {
        "hidden_act": unknown_activation,
        "is_decoder": bool,
        "add_cross_attention": bool,
    }

    def loading(self, config: PreTrainedConfig) -> Mapping[str, Any]:
        return {} if config.model_type == "electra" else {"add_pooling_layer": False}

    def pretrained_head(self, config: PreTrainedConfig) -> Mapping[str, str]:
        return {"dense": "pooler.dense"} if config.model_type == "bert" else {}

    def max_length(self, config: PreTrainedConfig) -> int:
        taken = config.pad_token_id + 1 if config.model_type in SHIFTED else 0
        return config.max_position_embeddings - taken

    def head(self, config: PreTrainedConfig, num_outputs: int) -> nn.Module:
        rate = config.classifier_dropout
        rate = config.hidden_dropout_prob if rate is None else rate
        kind = config.model_type
        activation = torch.tanh if kind != "electra" else ACTIVATIONS["gelu"]
        return FirstTokenHead(config.hidden_size, num_outputs, rate, kind != "bert", activation)

    def head_names(self, config: PreTrainedConfig) -> Mapping[str, str]:
        if config.model_type == "bert":
            return {"dense": "bert.pooler.dense", "out_proj": "classifier"}
        return {"dense": "classifier.dense", "out_proj": "classifier.out_proj"}

    def tiny_config(self, **changes: Any) -> PreTrainedConfig:
        sizes = {
            "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "intermediate_size": 64, "max_position_embeddings": 140,
        }  # fmt: skip
        return AutoConfig.for_model(**{"model_type": "roberta", **sizes, **changes})

    def embed(self, backbone: Any, columns: dict[str, Tensor], layout: Layout) -> Tensor:
        parts = backbone.embeddings
        ids = columns["input_ids"]
        types = columns.get("token_type_ids", torch.zeros_like(ids))
        shift = parts.padding_idx + 1 if backbone.config.model_type in SHIFTED else 0
        x = parts.word_embeddings(ids) + parts.token_type_embeddings(types)
        x = x + parts.position_embeddings(layout.positions + shift)
        x = dropout(parts.LayerNorm(x), parts.dropout)
        widened = getattr(backbone, "embeddings_project", None)  # ELECTRA's tables may be narrow
        return x if widened is None else widened(x)

    def below(self, backbone: Any) -> list[nn.Module]:
        widened = getattr(backbone, "embeddings_project", None)
        return [backbone.embeddings, *([] if widened is None else [widened])]

    def blocks(self, backbone: Any) -> nn.ModuleList:
        return backbone.encoder.layer

    def block(
        self, backbone: Any, context: Any, layer: Any, x: Tensor, layout: Layout, recompute: bool
    ) -> Tensor:
        config, own, after = backbone.config, layer.attention.self, layer.attention.output
        heads, p = config.num_attention_heads, rate(own.dropout)
        seen = layout.queries(x)
        mixed = attention(own.query(seen), own.key(x), own.value(x), layout, heads, p)
        x, _ = add_norm(after.dense(mixed), seen, after.LayerNorm, after.dropout)
        act = ACTIVATIONS[config.hidden_act]
        inner = recompute_later(recompute, lambda x: act(layer.intermediate.dense(x)), x)
        out = layer.output
        return add_norm(out.dense(inner), x, out.LayerNorm, out.dropout)[0]


FAMILY = Encoders()
