"""Muon: steps of steepest descent in the spectral norm, for the matrices inside a network.

`torch.optim.Muon` orthogonalises in bfloat16, which a processor without such arithmetic emulates
at a tenth of the speed. Here it is done in float32, all matrices of one shape at a time.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import cast

import torch
import torch.nn as nn
from torch import Tensor

# Newton and Schulz's iteration as tuned by Keller Jordan: singular values end between 0.7 and 1.2.
COEFFICIENTS, ITERATIONS = (3.4445, -4.7750, 2.0315), 5


def orthogonal(updates: Tensor) -> Tensor:
    """Matrices [n, rows, columns] with their singular values brought close to 1."""
    wide = updates if updates.shape[1] <= updates.shape[2] else updates.mT
    x = wide / (wide.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide is updates else x.mT


class Muon(torch.optim.Optimizer):
    """For matrices [d_out, d_in] alone, or with `transposed` [d_in, d_out], as GPT-2's.

    With Nesterov momentum and decoupled weight decay. An update at rate 1 has singular values of
    about 1, or sqrt(d_out / d_in) where that is more.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        weight_decay: float,
        transposed: bool = False,
    ) -> None:
        settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "transposed": transposed})

    @torch.no_grad()
    def step(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] (no closure)
        """Move every matrix once."""
        for group in self.param_groups:
            shapes: defaultdict[torch.Size, list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes[parameter.shape].append(parameter)
            for shape, parameters in shapes.items():
                updates = [self.momentum(parameter, group["momentum"]) for parameter in parameters]
                d_out, d_in = shape[::-1] if group["transposed"] else shape
                scale = -group["lr"] * max(1.0, d_out / d_in) ** 0.5
                for parameter, update in zip(
                    parameters, orthogonal(torch.stack(updates)), strict=True
                ):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(update, alpha=scale)

    def momentum(self, parameter: nn.Parameter, share: float) -> Tensor:
        """The gradient with what is left of the earlier ones."""
        gradient = cast(Tensor, parameter.grad)
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        return gradient.lerp(state["momentum"].lerp_(gradient, 1 - share), share)
