"""The products of a frozen weight with a low-rank update, as few and as small as they can be."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from variants.forms import is_plain

MERGED = (torch.float32, torch.float64)  # bfloat16 would round a small update away


def can_merge(x: Tensor, base: nn.Module) -> bool:
    """Return whether W0 + s B A loses nothing as one matrix in the dtype of x, with W0 frozen.

    Only for a base that is x W0^T + b and nothing else: its own forward pass is not called then.
    """
    if not isinstance(base, nn.Linear) or not is_plain(base) or base.weight.requires_grad:
        return False
    return x.dtype == base.weight.dtype in MERGED and not is_autocasting(x.device)


def is_transforming() -> bool:
    """Return whether torch.func or forward-mode differentiation runs: products stay plain then.

    The Functions below say how to go backward once and more often, and nothing else.
    """
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_autocasting(device: torch.device) -> bool:
    """Return whether autocast rounds products on this device; the meta device knows none."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def disable_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Products as precise as their factors, also under autocast, which would round them."""
    if is_autocasting(device):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


class TensorSnapshot:
    """Tensors as they were when something was computed from them.

    It notices other objects, memory, dtypes or versions, and not a write to `.data`. A tensor of
    inference mode has no version, and is never known to be unchanged.
    """

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors
        self.memory = [t.detach() for t in tensors]  # held, so that no other gets the same address
        self.versions = [-1 if t.is_inference() else t._version for t in tensors]

    def are_still(self, *tensors: Tensor) -> bool:
        """Return whether these are those tensors, unchanged."""
        before = zip(self.tensors, self.memory, self.versions, strict=True)
        return len(tensors) == len(self.tensors) and all(
            now is tensor
            and not now.is_inference()
            and now._version == version
            and now.data_ptr() == memory.data_ptr()
            and now.dtype == memory.dtype
            for now, (tensor, memory, version) in zip(tensors, before, strict=True)
        )


def merging_pays(x: Tensor, A: Tensor, B: Tensor) -> bool:
    """Return whether x [..., d_in] has tokens enough for W0 + s B A to be made for this call alone.

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
    # Without gradients, what is kept for them would take a product of its own.
    if not torch.is_grad_enabled() or is_transforming():
        return F.linear(x, torch.addmm(W0, B, A, alpha=scale), bias)
    flat = flatten_rows(x)
    inner = None
    if B.requires_grad and not A.requires_grad and len(A) < A.shape[1]:
        inner = inner_of(A, flat)  # out here, so that a second derivative finds its way to x
    return restore_shape(MergedLinear.apply(flat, W0, A, B, scale, bias, inner), x)


class MergedLinear(torch.autograd.Function):
    """One product of x [N, d_in] with the sum of W0 [d_out, d_in] and B A in each direction.

    The sum is made anew in the backward pass, and no product has the size of the frozen weight's
    gradient. What is kept is x, or `inner` = A x [r, N] alone where A is frozen and that is less.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, W0: Tensor, A: Tensor, B: Tensor, scale: float,
        bias: Tensor | None, inner: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.scale = scale
        for_A, for_B = ctx.needs_input_grad[2:4]
        keeps_x = for_A or (for_B and inner is None)
        ctx.save_for_backward(W0, A, B, x if keeps_x else None, inner)
        return F.linear(x, torch.addmm(W0, B, A, alpha=scale), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        W0, A, B, x, inner = ctx.saved_tensors
        for_x, _, for_A, for_B, _, for_bias, _ = ctx.needs_input_grad
        dy = gradients[0]
        dx = dA = dB = None
        if for_x:
            dx = dy @ torch.addmm(W0, B, A, alpha=ctx.scale)
        # [r, N] and not [N, r]: on a CPU thin products are several times faster so.
        if for_A:
            dA = (B.T @ dy.T) @ x * ctx.scale
        if for_B:
            dB = ((inner_of(A, x) if inner is None else inner) @ dy).T * ctx.scale
        return dx, None, dA, dB, None, dy.sum(dim=0) if for_bias else None, None


def side_product(x: Tensor, A: Tensor, B: Tensor, scale: float) -> Tensor:
    """s B A x for x [..., d_in], without a matrix [d_out, d_in]."""
    if is_autocasting(x.device) or is_transforming():
        return F.linear(F.linear(x, A), B) * scale
    flat = flatten_rows(x)
    inner = None if A.requires_grad else F.linear(flat, A)  # as above
    return restore_shape(SideProduct.apply(flat, A, B, scale, inner), x)


class SideProduct(torch.autograd.Function):
    """s B A x for x [N, d_in], with its gradients as products [r, N] where autograd's are [N, r].

    `inner` is A x [N, r] where A is frozen.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, A: Tensor, B: Tensor, scale: float, inner: Tensor | None
    ) -> Tensor:
        ctx.scale = scale
        inner = F.linear(x, A) if inner is None else inner
        for_A, for_B = ctx.needs_input_grad[1:3]
        ctx.save_for_backward(x if for_A else None, A, B, inner if for_B else None)
        return F.linear(inner, B * scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, A, B, inner = ctx.saved_tensors
        for_x, for_A, for_B, _, _ = ctx.needs_input_grad
        dy = gradients[0]
        dx = dA = dB = None
        if for_x or for_A:
            back = (B.T * ctx.scale) @ dy.T
            dx = back.T @ A if for_x else None
            dA = back @ x if for_A else None
        if for_B:
            if x is not None and torch.is_grad_enabled():
                inner = F.linear(x, A)  # the kept one has no past, which a second derivative needs
            dB = (inner.T @ dy).T * ctx.scale
        return dx, dA, dB, None, None


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def flatten_rows(x: Tensor) -> Tensor:
    """x [..., d] as [N, d]."""
    return x if x.dim() == 2 else x.reshape(-1, x.shape[-1])


def restore_shape(y: Tensor, x: Tensor) -> Tensor:
    """y [N, d_out] with the leading shape of x.

    Outside of the Functions: what one of them returns as a view may not be changed in place.
    """
    return y if x.dim() == 2 else y.view(*x.shape[:-1], y.shape[-1])


def inner_of(A: Tensor, x: Tensor) -> Tensor:
    """A x as [r, N] for x [N, d_in]."""
    return A @ x.T
