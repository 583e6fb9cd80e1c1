"""The loss of a language model, from the hidden states at its targets only and a few at a time."""

from typing import Any

import torch
from torch import Tensor

from variants.base import at_least_float32

CHUNK = 256  # targets at a time: their logits stay in the cache's reach and out of memory's


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
        states = torch.empty_like(hidden) if wanted[0] else None
        words = (
            torch.zeros_like(table, dtype=at_least_float32(table[0]).dtype) if wanted[1] else None
        )
        cast = table.to(hidden.dtype)
        total, losses = hidden.new_zeros((), dtype=torch.float64), []
        for start in range(0, len(hidden), CHUNK):
            own = slice(start, start + CHUNK)
            logs = torch.log_softmax(at_least_float32(hidden[own] @ cast.T), dim=1)
            chosen = targets[own][:, None]
            loss = -logs.gather(1, chosen)[:, 0]
            losses.append(loss)
            total += (1 - smoothing) * loss.sum()
            if smoothing:
                total -= smoothing * logs.mean(dim=1).sum()
            if not (wanted[0] or wanted[1]):
                continue
            grad = logs.exp_()
            if smoothing:
                grad -= smoothing / grad.shape[1]
            grad.scatter_add_(1, chosen, grad.new_full(chosen.shape, smoothing - 1))
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


def next_token_loss(
    hidden: Tensor, table: Tensor, targets: Tensor, smoothing: float
) -> tuple[Tensor, Tensor]:
    """The loss of predicting targets [m] from hidden states [m, d] by a table [tokens, d].

    Returns the sum of the smoothed losses, and each [m] without smoothing, which has no gradient.
    """
    if not torch.is_grad_enabled():
        hidden, table = hidden.detach(), table.detach()
    return NextTokenLoss.apply(hidden, table, targets, smoothing)  # type: ignore[return-value]
