"""Attention that keeps q, k and v alone for the backward pass, with rotated positions.

On a processor it is compiled; elsewhere it is torch's own, to which tests hold the compiled one.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from experiments.backbones.compiled import attention as compiled
from experiments.backbones.compiled.base import run
from experiments.backbones.dropout import new_seed
from experiments.backbones.stream import Block, Layout
from variants.base import at_least_float32


def attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, heads: int, p: float,
    groups: int | None = None, turned: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """softmax(scale q k^T) v within each example and head, in the shape of q.

    If the layout lets only some tokens attend, q has their rows, and k and v those of all. With
    `groups`, k and v have so many heads, each for as many neighbouring heads of q. With `turned`,
    cosines and sines [tokens, r] of all positions, every head of q and k is rotated before. The
    scale is 1 / sqrt(d) of a head's width d if none is given. With a memory in the layout,
    k and v are those of new tokens, and it tells those of all.
    """
    groups = groups or heads
    if layout.memory is not None:
        k, v = layout.memory.extend(k, v)
    factor = (q.shape[1] // heads) ** -0.5 if scale is None else scale
    if q.is_cuda:
        if turned is not None:
            cos, sin = turned
            q = rotate(q, layout.queries(cos), layout.queries(sin), heads)
            k = rotate(k, cos, sin, groups)
        return torch.cat(
            [attend_fused(q, k, v, block, heads, groups, p, factor) for block in layout.blocks]
        )
    like = at_least_float32(q[:0])
    cos, sin = (like, like) if turned is None else (x.to(like.dtype) for x in turned)
    how = (
        *layout.bounds,
        cos,
        sin,
        heads,
        groups,
        factor,
        layout.causal,
        p,
        new_seed() if p else 0,
    )
    return Attention.apply(q, k, v, how)  # type: ignore[return-value]


def by_head(x: Tensor, heads: int) -> Tensor:
    """x [n, heads * d] as [heads, n, d]."""
    return x.view(len(x), heads, x.shape[1] // heads).transpose(0, 1)


def attend_fused(
    q: Tensor, k: Tensor, v: Tensor, block: Block, heads: int, groups: int, p: float, scale: float
) -> Tensor:
    """The attention of one block [its queries, heads * d] by torch's own kernel."""
    q = by_head(q[block.queries], heads)[None]
    k, v = (by_head(x[block.tokens], groups)[None] for x in (k, v))
    bias = None if block.bias is None else block.bias.to(q.dtype)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, dropout_p=p, scale=scale, enable_gqa=groups != heads
    )
    return out[0].transpose(0, 1).flatten(1)


class Attention(torch.autograd.Function):
    """Attention that keeps q, k and v, and finds probabilities and masks again from them."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, how: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.how = how
        return attend(q, k, v, *how)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:3]
        found = attend_backward(*ctx.saved_tensors, *ctx.how, grads[0], list(wanted))
        return *(x if w else None for x, w in zip(found, wanted, strict=True)), None


# As operators of torch's they are counted where operations are.
OPERATORS = torch.library.Library("lora_assay", "DEF")
HOW = (
    "Tensor starts, Tensor query_starts, Tensor query_positions, Tensor cos, Tensor sin, "
    "int heads, int groups, float scale, bool causal, float p, int seed"
)
OPERATORS.define(f"attend(Tensor q, Tensor k, Tensor v, {HOW}) -> Tensor")
OPERATORS.define(
    f"attend_backward(Tensor q, Tensor k, Tensor v, {HOW}, Tensor to_out, bool[] wanted)"
    " -> Tensor[]"
)
attend, attend_backward = torch.ops.lora_assay.attend, torch.ops.lora_assay.attend_backward


@torch.library.impl(OPERATORS, "attend", "CPU")
def attend_compiled(q: Tensor, k: Tensor, v: Tensor, *how: Any) -> Tensor:
    """The output of `compiled.attention`."""
    out = torch.empty(q.shape, dtype=q.dtype)
    run(compiled.attention, at_least_float32(q[:0]), q, k, v, *how, out)
    return out


@torch.library.impl(OPERATORS, "attend_backward", "CPU")
def attend_compiled_backward(q: Tensor, k: Tensor, v: Tensor, *how: Any) -> list[Tensor]:
    """The gradients of `compiled.attention`; one that is not wanted is left empty."""
    given = zip((q, k, v), how[-1], strict=True)
    found = [torch.empty_like(x if w else x[:0]) for x, w in given]
    like = at_least_float32(q[:0])
    run(compiled.attention_backward, like, q, k, v, *how[:-1], *found)
    return found


def one_product(q: Tensor, starts: Tensor, query_starts: Tensor) -> int:
    """Operations of a product of queries with keys, or of as many numbers with values."""
    return 2 * q.shape[1] * int((starts.diff() * query_starts.diff()).sum())


@register_flop_formula(attend, get_raw=True)
def attend_flops(q: Tensor, k: Tensor, v: Tensor, *how: Any, **_: Any) -> int:
    """Scores, and what they make of the values."""
    return 2 * one_product(q, *how[:2])


@register_flop_formula(attend_backward, get_raw=True)
def attend_backward_flops(q: Tensor, k: Tensor, v: Tensor, *how: Any, **_: Any) -> int:
    """The scores once more, the gradient to them if it is used, and one product for each."""
    for_q, for_k, for_v = how[-1]
    return (1 + (for_q or for_k) + for_q + for_k + for_v) * one_product(q, *how[:2])


class Rotate(torch.autograd.Function):
    """Heads turned by their positions; the gradient is turned back, so that nothing is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return rotated(grads[0], cos, -sin), None, None


def rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [n, heads, d] with its first r columns turned: x_1 cos - x_2 sin, x_2 cos + x_1 sin."""
    r = cos.shape[-1]
    turning, rest = x[..., :r], x[..., r:]
    first, second = turning.chunk(2, dim=-1)
    swapped = torch.cat((-second, first), dim=-1)
    turned = turning * cos[:, None] + swapped * sin[:, None]
    return turned if r == x.shape[-1] else torch.cat((turned, rest), dim=-1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> Tensor:
    """x [n, heads * d] with every head turned by its position's cos and sin [n, r], r at most d.

    Both halves of cos and sin are equal. Su et al., 2021, arXiv:2104.09864.
    """
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return Rotate.apply(x.view(len(x), heads, -1), cos, sin).flatten(1)  # type: ignore[union-attr]
