"""LoRA-XS: W = W0 + s B R A, with frozen singular vectors of W0 and a trained R [r, r].

Bałazy et al., 2024, arXiv:2405.17604. A = diag(S) V^T and B = U are the r largest triplets. R
starts at zero, so that the model is the pretrained one; the authors draw it from N(0, 1e-5^2), and
no gradient of the first step depends on it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn as nn
from torch import Tensor

from variants.base import Foreign, check_adapter, get_matrix
from variants.layerwise import ProductLayer, as_lora, exportable
from variants.residual import check_directions
from variants.spectral import BasisLayer, OnBasis, signed_svd


class LoRAXSLayer(BasisLayer, ProductLayer):
    """y = W0 x + s B R A dropout(x)."""

    def __init__(self, base: nn.Module, A: Tensor, B: Tensor, scale: float, dropout: float) -> None:
        super().__init__(base, A, B)
        self.R = nn.Parameter(A.new_zeros(len(A), len(A)))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    def product(self) -> tuple[Tensor, Tensor, float]:
        return self.A, self.B @ self.R, self.scale


@dataclass(frozen=True, kw_only=True)
class LoRAXS(OnBasis):
    """r^2 numbers for each matrix, whatever its size."""

    any_form: ClassVar[bool] = True

    rank: int  # r
    alpha: float  # s = alpha / r
    dropout: float  # probability, on the input of the update only

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout, self.alpha)

    def wrap(self, linear: nn.Module) -> nn.Module:
        W0 = get_matrix(linear)
        check_directions(self.rank, W0)
        U, S, Vh = signed_svd(W0)
        A = S[: self.rank, None] * Vh[: self.rank]
        return LoRAXSLayer(linear, A, U[:, : self.rank], self.alpha / self.rank, self.dropout)

    def to_peft(self, model: nn.Module) -> Foreign:
        """A plain LoRA with B R in the place of B."""
        factors = {
            name: (layer.A, layer.B @ layer.R)
            for name, layer in exportable(model, LoRAXSLayer).items()
        }
        return as_lora(factors, self.rank, self.alpha, self.dropout)
