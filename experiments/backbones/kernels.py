"""The shared parts of encoders and decoders: attention, dropout and norms that keep little for the
backward pass. On a processor they are compiled (`compiled.py`); elsewhere they are torch's words,
to which tests hold the compiled ones.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import register_flop_formula

from experiments.backbones import compiled
from experiments.backbones.stream import Block, Layout
from variants.base import at_least_float32

log = logging.getLogger(__name__)

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def new_seed() -> int:
    """A seed for dropout, from torch's global generator."""
    return int(torch.randint(2**63 - 1, ()))


def drop(x: Tensor, p: float, seed: int) -> Tensor:
    """x [n, d] / (1 - p), or 0 with probability p; one seed and shape give one choice."""
    if x.is_cuda:
        return x * mask(x, p, seed)
    out = torch.empty_like(x, memory_format=torch.contiguous_format)
    compiled.run(compiled.drop, x, out, p, seed)
    return out


def mask(x: Tensor, p: float, seed: int) -> Tensor:
    """Return the factors by which `drop` multiplies x [n, d]."""
    if not x.is_cuda:
        return drop(torch.ones_like(x), p, seed)
    generator = torch.Generator(x.device).manual_seed(seed)
    return torch.empty_like(x).bernoulli_(1 - p, generator=generator).mul_(1 / (1 - p))


class Dropout(torch.autograd.Function):
    """x times a mask, of which only the seed is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, p: float, seed: int) -> Tensor:
        ctx.p, ctx.seed = p, seed
        return drop(x, p, seed)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return drop(grads[0], ctx.p, ctx.seed), None, None


def dropout(x: Tensor, module: nn.Module) -> Tensor:
    """Apply the dropout module to x."""
    p = rate(module)
    return drop_elements(x, p) if p else x


def drop_elements(x: Tensor, p: float) -> Tensor:
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
        by = add_and_norm if residual.is_cuda else add_and_norm_compiled
        y, total, scale = by(h, residual, norm, p, seed)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, scale)
        ctx.norm, ctx.p, ctx.seed, ctx.alone = norm, p, seed, h is None
        return y, total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        y, scale = ctx.saved_tensors
        through, beside = grads
        p = 0.0 if ctx.alone else ctx.p  # what is dropped of nothing
        if through is None:  # the norm was not used
            found = beside, beside if beside is None or not p else drop(beside, p, ctx.seed)
        else:
            by = add_and_norm_backward if y.is_cuda else add_and_norm_backward_compiled
            found = by(through, beside, y, scale, ctx.norm, p, ctx.seed)
        residual, h = found
        return None if ctx.alone else h, residual, None, None, None


def add_and_norm(
    h: Tensor | None, residual: Tensor, norm: nn.LayerNorm, p: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The norm of residual + mask h [n, d], that sum, and 1 / deviation [n, 1]."""
    total = at_least_float32(residual)
    if h is not None:
        total = total + (h * mask(h, p, seed) if p else h)
    weight, bias = affine(norm, total)
    y, _, scale = torch.native_layer_norm(
        total, list(norm.normalized_shape), weight, bias, norm.eps
    )
    return y.to(residual.dtype), total.to(residual.dtype), scale


def add_and_norm_compiled(
    h: Tensor | None, residual: Tensor, norm: nn.LayerNorm, p: float, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same as `add_and_norm`."""
    y, total = (torch.empty(residual.shape, dtype=residual.dtype) for _ in range(2))
    weight, bias = affine(norm, at_least_float32(residual[:0]))
    scale = weight.new_empty(len(residual), 1)
    h = residual[:0] if h is None else h
    compiled.run(compiled.add_norm, h, residual, weight, bias, norm.eps, p, seed, y, total, scale)
    return y, total, scale


def add_and_norm_backward(
    through: Tensor, beside: Tensor | None, y: Tensor, scale: Tensor, norm: nn.LayerNorm,
    p: float, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The gradients to residual and h, from those to the norm and to the sum it is made of."""
    total = norm_backward(at_least_float32(through), at_least_float32(y), scale, norm)
    if beside is not None:
        total = total.add_(at_least_float32(beside))
    residual = total.to(y.dtype)
    return residual, residual * mask(residual, p, seed) if p else residual


def add_and_norm_backward_compiled(
    through: Tensor, beside: Tensor | None, y: Tensor, scale: Tensor, norm: nn.LayerNorm,
    p: float, seed: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Return the same as `add_and_norm_backward`."""
    residual, h = torch.empty_like(y), torch.empty_like(y if p else y[:0])
    compiled.run(
        compiled.add_norm_backward, through, y[:0] if beside is None else beside, y, scale,
        *affine(norm, scale), p, seed, h, residual,
    )  # fmt: skip
    return residual, h if p else residual


def affine(norm: nn.LayerNorm, like: Tensor) -> tuple[Tensor, Tensor]:
    """A norm's weight and bias in the type of another tensor."""
    return norm.weight.to(like.dtype), norm.bias.to(like.dtype)


def norm_backward(grad: Tensor, y: Tensor, scale: Tensor, norm: nn.LayerNorm) -> Tensor:
    """The gradient to a layer norm's input from its output y [n, d] and 1 / deviation [n, 1]."""
    weight, bias = affine(norm, y)
    normalised = (y - bias).mul_(1 / weight)
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)
    needed = [True, False, False]
    shape = list(norm.normalized_shape)
    found = torch.ops.aten.native_layer_norm_backward(
        grad.contiguous(), normalised, shape, zero, one, weight, None, needed
    )
    return found[0].mul_(scale)


def recompute_later(wanted: bool, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`compute(x)`; if it is wanted, only x is kept, and the rest found again from it."""
    return checkpoint(compute, x, use_reentrant=False) if wanted else compute(x)


INVERTIBLE: WeakKeyDictionary[nn.Module, tuple[int, int, bool]] = WeakKeyDictionary()


def invertible(norm: nn.LayerNorm) -> bool:
    """Return whether a frozen norm's input follows from its output at full precision."""
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
    if not torch.is_grad_enabled() or invertible(norm):  # without gradients nothing is inverted
        return AddNorm.apply(h, residual, norm, p, new_seed() if p else 0)  # type: ignore[return-value]
    total = at_least_float32(residual)
    if h is not None:
        total = total + (drop_elements(h, p) if p else h)
    return norm(total).to(residual.dtype), total.to(residual.dtype)


def attention(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, heads: int, p: float, groups: int | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(d)) v within each example and head, in the shape of q.

    If the layout lets only some tokens attend, q has their rows, and k and v those of all. With
    `groups`, k and v have so many heads, each for as many neighbouring heads of q.
    """
    groups = groups or heads
    if q.is_cuda:
        return torch.cat(
            [attend_fused(q, k, v, block, heads, groups, p) for block in layout.blocks]
        )
    seed = new_seed() if p else 0
    how = (*layout.bounds, heads, groups, layout.causal, p, seed)
    return Attention.apply(q, k, v, how)  # type: ignore[return-value]


def by_head(x: Tensor, heads: int) -> Tensor:
    """x [n, heads * d] as [heads, n, d]."""
    return x.view(len(x), heads, x.shape[1] // heads).transpose(0, 1)


def attend_fused(
    q: Tensor, k: Tensor, v: Tensor, block: Block, heads: int, groups: int, p: float
) -> Tensor:
    """The attention of one block [its queries, heads * d] by torch's own kernel."""
    q = by_head(q[block.queries], heads)[None]
    k, v = (by_head(x[block.tokens], groups)[None] for x in (k, v))
    bias = None if block.bias is None else block.bias.to(q.dtype)
    out = F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, dropout_p=p, enable_gqa=groups != heads
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
    "Tensor starts, Tensor query_starts, Tensor query_positions, int heads, int groups, "
    "bool causal, float p, int seed"
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
    compiled.run(compiled.attention, at_least_float32(q[:0]), q, k, v, *how, out)
    return out


@torch.library.impl(OPERATORS, "attend_backward", "CPU")
def attend_compiled_backward(q: Tensor, k: Tensor, v: Tensor, *how: Any) -> list[Tensor]:
    """The gradients of `compiled.attention`; one that is not wanted is left empty."""
    given = zip((q, k, v), how[-1], strict=True)
    found = [torch.empty_like(x if w else x[:0]) for x, w in given]
    like = at_least_float32(q[:0])
    compiled.run(compiled.attention_backward, like, q, k, v, *how[:-1], *found)
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


def load(dtype: torch.dtype) -> None:
    """Have every compiled kernel for this type in memory; the first time ever it takes seconds."""
    kept = compiled.drop.stats.cache_path
    if kept is None:
        log.info(
            "Compiling for this processor: about ten seconds, in every process. NUMBA_CACHE_DIR "
            "may name a folder to keep it in; there is none that may be written to."
        )
    elif not any(Path(kept).glob("compiled.*.nbi")):
        log.info("Compiling for this processor, once: about ten seconds.")
    x = torch.zeros(1, 1, dtype=dtype)
    like, ends, place = at_least_float32(x), torch.tensor([0, 1]), torch.tensor([0])
    attending = like, x, x, x, ends, ends, place, 1, 1, False, 0.0, 0
    dropping, norm = (0.0, 0), (like[0], like[0])
    for kernel, *args in (
        (compiled.drop, x, x, *dropping),
        (compiled.add_norm, x, x, *norm, 1.0, *dropping, x, x, like),
        (compiled.add_norm_backward, x, x, x, like, *norm, *dropping, x, x),
        (compiled.attention, *attending, x),
        (compiled.attention_backward, *attending, x, x, x, x),
        (compiled.cross_entropy, like, x, place, 0.0, like[0], like[0]),
    ):
        compiled.run(kernel, *args, threads=1)


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
    return Rotate.apply(x.view(len(x), heads, -1), cos, sin).flatten(1)  # type: ignore[union-attr]
