"""MiLoRA: LoRA on the minor singular directions of W0.  Wang et al., 2024, arXiv:2406.09044.

A and B start as the r smallest singular triplets of W0, so that the principal part stays frozen.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from variants.base import at_least_float32
from variants.residual import (
    ResidualLayer,
    ResidualLoRA,
    check_directions,
    check_singular_values,
)

RANK_DEFICIENT = 1e-6  # smallest over largest singular value


@dataclass(frozen=True, kw_only=True)
class MiLoRA(ResidualLoRA):
    """LoRA that starts from the minor part of each weight instead of from zero."""

    any_form: ClassVar[bool] = True

    def start_of(self, layer: ResidualLayer) -> tuple[Tensor, Tensor]:
        check_directions(self.rank, layer.W0)
        U, S, Vh = torch.linalg.svd(at_least_float32(layer.W0), full_matrices=False)
        check_singular_values(S, S[-self.rank :], RANK_DEFICIENT)
        root = (S[-self.rank :] / self.scale).sqrt()
        return root[:, None] * Vh[-self.rank :], U[:, -self.rank :] * root
