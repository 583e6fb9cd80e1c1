"""GPT-2 over a stream of tokens.  Radford et al., 2019.

The modules and their names are transformers', its fused projections split; their forward passes
are not used.
"""

from typing import Any

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

CAUSAL = True  # whether a token sees only those before it


def embed(backbone: Any, columns: dict[str, Tensor], layout: Layout) -> Tensor:
    """The input of the first block, [tokens, d]."""
    x = backbone.wte(columns["input_ids"]) + backbone.wpe(layout.positions)
    return dropout(x, backbone.drop)


def bottom(backbone: Any) -> Any:
    """The modules below the first block."""
    return [backbone.wte, backbone.wpe]


def blocks(backbone: Any) -> Any:
    """The blocks in order."""
    return backbone.h


def block(backbone: Any, layer: Any, x: Tensor, layout: Layout, lean: bool) -> Tensor:
    """One block: attention and feed-forward, each behind a norm and added to its input.

    x has the states of all tokens; returned are those of the layout's queries.
    """
    config, own, mlp = backbone.config, layer.attn, layer.mlp
    normed, x = add_norm(None, x, layer.ln_1)
    query, key, value = own.c_attn.parts.values()
    q, k, v = query(layout.queries(normed)), key(normed), value(normed)
    mixed = attention(q, k, v, layout, config.n_head, rate(own.attn_dropout))
    seen = layout.queries(x)
    normed, x = add_norm(own.c_proj(mixed), seen, layer.ln_2, own.resid_dropout)
    act = ACTIVATIONS[config.activation_function]
    inner = recomputed(lean, lambda x: act(mlp.c_fc(x)), normed)
    return x + dropout(mlp.c_proj(inner), mlp.dropout)


def last(backbone: Any, x: Tensor) -> Tensor:
    """The norm behind the last block."""
    return backbone.ln_f(x)
