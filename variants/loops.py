"""Hooks and optimisers for training loops, your own or another library's."""

from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Progress, Variant, decay_groups
from variants.gradients import keep_from_clipping, serve_groups
from variants.state import check_trained
from variants.surface import find_adaptation


class Hooks:
    """The calls that a training loop of your own makes for the method of an adapted model.

        hooks = Hooks(model, total_steps)
        for batch in batches:
            (loss(batch) + hooks.penalty()).backward()
            hooks.after_backward()  # before gradients are clipped
            optimizer.step()
            hooks.after_step()  # while the gradients are still there
            optimizer.zero_grad()

    If a step sums the gradients of several batches, add the penalty to one of them. `done` is the
    number of steps that a continued run has made before.
    """

    def __init__(self, model: nn.Module, total_steps: int, done: int = 0) -> None:
        self.model = model
        self.variant = find_adaptation(model)[2].variant
        self.total = total_steps
        self.done = done

    @property
    def progress(self) -> Progress:
        """The present step, and how many there are."""
        return Progress(self.done + 1, self.total)

    def penalty(self) -> Tensor | float:
        """Return the method's term of the loss; add it once in each step."""
        return self.variant.penalty(self.model)

    def after_backward(self) -> None:
        """Let the method see or change the gradients; call it before you clip them.

        Some methods take gradients of their own out of the clipping.
        """
        self.variant.after_backward(self.model, self.progress)
        keep_from_clipping(self.model)

    def after_step(self) -> None:
        """Let the method act after the step; call it before you set gradients to zero."""
        self.variant.after_step(self.model, self.progress)
        self.done += 1


def optimizer_for(
    model: nn.Module,
    variant: Variant | None = None,
    lr: float | None = None,
    weight_decay: float = 0.0,
    cls: type[torch.optim.Optimizer] = torch.optim.AdamW,
    **options: Any,
) -> torch.optim.Optimizer:
    """An optimiser over all that trains, in the method's own groups and at its own rate.

    `variant` is the method that the model is adapted with, and need not be given. `options` go to
    the optimiser's class. Raises ValueError for a parameter stored in less than float32.
    """
    method: Variant = variant or find_adaptation(model)[2].variant
    rate = method.lr if lr is None else lr
    optimizer = cls(make_groups(model, method, rate, weight_decay), lr=rate, **options)  # type: ignore[call-arg]
    serve_groups(optimizer)
    return optimizer


def make_groups(
    model: nn.Module, variant: Variant, lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """The method's optimiser groups, and in others what else trains.

    Raises ValueError if nothing does, or a parameter is stored in less than float32.
    """
    check_trained(model)
    groups = variant.param_groups(model, lr, weight_decay)
    known = {id(p) for group in groups for p in group["params"]}
    for group in decay_groups(model, lr, weight_decay):
        left = [p for p in group["params"] if id(p) not in known]
        if left:
            groups.append(group | {"params": left})
    if not groups:
        raise ValueError(f"{type(variant).__name__} trains nothing in this model.")
    return groups


def add_gradient(model: nn.Module, term: Tensor | float) -> None:
    """Add the gradient of a term of the loss to those that are there, and call no hook for it."""
    if not isinstance(term, Tensor) or not term.requires_grad:
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter, found in zip(
        trained, torch.autograd.grad(term, trained, allow_unused=True), strict=True
    ):
        if found is not None:
            parameter.grad = found if parameter.grad is None else parameter.grad + found
