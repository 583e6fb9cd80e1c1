"""Norms that keep their output and not their input, with the sum before them.

On a processor they are compiled; elsewhere they are torch's words, to which tests hold the compiled
ones.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from experiments.backbones.compiled import norms as compiled
from experiments.backbones.compiled.base import run
from experiments.backbones.dropout import drop, drop_elements, mask, new_seed, rate
from variants.base import at_least_float32


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
        total = residual if h is None else total  # as it is, which autograd allows
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
    y = torch.empty(residual.shape, dtype=residual.dtype)
    total = residual[:0] if h is None else torch.empty_like(y)
    weight, bias = affine(norm, at_least_float32(residual[:0]))
    scale = weight.new_empty(len(residual), 1)
    h = residual[:0] if h is None else h
    run(compiled.add_norm, h, residual, weight, bias, norm.eps, p, seed, y, total, scale)
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
    run(
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


INVERTIBLE: WeakKeyDictionary[nn.Module, tuple[int, int, bool]] = WeakKeyDictionary()


def invertible(norm: nn.LayerNorm) -> bool:
    """Return whether a frozen norm's input follows from its output at full precision."""
    weight, bias = norm.weight, norm.bias
    if weight.requires_grad or bias.requires_grad:
        return False
    return remembered(
        INVERTIBLE,
        norm,
        lambda: bool((weight.abs() + bias.abs() < 100 * weight.abs()).all()),
    )


def remembered(
    known: WeakKeyDictionary[nn.Module, tuple[int, int, bool]],
    norm: nn.Module,
    find: Callable[[], bool],
) -> bool:
    """Return what is found for a norm's weight, which is looked at once."""
    weight = norm.get_parameter("weight")
    key = (weight.data_ptr(), weight._version)
    if norm not in known or known[norm][:2] != key:
        known[norm] = (*key, find())
    return known[norm][2]


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


class AddRMS(torch.autograd.Function):
    """A frozen RMS norm of residual + h, and the sum itself.

    Kept is the output, which an adapter behind it keeps anyhow: the normalised input is that over
    the weight.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor | None, residual: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        by = add_and_rms if residual.is_cuda else add_and_rms_compiled
        y, total, scale = by(h, residual, weight, eps)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(y, scale, weight)
        ctx.alone = h is None
        return y, residual if h is None else total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        y, scale, weight = ctx.saved_tensors
        through, found = grads
        if through is not None:
            by = add_and_rms_backward if y.is_cuda else add_and_rms_backward_compiled
            found = by(through, found, y, scale, weight)
        return None if ctx.alone else found, found, None, None


def add_and_rms(
    h: Tensor | None, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """weight times residual + h [n, d] over its root mean square, that sum, and 1 / root [n, 1]."""
    total = at_least_float32(residual)
    if h is not None:
        total = total + h
    scale = torch.rsqrt(total.square().mean(dim=1, keepdim=True) + eps)
    return (total * scale * weight).to(residual.dtype), total.to(residual.dtype), scale


def add_and_rms_compiled(
    h: Tensor | None, residual: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the same as `add_and_rms`, where h is None without the sum."""
    y = torch.empty(residual.shape, dtype=residual.dtype)
    total = residual[:0] if h is None else torch.empty_like(y)
    scale = weight.new_empty(len(residual), 1)
    h = residual[:0] if h is None else h
    run(compiled.add_rms, h, residual, weight, eps, y, total, scale)
    return y, total, scale


def add_and_rms_backward(
    through: Tensor, beside: Tensor | None, y: Tensor, scale: Tensor, weight: Tensor
) -> Tensor:
    """The gradient to residual and to h, from those to the norm and to the sum it is made of."""
    normal, grad = at_least_float32(y) / weight, at_least_float32(through) * weight
    grad = (grad - normal * (grad * normal).mean(dim=1, keepdim=True)) * scale
    return (grad if beside is None else grad + beside).to(y.dtype)


def add_and_rms_backward_compiled(
    through: Tensor, beside: Tensor | None, y: Tensor, scale: Tensor, weight: Tensor
) -> Tensor:
    """Return the same as `add_and_rms_backward`."""
    found = torch.empty_like(y)
    beside = y[:0] if beside is None else beside
    run(compiled.add_rms_backward, through, beside, y, scale, weight, found)
    return found


def add_rms(
    h: Tensor | None, residual: Tensor, norm: nn.Module, eps: float, shift: float = 0.0
) -> tuple[Tensor, Tensor]:
    """An RMS norm of residual + h [tokens, d], whose weight is `norm.weight + shift`, and the sum.

    Zhang and Sennrich, 2019, arXiv:1910.07467.
    """
    weight = norm.get_parameter("weight")
    weight = weight.to(at_least_float32(residual[:0]).dtype)
    weight = weight + shift if shift else weight
    # What trains, or has no input that follows from its output, goes by torch's words.
    if torch.is_grad_enabled() and (weight.requires_grad or not is_never_zero(norm, weight)):
        total = at_least_float32(residual)
        total = total if h is None else total + h
        y = F.rms_norm(total, weight.shape, weight, eps)
        return y.to(residual.dtype), total.to(residual.dtype)
    return AddRMS.apply(h, residual, weight, eps)  # type: ignore[return-value]


NONZERO: WeakKeyDictionary[nn.Module, tuple[int, int, bool]] = WeakKeyDictionary()


def is_never_zero(norm: nn.Module, weight: Tensor) -> bool:
    """Return whether every input of a norm with this frozen weight follows from its output."""
    return remembered(NONZERO, norm, lambda: bool((weight != 0).all()))
