"""HRA: W = W0 H_1 ... H_r, a chain of reflections.  Yuan et al., 2024, arXiv:2405.17484.

H_i = I - 2 u_i u_i^T / ||u_i||^2; at the start pairs of equal vectors cancel. With unit columns U
and T = (I / 2 + the strict upper part of U^T U)^-1 the whole chain is I - U T U^T, so that the
change of W0 is a product of rank r: -(W0 U) T U^T.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import Foreign, Variant, at_least_float32
from variants.layerwise import (
    Layerwise,
    ProductLayer,
    check_fields,
    exportable,
    layers_of,
    tensors_of,
)
from variants.peft_forms import state
from variants.products import disable_autocast

NAMES = {"U": "hra_u"}


class HRALayer(ProductLayer):
    """y = W0 H_1 ... H_r x, with the columns of U [d_in, r] as u_1 to u_r."""

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__(base)
        half = at_least_float32(self.W0).new_empty(rank // 2, self.W0.shape[1])
        nn.init.kaiming_uniform_(half, a=5**0.5)
        self.U = nn.Parameter(half.repeat_interleave(2, dim=0).T.contiguous())

    def product(self) -> tuple[Tensor, Tensor, float]:
        self.check_readable()
        U = F.normalize(self.U, dim=0)
        rank = U.shape[1]
        # Its inverse is T: half the identity, and above it the cosines of each two vectors.
        inverse = (U.T @ U).triu(1) + torch.eye(rank, dtype=U.dtype, device=U.device) / 2
        product = at_least_float32(self.W0) @ U
        return U.T, torch.linalg.solve_triangular(inverse, product, upper=True, left=False), -1.0


@dataclass(frozen=True, kw_only=True)
class HRA(Layerwise):
    """Reflections that keep every length and angle between the rows of W0."""

    sized_by_rank: ClassVar[bool] = True
    any_form: ClassVar[bool] = True
    rank_step: ClassVar[int] = 2
    foreign_fields: ClassVar[frozenset[str]] = frozenset({"apply_GS"})

    rank: int  # r, reflections; even
    gamma: float  # weight of the penalty that keeps the vectors apart

    def __post_init__(self) -> None:
        if self.rank < 2 or self.rank % 2:
            raise ValueError(f"rank must be even, so that all cancel in pairs, got {self.rank}.")

        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma must not be negative, got {self.gamma}.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        return HRALayer(linear, self.rank)

    def penalty(self, model: nn.Module) -> Tensor | float:
        """gamma times the sum of ||I - U^T U||^2 over all layers."""
        if not self.gamma:
            return 0.0
        layers = list(layers_of(model, HRALayer).values())
        identity = torch.eye(self.rank, dtype=layers[0].U.dtype, device=layers[0].U.device)
        with disable_autocast(identity.device):  # autocast would round what should be the identity
            grams = torch.stack([layer.U.T @ layer.U for layer in layers])
        return self.gamma * (grams - identity).square().sum()

    def list_idle_hooks(self) -> set[str]:
        return set() if self.gamma else {"penalty"}

    def to_peft(self, model: nn.Module) -> Foreign:
        return Foreign(
            library="peft",
            config={"peft_type": "HRA", "r": self.rank, "apply_GS": False},
            layers=tensors_of(exportable(model, HRALayer), NAMES),
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        if form.config.get("peft_type") != "HRA":
            return None
        check_fields(form, {"apply_GS": False, "rank_pattern": {}})
        targets = list(form.layers)
        return HRA(lr=0.0, rank=form.config["r"], gamma=0.0, targets=targets), state(form, NAMES)
