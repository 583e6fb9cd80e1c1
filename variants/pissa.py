"""PiSSA: LoRA on the principal singular directions of W0.  Meng et al., 2024, arXiv:2404.02948.

A and B start as the r largest singular triplets of W0, and what is left of W0 stays frozen.
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


@dataclass(frozen=True, kw_only=True)
class PiSSA(ResidualLoRA):
    """LoRA that starts from the principal part of each weight instead of from zero."""

    any_form: ClassVar[bool] = True

    def start_of(self, layer: ResidualLayer) -> tuple[Tensor, Tensor]:
        check_directions(self.rank, layer.W0)
        U, S, Vh = torch.linalg.svd(at_least_float32(layer.W0), full_matrices=False)
        check_singular_values(S, S[: self.rank])
        root = (S[: self.rank] / self.scale).sqrt()
        return root[:, None] * Vh[: self.rank], U[:, : self.rank] * root
