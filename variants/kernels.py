"""The products of a frozen weight with a low-rank update, as few and as small as they can be."""

from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

MERGED = (torch.float32, torch.float64)  # bfloat16 would round a small update away


def can_merge(x: Tensor, base: nn.Module) -> bool:
    """Whether W0 + s B A loses nothing as one matrix in the dtype of x, with W0 frozen."""
    if not isinstance(base, nn.Linear) or base.weight.requires_grad:
        return False
    return x.dtype == base.weight.dtype in MERGED and not torch.is_autocast_enabled(x.device.type)


def merging_pays(x: Tensor, A: Tensor, B: Tensor) -> bool:
    """Whether x [..., d_in] has tokens enough for W0 + s B A to be made for this call alone.

    A product beside the frozen one costs r (d_in + d_out) a token more, in the forward and in the
    backward pass, and the sum r d_in d_out, twice too, beside the r (d_in + d_out) a token that
    both forms need for gradients. So they are even at 2 d_in d_out / (d_in + d_out) tokens; below
    rank 32 at half of that, as reading and writing [tokens, d_out] takes longer than the
    arithmetic. Measured on a CPU in float32: at rank 8 and widths 384 and 768 the sum takes 0.91 to
    0.98 of the other form's time at the switch, 0.70 to 0.83 at four times as many tokens.
    """
    rank, d_in = A.shape
    d_out = len(B)
    even = d_in * d_out / (d_in + d_out) * (1 if rank <= 32 else 2)
    return x.numel() > even * d_in


def merged_linear(
    x: Tensor, W0: Tensor, A: Tensor, B: Tensor, scale: float, bias: Tensor | None = None
) -> Tensor:
    """x (W0 + s B A)^T + bias for x [..., d_in], with gradients for x, A, B and the bias."""
    if not torch.is_grad_enabled():  # what is kept for gradients takes a product of its own
        return F.linear(x, torch.addmm(W0, B, A, alpha=scale), bias)
    return MergedLinear.apply(x, W0, A, B, scale, bias)


class MergedLinear(torch.autograd.Function):
    """One product with the sum of W0 [d_out, d_in] and B A in each direction.

    The sum is made anew in the backward pass, and no product has the size of the frozen weight's
    gradient. What is kept is x, or A x alone where A is frozen and that is less.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W0: Tensor, A: Tensor, B: Tensor, scale: float, bias: Tensor | None
    ) -> Tensor:
        ctx.scale = scale
        for_A, for_B = ctx.needs_input_grad[2:4]
        ctx.keeps_x = for_A or len(A) >= A.shape[1]
        kept = None
        if for_A or for_B:
            kept = x if ctx.keeps_x else inner_of(A, x)
        ctx.save_for_backward(W0, A, B, kept)
        return F.linear(x, torch.addmm(W0, B, A, alpha=scale), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        W0, A, B, kept = ctx.saved_tensors
        for_x, _, for_A, for_B, _, for_bias = ctx.needs_input_grad
        dy = gradients[0]
        dx = dA = dB = None
        if for_x:
            dx = dy @ torch.addmm(W0, B, A, alpha=ctx.scale)
        # [r, N] and not [N, r]: on a CPU thin products are several times faster so.
        flat = dy.reshape(-1, dy.shape[-1])
        if for_A:
            dA = (B.T @ flat.T) @ kept.reshape(-1, A.shape[1]) * ctx.scale
        if for_B:
            dB = ((inner_of(A, kept) if ctx.keeps_x else kept) @ flat).T * ctx.scale
        return dx, None, dA, dB, None, flat.sum(dim=0) if for_bias else None


def side_product(x: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """s B A x for x [..., d_in], without a matrix [d_out, d_in]."""
    if x.dtype not in MERGED or torch.is_autocast_enabled(x.device.type):
        return F.linear(F.linear(x, A), B) * scale
    return SideProduct.apply(x, A, B, scale)


class SideProduct(torch.autograd.Function):
    """s B A x with its gradients as products [r, N], which autograd makes as slow [N, r] ones."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
        ctx.scale = scale
        inner = F.linear(x, A)
        for_A, for_B = ctx.needs_input_grad[1:3]
        ctx.save_for_backward(x if for_A else None, A, B, inner if for_B else None)
        return F.linear(inner, B * scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, A, B, inner = ctx.saved_tensors
        for_x, for_A, for_B, _ = ctx.needs_input_grad
        dy = gradients[0]
        flat = dy.reshape(-1, dy.shape[-1])
        dx = dA = dB = None
        if for_x or for_A:
            back = (B.T * ctx.scale) @ flat.T
            dx = (back.T @ A).view(*dy.shape[:-1], A.shape[1]) if for_x else None
            dA = back @ x.reshape(-1, A.shape[1]) if for_A else None
        if for_B:
            dB = (inner.reshape(-1, len(A)).T @ flat).T * ctx.scale
        return dx, dA, dB, None


def inner_of(A: Tensor, x: Tensor) -> Tensor:
    """A x as [r, N] for x [..., d_in]."""
    return A @ x.reshape(-1, A.shape[1]).T
