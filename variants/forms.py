"""How a layer that is a linear map is called, and whether it is that map and nothing else."""

from collections.abc import Callable
from typing import TypeVar

import torch.nn as nn

Function = TypeVar("Function", bound=Callable)

PLAIN = frozenset({nn.Linear.forward})
# Forward passes of others that are x W^T + b in other words, by where they are written.
KNOWN = frozenset({"transformers.models.falcon.modeling_falcon.FalconLinear.forward"})


def linear_map(forward: Function) -> Function:
    """Mark a forward pass of a layer as x W^T + b with its own `weight` and `bias`.

    Without the mark, a class with a forward pass of its own counts as another function than its
    weight says. `linear_map(TheirLinear.forward)` marks one that is not yours.
    """
    forward.is_linear_map = True  # type: ignore[attr-defined]
    return forward


def has_known_forward(base: nn.Module) -> bool:
    """Whether the class of a layer computes the linear map of its weight and nothing else.

    A base that is no linear layer of torch's was made for an adapter, and is trusted.
    """
    if not isinstance(base, nn.Linear):
        return True
    forward = type(base).forward
    if forward in PLAIN or getattr(forward, "is_linear_map", False):
        return True
    return f"{forward.__module__}.{forward.__qualname__}" in KNOWN


def is_hooked(base: nn.Module) -> bool:
    """Whether somebody else acts when a layer is called: hooks, or a forward pass put over its own.

    Global hooks, which profilers use, are not looked at.
    """
    return bool(
        base._forward_hooks
        or base._forward_pre_hooks
        or base._backward_hooks
        or base._backward_pre_hooks
        or "forward" in base.__dict__
    )


def is_plain(base: nn.Module) -> bool:
    """Whether calling a layer is the linear map of its weight and nothing else.

    Only then may another way to the same number take the place of the call.
    """
    return (
        has_known_forward(base)
        and not is_hooked(base)
        and "parametrizations" not in base._modules  # a weight that moves when it is read
    )
