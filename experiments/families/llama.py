"""Llama and its like: decoders with RMS norms, rotated positions and gated feed-forwards.

Touvron et al., 2023, arXiv:2302.13971 (Llama; SmolLM2 has its architecture); Jiang et al., 2023,
arXiv:2310.06825 (Mistral); Qwen2 and Qwen3, arXiv:2407.10671 and 2505.09388; Phi-3,
arXiv:2404.14219; Gemma 2 and 3, arXiv:2408.00118 and 2503.19786. The modules and their names are
transformers', fused projections split; the angles of rotations are computed by its module, the rest
of its forward passes is not used.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from experiments.backbones.attention import attention
from experiments.backbones.gates import gate, recompute_later
from experiments.backbones.heads import LastTokenHead
from experiments.backbones.layers import SplitLinear
from experiments.backbones.norms import add_rms
from experiments.backbones.stream import Layout
from experiments.families.base import Family, Kept, unknown_activation
from variants.base import replace_module

FULL, SLIDING = "full_attention", "sliding_attention"
FUSED = {"qkv_proj": "qkv", "gate_up_proj": ("gate", "up")}  # Phi-3's, and their parts
# Tiny sizes, with fewer key-value heads than heads and a head width of its own where there is one.
TINY = {
    "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 140,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
OWN: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 12},
    "gemma2": {"head_dim": 8, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    "gemma3_text": {"head_dim": 8, "sliding_window": 64, "layer_types": [SLIDING, FULL]},
}


class Decoders(Family):
    """Decoders with Llama's blocks."""

    model_types = ("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text")
    causal = True
    kept, kept_padded = Kept(4.0, 2.0), Kept(6.0, 3.0, 0.56, 3.0)

    def unsupported(self, config: PreTrainedConfig) -> str | None:
        for key in ("attn_logit_softcapping", "use_bidirectional_attention"):
            if getattr(config, key, None):
                return f"{key}={getattr(config, key)}"
        activation = activation_of(config)
        return f"hidden_act={activation}" if unknown_activation(activation) else None

    def plain(self, backbone: nn.Module) -> None:
        for name, module in list(backbone.named_modules()):
            last = name.rpartition(".")[2]
            if last in FUSED and isinstance(module, nn.Linear):
                sizes = part_sizes(last, module, backbone.config)  # type: ignore[arg-type]
                replace_module(backbone, name, split(module, FUSED[last], sizes))

    def as_loaded(self, backbone: nn.Module, like: nn.Module) -> dict[str, Tensor]:
        state = super().as_loaded(backbone, like)
        for name, module in backbone.named_modules():
            if isinstance(module, SplitLinear):
                for key in ("weight", "bias"):
                    parts = [getattr(part, key) for part in module.parts.values()]
                    if parts[0] is not None:
                        state[f"{name}.{key}"] = torch.cat([part.float() for part in parts])
        return state

    def head(self, config: PreTrainedConfig, num_outputs: int) -> nn.Module:
        return LastTokenHead(config.hidden_size, num_outputs)

    def head_names(self, config: PreTrainedConfig) -> Mapping[str, str]:
        return {"score": "score"}

    def tiny_config(self, **changes: Any) -> PreTrainedConfig:
        kind = changes.get("model_type", "llama")
        return AutoConfig.for_model(**{"model_type": kind, **TINY, **OWN.get(kind, {}), **changes})

    def context(self, backbone: Any, layout: Layout) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and sines [tokens, r] of all positions, by the kind of a block's attention."""
        config, positions = backbone.config, layout.positions[None]
        kinds = set(getattr(config, "layer_types", None) or [FULL])
        window = getattr(config, "sliding_window", None)
        if SLIDING in kinds and window and layout.lengths.max() > window:
            raise ValueError(
                f"A text has {layout.lengths.max()} tokens, and the model's sliding_window is "
                f"{window}: choose compute.engine=transformers, or train.max_length={window}."
            )
        like = backbone.norm.weight[:1].detach()
        like = like if like.dtype == torch.float64 else like.float()
        # Gemma 3 turns by other angles where it looks through a window.
        several = any(hasattr(backbone.rotary_emb, f"{kind}_inv_freq") for kind in kinds)
        own = [(kind, kind) for kind in kinds] if several else [(FULL,)]
        found = {kind[0]: backbone.rotary_emb(like, positions, *kind[1:]) for kind in own}
        return {kind: (cos[0], sin[0]) for kind, (cos, sin) in found.items()}

    def embed(self, backbone: Any, columns: dict[str, Tensor], layout: Layout) -> Tensor:
        return backbone.embed_tokens(columns["input_ids"])

    def below(self, backbone: Any) -> list[nn.Module]:
        return [backbone.embed_tokens]

    def blocks(self, backbone: Any) -> nn.ModuleList:
        return backbone.layers

    def block(
        self, backbone: Any, context: Any, layer: Any, x: Tensor, layout: Layout, recompute: bool
    ) -> Tensor:
        config, seen = backbone.config, layout.queries
        normed, x = normalise(config, None, x, layer.input_layernorm)
        mixed = self.attend(config, context, layer.self_attn, normed, layout)
        own = layer.self_attn.o_proj(mixed)
        # Gemma has a second norm of each part, behind it.
        gemma = hasattr(layer, "pre_feedforward_layernorm")
        if gemma:
            own = normalise(config, None, own, layer.post_attention_layernorm)[0]
        before = layer.pre_feedforward_layernorm if gemma else layer.post_attention_layernorm
        normed, x = normalise(config, drop(layer, "resid_attn_dropout", own), seen(x), before)
        inner = recompute_later(recompute, lambda x: feed(config, layer.mlp, x), normed)
        out = layer.mlp.down_proj(inner)
        if gemma:
            out = normalise(config, None, out, layer.post_feedforward_layernorm)[0]
        return x + drop(layer, "resid_mlp_dropout", out)

    def attend(self, config: Any, context: Any, own: Any, x: Tensor, layout: Layout) -> Tensor:
        """The mixed values [queries, heads * d] of one block's attention, from normed states."""
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        project = own.qkv_proj.parts.values() if hasattr(own, "qkv_proj") else (
            own.q_proj, own.k_proj, own.v_proj
        )  # fmt: skip
        for_q, for_k, for_v = project
        q, k, v = for_q(layout.queries(x)), for_k(x), for_v(x)
        if hasattr(own, "q_norm"):
            q = by_head(config, own.q_norm, q, heads)
            k = by_head(config, own.k_norm, k, groups)
        turned = context.get(getattr(own, "layer_type", FULL) or FULL) or context[FULL]
        p = own.attention_dropout if own.training else 0.0
        return attention(q, k, v, layout, heads, p, groups, turned, own.scaling)

    def finish(self, backbone: Any, x: Tensor) -> Tensor:
        return normalise(backbone.config, None, x, backbone.norm)[0]


def activation_of(config: PreTrainedConfig) -> str:
    """The name of the activation, which Gemma's configs call otherwise."""
    return getattr(config, "hidden_activation", None) or config.hidden_act


def feed(config: Any, mlp: Any, x: Tensor) -> Tensor:
    """The inner activations of a gated feed-forward."""
    if hasattr(mlp, "gate_up_proj"):
        for_gate, for_up = mlp.gate_up_proj.parts.values()
    else:
        for_gate, for_up = mlp.gate_proj, mlp.up_proj
    return gate(activation_of(config), for_gate(x), for_up(x))


def normalise(config: Any, h: Tensor | None, x: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A norm of x + h [tokens, d], and that sum; Gemma's weights are told less one."""
    shift = 1.0 if config.model_type.startswith("gemma") else 0.0
    return add_rms(h, x, norm, config.rms_norm_eps, shift)


def by_head(config: Any, norm: nn.Module, x: Tensor, heads: int) -> Tensor:
    """A norm over each head's own part of x [n, heads * d]."""
    return normalise(config, None, x.reshape(len(x) * heads, -1), norm)[0].view(x.shape)


def drop(layer: Any, name: str, x: Tensor) -> Tensor:
    """Apply the layer's dropout module to x, if the layer has one."""
    module = getattr(layer, name, None)
    return x if module is None else module(x)


def part_sizes(name: str, fused: nn.Linear, config: PreTrainedConfig) -> list[int]:
    """The heights of the parts of a fused projection."""
    if name != "qkv_proj":
        return [fused.out_features // 2] * 2
    d = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    own = config.num_attention_heads * d
    return [own, *[config.num_key_value_heads * d] * 2]


def split(fused: nn.Linear, names: Any, sizes: list[int]) -> SplitLinear:
    """A fused projection as one linear layer for each part."""
    weights = fused.weight.detach().split(sizes)
    biases = [None] * len(sizes) if fused.bias is None else fused.bias.detach().split(sizes)
    parts = {}
    for name, weight, bias in zip(names, weights, biases, strict=True):
        linear = nn.Linear(weight.shape[1], len(weight), bias=bias is not None, device="meta")
        linear.weight = nn.Parameter(weight.clone())
        if bias is not None:
            linear.bias = nn.Parameter(bias.clone())
        parts[name] = linear
    return SplitLinear(parts)


FAMILY = Decoders()
