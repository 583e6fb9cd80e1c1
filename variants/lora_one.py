"""LoRA-One: LoRA that starts a step along the gradient.  Zhang et al., 2025, arXiv:2502.01235.

With G the mean gradient at W0 and U S V^T the triplets of -G, B_0 = U sqrt(S / (S_1 gamma)) and
A_0 = sqrt(S / (S_1 gamma)) V^T, and the base stays: so the model does not start as the pretrained
one, but at W0 + (s / gamma) (-G)_r / S_1. s = alpha / sqrt(r). As in the released code, without the
paper's preconditioner.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Probe
from variants.layerwise import layers_of
from variants.lora import LoRA, LoRALayer
from variants.residual import check_directions, check_probe


@dataclass(frozen=True, kw_only=True)
class LoRAOne(LoRA):
    """LoRA whose product starts as a part of one normalised step of gradient descent."""

    any_form: ClassVar[bool] = True
    starts_as_pretrained: ClassVar[bool] = False

    rows: int  # labelled examples that G is the mean over
    head_steps: int  # steps that train only the task head before; 0: G comes through a random head
    gamma: float  # the smaller, the larger the start

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.gamma < math.inf:
            raise ValueError(f"gamma must be positive, got {self.gamma}.")
        check_probe(self.rows, self.head_steps)

    def wrap(self, linear: nn.Module) -> nn.Module:
        layer = super().wrap(linear)
        assert isinstance(layer, LoRALayer)
        check_directions(self.rank, layer.W0)
        return layer

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        gradients = probe.gradients(self.rows, self.head_steps)
        with torch.no_grad():
            for name, layer in layers_of(model, LoRALayer).items():
                A, B = self.along(-gradients[name])
                layer.A.copy_(A)
                layer.B.copy_(B)

    def along(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """A_0 [r, d_in] and B_0 [d_out, r] for a step of W, -G [d_out, d_in]."""
        U, S, Vh = torch.linalg.svd(step, full_matrices=False)
        if not S[0] > 0:
            raise ValueError("The gradient of a weight is zero, so there is no step to start with.")
        root = (S[: self.rank] / (S[0] * self.gamma)).sqrt()
        return root[:, None] * Vh[: self.rank], U[:, : self.rank] * root
