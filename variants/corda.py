"""CorDA: LoRA from singular triplets of W0 as the inputs of data see it.

Yang et al., 2024, arXiv:2406.05223. C is the sum of x x^T over a layer's inputs; W0 C = U S V^T, so
that W0 = U S V^T C^-1. `ipm` trains the r largest triplets, for what is to be learned from such
data; `kpm` the r smallest, to keep what the model knows of them. C is damped by 0.01 of its mean
diagonal, as in the authors' code, and inverted in float64. Their code divides every batch by its
largest input; here every token counts alike, and the mean diagonal is 1: a factor of C leaves the
product B_0 A_0 as it is, and not how A_0 and B_0 share its size, on which steps depend.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.activations import check_inputs, input_moments
from variants.base import Probe
from variants.layerwise import layers_of
from variants.residual import ResidualLayer, ResidualLoRA, check_directions

DAMPING = 0.01


@dataclass(frozen=True, kw_only=True)
class CorDA(ResidualLoRA):
    """LoRA that starts from the part of each weight that matters most, or least, to data."""

    any_form: ClassVar[bool] = True

    mode: str  # ipm: largest triplets, kpm: smallest
    share: float  # of the train split, stratified, whose inputs are looked at

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("ipm", "kpm"):
            raise ValueError(f"mode must be ipm or kpm, got '{self.mode}'.")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}.")

    def start_of(self, layer: ResidualLayer) -> tuple[Tensor, Tensor]:
        check_inputs(layer)
        check_directions(self.rank, layer.W0)
        return super().start_of(layer)  # that of LoRA, until `prepare` has seen data

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        layers = layers_of(model, ResidualLayer)
        moments = input_moments(model, layers, probe.batches(self.share))
        for name, layer in layers.items():
            C = moments[name].second
            if not C.diagonal().sum() > 0:
                raise ValueError(f"All inputs of {name} are zero; leave it out of the targets.")
            layer.begin_with(*self.oriented(layer.W0, C))

    @torch.no_grad()
    def oriented(self, W0: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        """A_0 [r, d_in] and B_0 [d_out, r] for inputs with these second moments C [d_in, d_in]."""
        C = C / C.diagonal().mean()
        C = C + DAMPING * torch.eye(len(C), dtype=C.dtype, device=C.device)
        U, S, Vh = torch.linalg.svd(W0.double() @ C, full_matrices=False)
        chosen = slice(self.rank) if self.mode == "ipm" else slice(len(S) - self.rank, len(S))
        root = (S[chosen] / self.scale).sqrt()
        # Vh C^-1, C being symmetric.
        V = torch.linalg.solve(C, Vh[chosen].T).T
        return root[:, None] * V, U[:, chosen] * root
