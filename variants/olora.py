"""OLoRA: LoRA that starts from a QR decomposition of W0.  Büyükakyüz, 2024, arXiv:2406.01775.

B_0 = Q[:, :r] is orthonormal and A_0 = R[:r] upper trapezoidal, as in PEFT's code by the author.
Neither is divided by s, so the base loses s B_0 A_0. There is no pivoting: B_0 A_0 is W0 in its
first r columns, and the order of the input features matters.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from variants.base import at_least_float32
from variants.residual import ResidualLayer, ResidualLoRA, check_directions


@dataclass(frozen=True, kw_only=True)
class OLoRA(ResidualLoRA):
    """LoRA whose B starts as an orthonormal basis of the first r columns of each weight."""

    any_form: ClassVar[bool] = True

    def start_of(self, layer: ResidualLayer) -> tuple[Tensor, Tensor]:
        check_directions(self.rank, layer.W0)
        Q, R = torch.linalg.qr(at_least_float32(layer.W0))
        return R[: self.rank], Q[:, : self.rank]
