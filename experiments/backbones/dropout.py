"""Dropout that keeps a seed in the place of its mask."""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from experiments.backbones.compiled import base as compiled


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
