"""The loss of a language model, from the hidden states at its targets only and a few at a time."""

from typing import Any

import torch
from torch import Tensor

from experiments.backbones.compiled import loss as compiled
from experiments.backbones.compiled.base import run
from variants.base import at_least_float32

CHUNK = 256  # targets at a time, as their logits are large
WORDS = 1024  # of the table at a time: all at once takes MKL 1.5 times as long


class NextTokenLoss(torch.autograd.Function):
    """The smoothed cross-entropy of all targets summed, and each target's own without smoothing.

    The gradient is found in the forward pass, where each chunk's logits are at hand; no logits
    are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, targets: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        wanted = ctx.needs_input_grad
        by = cross_entropy if hidden.is_cuda else compiled_cross_entropy
        states = torch.empty_like(hidden) if wanted[0] else None
        words = (
            torch.zeros_like(table, dtype=at_least_float32(table[0]).dtype) if wanted[1] else None
        )
        cast = table.to(hidden.dtype)
        total, losses = hidden.new_zeros((), dtype=torch.float64), []
        for start in range(0, len(hidden), CHUNK):
            own = slice(start, start + CHUNK)
            logits = logits_of(hidden[own], cast)
            if words is not None:  # what trains has a gradient in float32
                logits = at_least_float32(logits)
            loss, mean, grad = by(logits, targets[own], smoothing)
            losses.append(loss)
            total += (1 - smoothing) * loss.sum() + smoothing * mean.sum()
            if states is not None:
                states[own] = grad.to(cast.dtype) @ cast
            if words is not None:
                words.addmm_(grad.T, hidden[own].to(grad.dtype))
        ctx.save_for_backward(states, words)
        each = torch.cat(losses)
        ctx.mark_non_differentiable(each)
        return total.to(each.dtype), each

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        states, words = ctx.saved_tensors
        scale = grads[0]
        return (
            None if states is None else states * scale.to(states.dtype),
            None if words is None else words * scale,
            None,
            None,
        )


def logits_of(hidden: Tensor, table: Tensor) -> Tensor:
    """hidden table^T [m, tokens]."""
    if hidden.is_cuda:
        return hidden @ table.T
    out = hidden.new_empty(len(hidden), len(table))
    for start in range(0, len(table), WORDS):
        own = slice(start, start + WORDS)
        out[:, own] = hidden @ table[own].T
    return out


def cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """-log softmax(logits [m, tokens]) at the targets [m], the mean [m] of all tokens', and the
    gradient of (1 - smoothing) times the one and smoothing times the other, in the logits' type.
    """
    logs = torch.log_softmax(at_least_float32(logits), dim=1)
    chosen = targets[:, None]
    loss, mean = -logs.gather(1, chosen)[:, 0], -logs.mean(dim=1)
    grad = logs.exp_()
    if smoothing:
        grad -= smoothing / grad.shape[1]
    grad.scatter_add_(1, chosen, grad.new_full(chosen.shape, smoothing - 1))
    return loss, mean, grad.to(logits.dtype)


def compiled_cross_entropy(
    logits: Tensor, targets: Tensor, smoothing: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The same; the gradient is in the place of the logits."""
    like = at_least_float32(logits[:0])
    loss, mean = (like.new_empty(len(logits)) for _ in range(2))
    run(compiled.cross_entropy, like, logits, targets, smoothing, loss, mean)
    return loss, mean, logits


def next_token_loss(
    hidden: Tensor, table: Tensor, targets: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """The loss of predicting targets [m] from hidden states [m, d] by a table [tokens, d].

    Returns the sum of the smoothed losses, and each [m] without smoothing, which has no gradient.
    """
    if not torch.is_grad_enabled():
        hidden, table = hidden.detach(), table.detach()
    return NextTokenLoss.apply(hidden, table, targets, smoothing)  # type: ignore[return-value]
