"""LoRA-RITE: steps that do not depend on how a product is split into B and A.

Yen et al., 2024, arXiv:2410.20625. Each factor's gradient is freed of the length of the other one
by its QR decomposition, and its moments, [r, r] for the square, live in the basis that moves with
the other factor. A gradient of root mean square above 1 is left out, and all together are clipped
to a norm of 1, as in the authors' code; nothing else clips them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Progress, check_betas, get_matrix, set_apart
from variants.layerwise import layers_of
from variants.lora import LoRA, LoRALayer, factors
from variants.products import disable_autocast
from variants.residual import check_directions

EPSILON = 1e-6
LARGEST = 1.0  # root mean square of a gradient, and norm of all


class LoRARITELayer(LoRALayer):
    """LoRA's layer with the moments of both factors, and the bases that they were taken in.

    For A (and likewise for B): mean_A [d_in, r], square_A [r, r], and basis_A [d_in, r] of A^T.
    """

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, rank, scale, dropout)
        for name, factor in (("A", self.A.T), ("B", self.B)):
            for part in ("mean", "basis"):
                self.register_buffer(f"{part}_{name}", factor.detach().new_zeros(factor.shape))
            self.register_buffer(f"square_{name}", factor.detach().new_zeros(rank, rank))


@dataclass
class Side:
    """One factor in a step, as [d, r], and the decomposition U R of the other one."""

    name: str
    gradient: Tensor  # without the other's length
    U: Tensor
    R: Tensor
    turn: Tensor  # from the basis of the last step to this one


def sides(layer: LoRARITELayer) -> list[Side]:
    """Both factors of a layer; its bases become those of this step."""
    assert layer.A.grad is not None and layer.B.grad is not None
    found = []
    for name, grad, other, old in (
        ("A", layer.A.grad.T, layer.B, layer.basis_B),
        ("B", layer.B.grad, layer.A.T, layer.basis_A),
    ):
        assert isinstance(old, Tensor)
        U, R = torch.linalg.qr(other)
        gradient = grad @ torch.linalg.pinv(R)
        if gradient.square().mean().sqrt() > LARGEST:
            gradient = torch.zeros_like(gradient)
        found.append(Side(name, gradient, U, R, U.T @ old))
        old.copy_(U)
    return found


def step_of(layer: LoRARITELayer, side: Side, beta1: float, beta2: float, shrink: Tensor) -> Tensor:
    """The step [d, r] of one factor, its moments taken on."""
    mean, square = (getattr(layer, f"{part}_{side.name}") for part in ("mean", "square"))
    gradient, turn = side.gradient * shrink, side.turn
    now = gradient.T @ gradient / len(gradient)
    square.copy_(beta2 * turn @ square @ turn.T + (1 - beta2) * now)
    values, vectors = torch.linalg.eigh(square)
    root = vectors / (values.clamp_min(0).sqrt() + EPSILON) @ vectors.T
    mean.copy_(beta1 * mean @ turn.T + (1 - beta1) * gradient @ root)
    return mean @ torch.linalg.pinv(side.R).T


@dataclass(frozen=True, kw_only=True)
class LoRARITE(LoRA):
    """LoRA under an optimizer that sees the product and not its factors."""

    any_form: ClassVar[bool] = True

    beta1: float  # of the mean
    beta2: float  # of the square

    def __post_init__(self) -> None:
        super().__post_init__()
        check_betas(self.beta1, self.beta2)

    def wrap(self, linear: nn.Module) -> nn.Module:
        check_directions(self.rank, get_matrix(linear))
        return LoRARITELayer(linear, self.rank, self.scale, self.dropout)

    def param_groups(
        self, model: nn.Module, lr: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        groups = super().param_groups(model, lr, weight_decay)
        return set_apart(groups, factors(model), clip=False, plain=True)

    @torch.no_grad()
    def after_backward(self, model: nn.Module, progress: Progress) -> None:
        layers = [
            layer
            for layer in layers_of(model, LoRARITELayer).values()
            if layer.A.grad is not None and layer.B.grad is not None
        ]
        if layers:
            with disable_autocast(layers[0].A.device):
                self.rewrite(layers, progress.step)

    def rewrite(self, layers: list[LoRARITELayer], step: int) -> None:
        """Put steps of A and B in the place of their gradients, after `step` from 1."""
        both = [(layer, sides(layer)) for layer in layers]
        squares = [side.gradient.square().sum() for _, pair in both for side in pair]
        shrink = LARGEST / torch.stack(squares).sum().sqrt().clamp_min(LARGEST)
        # The moments' corrections for their start are part of how much they keep.
        beta1, beta2 = (
            beta * (1 - beta ** (step - 1)) / (1 - beta**step) for beta in (self.beta1, self.beta2)
        )
        for layer, (for_A, for_B) in both:
            layer.A.grad = step_of(layer, for_A, beta1, beta2, shrink).T.contiguous()
            layer.B.grad = step_of(layer, for_B, beta1, beta2, shrink)
