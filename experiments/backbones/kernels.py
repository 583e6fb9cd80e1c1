"""What an encoder and a decoder share: attention, dropout and norms that keep little for the
backward pass. Beside each stands its plain form in words of torch, which tests hold it to.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from experiments.backbones.stream import Block, Layout, width
from variants.base import at_least_float32

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


def new_seed() -> int:
    """A seed for dropout, from torch's global generator."""
    return int(torch.randint(2**63 - 1, ()))


def mask(x: Tensor, p: float, seed: int) -> Tensor:
    """0 with probability p, else 1 / (1 - p), in the shape of x; one seed gives one mask.

    On a CPU sixteen random bits decide on an element, so that p is exact to 2^-17, in a tenth of
    the time of torch's own generator.
    """
    kept = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if x.is_cuda:
        generator = torch.Generator(x.device).manual_seed(seed)
        return kept.bernoulli_(1 - p, generator=generator).mul_(1 / (1 - p))
    words = np.random.SFC64(seed).random_raw(-(-x.numel() // 4))
    bits = torch.from_numpy(words.view(np.int16))[: x.numel()].view(x.shape)
    torch.ge(bits, round(p * 2**16) - 2**15, out=kept)
    return kept.mul_(1 / (1 - p))


class Dropout(torch.autograd.Function):
    """x times a mask, of which only the seed is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:
        ctx.p, ctx.seed = p, seed
        return x * mask(x, p, seed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * mask(grads[0], ctx.p, ctx.seed), None, None


def dropout(x: Tensor, module: nn.Module) -> Tensor:
    """What the dropout module would do to x."""
    p = rate(module)
    return dropped(x, p) if p else x


def dropped(x: Tensor, p: float) -> Tensor:
    """x times a new mask."""
    return Dropout.apply(x, p, new_seed())  # type: ignore[return-value]


def rate(module: nn.Module) -> float:
    """The probability with which a dropout module drops just now."""
    assert isinstance(module, nn.Dropout)
    return module.p if module.training else 0.0


class AddNorm(torch.autograd.Function):
    """LayerNorm(residual + mask h) with a frozen norm, and the sum itself.

    Kept is the output, which an adapter behind it keeps anyhow, and not the input: the
    normalised input is (output - bias) / weight.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor | None, residual: Tensor, norm: nn.LayerNorm, p: float, seed: int
    ) -> tuple[Tensor, Tensor]:
        total = at_least_float32(residual)
        if h is not None:
            total = total + (h * mask(h, p, seed) if p else h)
        shape = list(norm.normalized_shape)
        weight, bias = norm.weight.to(total.dtype), norm.bias.to(total.dtype)
        y, _, scale = torch.native_layer_norm(total, shape, weight, bias, norm.eps)
        y = y.to(residual.dtype)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, scale)
        ctx.norm, ctx.p, ctx.seed = norm, p, seed
        return y, total.to(residual.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        y, scale = ctx.saved_tensors
        through, beside = grads
        total = None if beside is None else at_least_float32(beside)
        if through is not None:
            normed = norm_backward(at_least_float32(through), at_least_float32(y), scale, ctx.norm)
            total = normed if total is None else normed.add_(total)
        if total is None:
            return (None,) * 5
        residual = total.to(y.dtype)
        if not ctx.needs_input_grad[0]:
            return None, residual, None, None, None
        h = residual * mask(residual, ctx.p, ctx.seed) if ctx.p else residual
        return h, residual, None, None, None


def norm_backward(grad: Tensor, y: Tensor, scale: Tensor, norm: nn.LayerNorm) -> Tensor:
    """The gradient to a layer norm's input from its output y [n, d] and 1 / deviation [n, 1]."""
    weight, bias = norm.weight.to(y.dtype), norm.bias.to(y.dtype)
    normalised = (y - bias).mul_(1 / weight)
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    needed = [True, False, False]
    shape = list(norm.normalized_shape)
    found = torch.ops.aten.native_layer_norm_backward(
        grad.contiguous(), normalised, shape, zero, one, weight, None, needed
    )
    return found[0].mul_(scale)


def recomputed(wanted: bool, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`compute(x)`; where it is wanted, only x is kept, and the rest found again from it."""
    return checkpoint(compute, x, use_reentrant=False) if wanted else compute(x)


INVERTIBLE: WeakKeyDictionary[nn.Module, tuple[int, int, bool]] = WeakKeyDictionary()


def invertible(norm: nn.LayerNorm) -> bool:
    """Whether the input of a frozen norm follows from its output without loss of precision."""
    weight, bias = norm.weight, norm.bias
    if weight.requires_grad or bias.requires_grad:
        return False
    key = (weight.data_ptr(), weight._version)
    known = INVERTIBLE.get(norm)
    if known is None or known[:2] != key:
        size = weight.abs() + bias.abs()
        known = INVERTIBLE[norm] = (*key, bool((size < 100 * weight.abs()).all()))
    return known[2]


def add_norm(
    h: Tensor | None, residual: Tensor, norm: nn.Module, drop: nn.Module | None = None
) -> tuple[Tensor, Tensor]:
    """`norm(residual + drop(h))`, and what it is the norm of, both [tokens, d]."""
    assert isinstance(norm, nn.LayerNorm)
    p = 0.0 if drop is None else rate(drop)
    if invertible(norm):
        return AddNorm.apply(h, residual, norm, p, new_seed() if p else 0)  # type: ignore[return-value]
    total = at_least_float32(residual)
    if h is not None:
        total = total + (dropped(h, p) if p else h)
    return norm(total).to(residual.dtype), total.to(residual.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, layout: Layout, heads: int, p: float) -> Tensor:
    """softmax(q k^T / sqrt(d)) v within each example and head, in the shape of q.

    Where the layout lets only some tokens attend, q has their rows, and k and v those of all.
    """
    if q.is_cuda:
        return torch.cat([fused(q, k, v, block, heads, p) for block in layout.blocks])
    return Attention.apply(q, k, v, layout, heads, p, new_seed() if p else 0)  # type: ignore[return-value]


def by_head(x: Tensor, heads: int) -> Tensor:
    """A view of x [tokens, heads * d] as [heads, tokens, d]."""
    return x.view(len(x), heads, x.shape[1] // heads).transpose(0, 1)


def fused(q: Tensor, k: Tensor, v: Tensor, block: Block, heads: int, p: float) -> Tensor:
    """The attention of one block [its queries, heads * d] by torch's own kernel."""
    q, k, v = (by_head(x, heads)[None] for x in of_block(block, q, k, v))
    bias = None if block.bias is None else block.bias.to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=p)
    return out[0].transpose(0, 1).flatten(1)


def of_block(block: Block, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows of a block."""
    return q[block.queries], k[block.tokens], v[block.tokens]


class Attention(torch.autograd.Function):
    """Attention that keeps q, k and v, and finds probabilities and masks again from them."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, heads: int, p: float, seed: int
    ) -> Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.layout, ctx.heads, ctx.p, ctx.seed = layout, heads, p, seed
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        for block, kept in zip(layout.blocks, masks(v, layout, heads, p, seed), strict=True):
            own, keys, values = (by_head(x, heads) for x in of_block(block, q, k, v))
            weights = probabilities(own, keys, block)
            if kept is not None:
                weights.mul_(kept)
            by_head(out[block.queries], heads).copy_(weights.to(v.dtype) @ values)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted, layout = ctx.needs_input_grad[:3], ctx.layout
        known = ctx.saved_tensors  # once: checkpointing forgets what it gave
        found = [
            torch.empty_like(x, memory_format=torch.contiguous_format) if needed else None
            for x, needed in zip(known, wanted, strict=True)
        ]
        dropped = masks(grads[0], layout, ctx.heads, ctx.p, ctx.seed)
        for block, kept in zip(layout.blocks, dropped, strict=True):
            q, k, v = (by_head(x, ctx.heads) for x in of_block(block, *known))
            grad = by_head(grads[0][block.queries], ctx.heads)
            weights = probabilities(q, k, block)
            gradients: list[Tensor | None] = [None, None, None]
            if wanted[0] or wanted[1]:
                to_weights = at_least_float32(grad @ v.mT)
                to_weights = to_weights if kept is None else to_weights.mul_(kept)
                scores = softmax_backward(to_weights, weights)
                scores = scores.mul_(1 / math.sqrt(q.shape[2])).to(q.dtype)
                gradients[0] = scores @ k if wanted[0] else None
                gradients[1] = scores.mT @ q if wanted[1] else None
            if wanted[2]:
                weights = weights if kept is None else weights.mul_(kept)
                gradients[2] = weights.to(v.dtype).mT @ grad
            rows = (block.queries, block.tokens, block.tokens)
            for whole, own, gradient in zip(found, rows, gradients, strict=True):
                if whole is not None and gradient is not None:
                    by_head(whole[own], ctx.heads).copy_(gradient)
        return *found, None, None, None, None


def masks(like: Tensor, layout: Layout, heads: int, p: float, seed: int) -> Sequence[Tensor | None]:
    """A mask [heads, queries, tokens] for each block, in the dtype of its weights."""
    if not p:
        return [None] * len(layout.blocks)
    shapes = [(heads, width(b.queries), width(b.tokens)) for b in layout.blocks]
    sizes = [math.prod(shape) for shape in shapes]
    drawn = mask(at_least_float32(like.new_empty(1)).expand(sum(sizes)), p, seed).split(sizes)
    return [part.view(shape) for part, shape in zip(drawn, shapes, strict=True)]


def softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient to the scores from that to their softmax, [heads, queries, tokens]."""
    return torch.ops.aten._softmax_backward_data(grad, weights, -1, weights.dtype)


def probabilities(q: Tensor, k: Tensor, block: Block) -> Tensor:
    """What each query of a block takes from each token, [heads, queries, tokens], at least
    float32.
    """
    scale = 1 / math.sqrt(q.shape[2])
    if block.bias is None:
        scores = at_least_float32(q @ k.mT).mul_(scale)
    else:
        bias = block.bias.to(q.dtype)
        scores = at_least_float32(torch.baddbmm(bias, q, k.mT, alpha=scale))
    return torch.softmax(scores, dim=-1)
