"""BERT and RoBERTa over a stream of tokens.  Devlin et al., 2018, arXiv:1810.04805; Liu et al.,
2019, arXiv:1907.11692.

The modules and their names are transformers'; their forward passes are not used.
"""

from typing import Any

import torch
from torch import Tensor

from experiments.backbones.kernels import (
    ACTIVATIONS,
    add_norm,
    attention,
    dropout,
    rate,
    recomputed,
)
from experiments.backbones.stream import Layout

CAUSAL = False  # whether a token sees only those before it


def embed(backbone: Any, columns: dict[str, Tensor], layout: Layout) -> Tensor:
    """The input of the first block, [tokens, d]."""
    parts = backbone.embeddings
    ids = columns["input_ids"]
    types = columns.get("token_type_ids", torch.zeros_like(ids))
    # RoBERTa's first positions are taken by the padding index.
    shift = parts.padding_idx + 1 if backbone.config.model_type == "roberta" else 0
    x = parts.word_embeddings(ids) + parts.token_type_embeddings(types)
    x = x + parts.position_embeddings(layout.positions + shift)
    return dropout(parts.LayerNorm(x), parts.dropout)


def bottom(backbone: Any) -> Any:
    """The modules below the first block."""
    return [backbone.embeddings]


def blocks(backbone: Any) -> Any:
    """The blocks in order."""
    return backbone.encoder.layer


def block(backbone: Any, layer: Any, x: Tensor, layout: Layout, lean: bool) -> Tensor:
    """One block: attention and feed-forward, a norm behind the sum of each with its input.

    x has the states of all tokens; returned are those of the layout's queries.
    """
    config, own, after = backbone.config, layer.attention.self, layer.attention.output
    heads, p = config.num_attention_heads, rate(own.dropout)
    seen = layout.queries(x)
    mixed = attention(own.query(seen), own.key(x), own.value(x), layout, heads, p)
    x, _ = add_norm(after.dense(mixed), seen, after.LayerNorm, after.dropout)
    act = ACTIVATIONS[config.hidden_act]
    inner = recomputed(lean, lambda x: act(layer.intermediate.dense(x)), x)
    out = layer.output
    return add_norm(out.dense(inner), x, out.LayerNorm, out.dropout)[0]


def last(backbone: Any, x: Tensor) -> Tensor:
    """What stands behind the last block: nothing."""
    return x
