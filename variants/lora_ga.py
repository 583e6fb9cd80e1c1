"""LoRA-GA: LoRA that starts from the gradient of W0.  Wang et al., 2024, arXiv:2407.05000.

With G = U S V^T the mean gradient at W0 and c = d_out^(1/4) / sqrt(gamma), A_0 takes r right
singular vectors and B_0 r other left ones, all of length c, and the base loses s B_0 A_0: the first
step of gradient descent goes along the best approximation of G of rank 2 r. s = alpha / sqrt(r).
PEFT's form has the singular values in B_0, and lengths of 1 in A_0. Dropout is off in the probe.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Probe
from variants.layerwise import layers_of
from variants.residual import ResidualLayer, ResidualLoRA, check_directions, check_probe


def choose_triplets(direction: str, rank: int) -> tuple[list[int], list[int]]:
    """Return which of the first 2 r triplets A takes, and which B."""
    first, second = list(range(rank)), list(range(rank, 2 * rank))
    odd, even = list(range(1, 2 * rank, 2)), list(range(0, 2 * rank, 2))
    return {"ArB2r": (first, second), "A2rBr": (second, first), "ArBr": (odd, even)}[direction]


DIRECTIONS = ("ArB2r", "A2rBr", "ArBr")


@dataclass(frozen=True, kw_only=True)
class LoRAGA(ResidualLoRA):
    """LoRA whose factors start in the directions of the first gradient."""

    any_form: ClassVar[bool] = True

    rows: int  # labelled examples that G is the mean over
    head_steps: int  # steps that train only the task head before; 0: G comes through a random head
    gamma: float  # the smaller, the larger the start
    direction: str  # which triplets A and B take

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in DIRECTIONS:
            raise ValueError(
                f"direction must be one of {', '.join(DIRECTIONS)}, got '{self.direction}'."
            )
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma must be positive, got {self.gamma}.")
        check_probe(self.rows, self.head_steps)

    def start_of(self, layer: ResidualLayer) -> tuple[Tensor, Tensor]:
        check_directions(self.rank, layer.W0, needed=2)
        return super().start_of(layer)  # that of LoRA, until `prepare` has the gradient

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        gradients = probe.gradients(self.rows, self.head_steps)
        for name, layer in layers_of(model, ResidualLayer).items():
            layer.begin_with(*self.along(gradients[name]))

    def along(self, G: Tensor) -> tuple[Tensor, Tensor]:
        """A_0 [r, d_in] and B_0 [d_out, r] for a gradient G [d_out, d_in]."""
        U, _, Vh = torch.linalg.svd(G, full_matrices=False)
        for_A, for_B = choose_triplets(self.direction, self.rank)
        c = len(G) ** 0.25 / self.gamma**0.5
        return c * Vh[for_A], c * U[:, for_B]
