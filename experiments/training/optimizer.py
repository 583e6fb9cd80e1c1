"""AdamW over few tensors: what is small lies in one buffer, and one fused call moves it all."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import serve_groups

SMALL = 2**16  # values; larger tensors gain nothing, and would keep their gradients all the time


@dataclass(frozen=True)
class Buffer:
    """Parameters as parts of one flat parameter, their gradients as parts of its gradient."""

    flat: nn.Parameter
    parameters: list[nn.Parameter]
    gradients: list[Tensor]  # of the parameters: views of flat.grad

    def gather(self) -> None:
        """Take in the gradients that were put in the place of a view."""
        for parameter, view in zip(self.parameters, self.gradients, strict=True):
            if parameter.grad is None:
                view.zero_()
            elif parameter.grad is not view:
                view.copy_(parameter.grad)

    def clear(self) -> None:
        """Zero all gradients, and let autograd add to the views again."""
        assert self.flat.grad is not None
        self.flat.grad.zero_()
        for parameter, view in zip(self.parameters, self.gradients, strict=True):
            parameter.grad = view


@torch.no_grad()
def buffer_of(parameters: list[nn.Parameter]) -> Buffer:
    """Move parameters of one dtype and device into one buffer, where they keep their values."""
    flat = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    sizes = [p.numel() for p in parameters]
    gradients = []
    for parameter, value, grad in zip(
        parameters, flat.data.split(sizes), flat.grad.split(sizes), strict=True
    ):
        parameter.data = value.view_as(parameter)
        gradients.append(grad.view_as(parameter))
    buffer = Buffer(flat, parameters, gradients)
    buffer.clear()
    return buffer


class FlatAdamW(torch.optim.AdamW):
    """AdamW; the small tensors of each group are one parameter of it.

    A parameter without a gradient counts as one with a gradient of zero.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        self.buffers: list[Buffer] = []
        super().__init__([self.with_buffers(group) for group in groups], fused=True)
        serve_groups(self)

    def with_buffers(self, group: dict[str, Any]) -> dict[str, Any]:
        """The group with its small tensors as one for each dtype."""
        large = [p for p in group["params"] if p.numel() >= SMALL]
        kinds: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.numel() < SMALL:
                kinds.setdefault(parameter.dtype, []).append(parameter)
        own = [buffer_of(parameters) for parameters in kinds.values()]
        self.buffers += own
        return group | {"params": [*(buffer.flat for buffer in own), *large]}

    def gather(self) -> None:
        """Make what stands as `grad` at the parameters the gradient that is clipped and used."""
        for buffer in self.buffers:
            buffer.gather()

    def gradients(self) -> list[Tensor]:
        """Every gradient as backward has left it, in few tensors; a missing one becomes zero."""
        for buffer in self.buffers:
            pairs = zip(buffer.parameters, buffer.gradients, strict=True)
            assert all(parameter.grad is view for parameter, view in pairs)
        found = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                found.append(parameter.grad)
        return found

    def zero_grad(self, set_to_none: bool = True) -> None:
        kept = {id(buffer.flat) for buffer in self.buffers}
        for group in self.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in kept:
                    parameter.grad = None
        for buffer in self.buffers:
            buffer.clear()
