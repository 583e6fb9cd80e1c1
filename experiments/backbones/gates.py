"""Activations of feed-forwards, gated ones in one pass."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from experiments.backbones.compiled import gates as compiled
from experiments.backbones.compiled.base import run
from variants.base import at_least_float32

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}


def recompute_later(wanted: bool, compute: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`compute(x)`; if it is wanted, only x is kept, and the rest found again from it."""
    return checkpoint(compute, x, use_reentrant=False) if wanted else compute(x)


COMPILED = {
    "silu": compiled.SILU,
    "gelu_new": compiled.GELU,
    "gelu_pytorch_tanh": compiled.GELU,
}


class Gate(torch.autograd.Function):
    """act(a) b, of which a and b are kept."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, kind: int) -> Tensor:
        ctx.save_for_backward(a, b)
        ctx.kind = kind
        out = torch.empty_like(a)
        run(compiled.gate, at_least_float32(a[:0]), a, b, kind, out)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        to_a, to_b = torch.empty_like(a), torch.empty_like(b)
        like = at_least_float32(a[:0])
        run(compiled.gate_backward, like, grads[0], a, b, ctx.kind, to_a, to_b)
        return to_a, to_b, None


def gate(activation: str, a: Tensor, b: Tensor) -> Tensor:
    """act(a) b for a and b [n, d]. Shazeer, 2020, arXiv:2002.05202."""
    if a.is_cuda or activation not in COMPILED:
        return ACTIVATIONS[activation](a) * b
    return Gate.apply(a, b, COMPILED[activation])  # type: ignore[return-value]
