"""What an encoder and a decoder share: attention, dropout and norms that keep little for the
backward pass. Beside each stands its plain form in words of torch, which tests hold it to.
"""

import math
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from experiments.backbones.stream import Group, Layout
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


class Masks:
    """Dropout masks, one after another: 0 with probability p, else 1 / (1 - p).

    Only the seed has to be kept for the backward pass. On a CPU sixteen random bits decide on an
    element, so that p is exact to 2^-17, in a tenth of the time of torch's own generator.
    """

    def __init__(self, p: float, seed: int) -> None:
        self.p, self.seed = p, seed
        self.generator: Any = None

    def like(self, x: Tensor) -> Tensor:
        """The next mask, in the shape of x and where x is."""
        mask = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        if x.is_cuda:
            self.generator = self.generator or torch.Generator(x.device).manual_seed(self.seed)
            return mask.bernoulli_(1 - self.p, generator=self.generator).mul_(1 / (1 - self.p))
        self.generator = self.generator or np.random.SFC64(self.seed)
        words = self.generator.random_raw(-(-x.numel() // 4))
        bits = torch.from_numpy(words.view(np.int16))[: x.numel()].view(x.shape)
        torch.ge(bits, round(self.p * 2**16) - 2**15, out=mask)
        return mask.mul_(1 / (1 - self.p))


class Dropout(torch.autograd.Function):
    """x times a mask, of which only the seed is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:
        ctx.p, ctx.seed = p, seed
        return x * Masks(p, seed).like(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return grads[0] * Masks(ctx.p, ctx.seed).like(grads[0]), None, None


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
            total = total + (h * Masks(p, seed).like(h) if p else h)
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
        h = residual * Masks(ctx.p, ctx.seed).like(residual) if ctx.p else residual
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
    total = residual if h is None else residual + (dropped(h, p) if p else h)
    return norm(total), total


def attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, heads: int, causal: bool, p: float
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v within each example and head, [tokens, heads * d]."""
    if q.is_cuda:
        parts = [fused(q, k, v, group, heads, causal, p) for group in layout.groups]
        return torch.cat(parts)
    return Attention.apply(q, k, v, layout, heads, causal, p, new_seed() if p else 0)  # type: ignore[return-value]


def fused(
    q: Tensor, k: Tensor, v: Tensor, group: Group, heads: int, causal: bool, p: float
) -> Tensor:
    """The attention of one group [its tokens, heads * d] by torch's own kernel."""
    grids = group.grids(torch.cat((q, k, v), dim=1), 3, heads)
    q, k, v = grids.view(3, group.rows, heads, group.width, -1)
    # Behind a causal mask no real token sees the padding.
    seen = None if causal or group.padding is None else group.padding.to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, dropout_p=p, is_causal=causal)
    return group.stream(out.flatten(0, 1)[None])


class Attention(torch.autograd.Function):
    """Attention that keeps q, k and v, and finds probabilities and masks again from them."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, layout: Layout, heads: int, causal: bool,
        p: float, seed: int,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(q, k, v)
        ctx.layout, ctx.heads, ctx.causal, ctx.p, ctx.seed = layout, heads, causal, p, seed
        out, masks, joined = torch.empty_like(v), Masks(p, seed), torch.cat((q, k, v), dim=1)
        for group in layout.groups:
            grids = group.grids(joined, 3, heads)
            weights = probabilities(grids[0], grids[1], group, causal)
            if p:
                weights.mul_(masks.like(weights))
            out[group.tokens] = group.stream((weights.to(v.dtype) @ grids[2])[None])
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        wanted = ctx.needs_input_grad[:3]
        joined = torch.cat((*ctx.saved_tensors, grads[0]), dim=1)
        width, masks = grads[0].shape[1], Masks(ctx.p, ctx.seed)
        found = joined.new_empty(len(joined), sum(wanted) * width)
        for group in ctx.layout.groups:
            q, k, v, grad = group.grids(joined, 4, ctx.heads)
            weights = probabilities(q, k, group, ctx.causal)
            kept = masks.like(weights) if ctx.p else 1.0
            parts = []
            if wanted[0] or wanted[1]:
                to_weights = at_least_float32(grad @ v.mT) * kept
                scores = softmax_backward(to_weights, weights).to(q.dtype)
                scores = scores.mul_(1 / math.sqrt(q.shape[2]))
                parts += [scores @ k] if wanted[0] else []
                parts += [scores.mT @ q] if wanted[1] else []
            parts += [(weights * kept).to(v.dtype).mT @ grad] if wanted[2] else []
            found[group.tokens] = group.stream(torch.stack(parts))
        split = iter(found.split(width, dim=1))
        return *(next(split) if needed else None for needed in wanted), *(None,) * 5


def softmax_backward(grad: Tensor, weights: Tensor) -> Tensor:
    """The gradient to the scores from that to their softmax, [rows * heads, width, width]."""
    return torch.ops.aten._softmax_backward_data(grad, weights, -1, weights.dtype)


def probabilities(q: Tensor, k: Tensor, group: Group, causal: bool) -> Tensor:
    """What each place [rows * heads, width] gives to each, at least float32."""
    unseen = group.padding
    if causal:
        unseen = torch.full((group.width, group.width), -math.inf, device=q.device).triu(1)
    scale = 1 / math.sqrt(q.shape[2])
    if unseen is None:
        scores = at_least_float32(q @ k.mT) * scale
    else:
        shape = (group.rows, len(q) // group.rows, group.width, group.width)
        bias = unseen.to(q.dtype).expand(shape).reshape(len(q), group.width, group.width)
        scores = at_least_float32(torch.baddbmm(bias, q, k.mT, alpha=scale))
    return torch.softmax(scores, dim=-1)
