"""MiLoRA: LoRA on the minor singular directions of W0.  Wang et al., 2024, arXiv:2406.09044.

A and B start as the r smallest singular triplets of W0, so that the principal part stays frozen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from variants.base import at_least_float32
from variants.residual import ResidualLayer, ResidualLoRA, check_directions

RANK_DEFICIENT = 1e-6  # smallest over largest singular value


@dataclass(frozen=True, kw_only=True)
class MiLoRA(ResidualLoRA):
    """LoRA that starts from the minor part of each weight instead of from zero."""

    def start_of(self, layer: ResidualLayer) -> tuple[Tensor, Tensor]:
        check_directions(self.rank, layer.W0)
        U, S, Vh = torch.linalg.svd(at_least_float32(layer.W0), full_matrices=False)
        if S[-1] < RANK_DEFICIENT * S[0]:
            # A and B would both be zero there, and so would both gradients, for ever.
            raise ValueError(
                f"milora cannot train the zero singular values of a {len(U)} x {Vh.shape[1]} "
                f"weight: its smallest is {float(S[-1]):.1e} and its largest {float(S[0]):.1e}."
            )
        root = (S[-self.rank :] / self.scale).sqrt()
        return root[:, None] * Vh[-self.rank :], U[:, -self.rank :] * root
