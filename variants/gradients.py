"""The gradient of W0, for methods that start from it; groups that move by rules of their own."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from variants.products import at_least_float32
from variants.wrapper import BaseWrapper

UNCLIPPED = "_is_unclipped"  # of a parameter: whether its group declines clipping
KEPT = "_kept_gradient"  # of a parameter: the gradient that was put aside


def gradients_at_W0(model: nn.Module, losses: Iterable[Tensor]) -> dict[str, Tensor]:
    """The sum of dL/dW0 [d_out, d_in] over losses, at least float32, by name of the adapter layer.

    Each loss is asked for when the ones before it are done with. Nothing moves, and gradients that
    are there stay. Raises ValueError for a base without a weight of its own, such as a quantised
    one, and for one that no loss depends on.
    """
    layers = {
        name: module for name, module in model.named_modules() if isinstance(module, BaseWrapper)
    }
    weights = {name: own_weight(name, layer) for name, layer in layers.items()}
    sums: dict[str, Tensor] = {}
    for weight in weights.values():
        weight.requires_grad_(True)
    try:
        for loss in losses:
            found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
            for name, gradient in zip(weights, found, strict=True):
                if gradient is not None:
                    matrix = layers[name].form.as_matrix(at_least_float32(gradient.to_dense()))
                    sums[name] = sums[name] + matrix if name in sums else matrix
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
    for name in sorted(weights.keys() - sums.keys()):
        raise ValueError(
            f"{name} got no gradient, as the loss does not depend on it; leave it out of the "
            "targets."
        )
    return {name: sums[name] for name in weights}


def own_weight(name: str, layer: BaseWrapper) -> nn.Parameter:
    """The parameter that W0 is."""
    weight = layer.base._parameters.get("weight")
    if weight is None:
        how = "quantised" if getattr(layer.base, "holds_codes", False) else "parametrised"
        raise ValueError(f"The base of {name} is {how}, so its weight has no gradient.")
    return weight


def serve_groups(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimiser move its groups as they ask to be moved.

    A `plain` group has its moments elsewhere: it moves by its learning rate times what stands as
    its gradient, and the optimiser's own rule sees none. One whose `clip` is False keeps its
    gradients from clipping, where `keep_from_clipping` comes before that.
    """
    moved: dict[nn.Parameter, Tensor] = {}

    def before(it: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        give_back(it)
        _, *rest = args  # the optimiser itself comes first
        moved.update(move_plain(it, *rest, **kwargs))

    def after(*_: Any) -> None:
        for parameter, gradient in moved.items():
            parameter.grad = gradient
        moved.clear()

    optimizer.register_step_pre_hook(before)
    optimizer.register_step_post_hook(after)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            setattr(parameter, UNCLIPPED, not group.get("clip", True))


def keep_from_clipping(model: nn.Module) -> None:
    """Put the gradients of groups that are not clipped aside, until their optimiser's step."""
    for parameter in model.parameters():
        if getattr(parameter, UNCLIPPED, False) and parameter.grad is not None:
            setattr(parameter, KEPT, parameter.grad)
            parameter.grad = None


def give_back(optimizer: torch.optim.Optimizer) -> None:
    """Let the gradients that were put aside stand at their parameters again."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if (gradient := vars(parameter).pop(KEPT, None)) is not None:
                parameter.grad = gradient


@torch.no_grad()
def move_plain(
    optimizer: torch.optim.Optimizer, closure: Any = None
) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """Take the step of all plain groups, and their gradients out of the optimiser's sight.

    Yields the parameters that moved, and their gradients. Raises ValueError for a closure, which
    would make new ones in the middle of the step.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group.get("plain") else []:
            if closure is not None:
                raise ValueError("A method with a rule of its own takes no closure in a step.")
            if parameter.grad is not None:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(parameter.grad, alpha=group["lr"])
                yield parameter, parameter.grad
                parameter.grad = None  # an optimiser leaves alone what has no gradient
