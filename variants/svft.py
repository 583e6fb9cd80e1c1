"""SVFT: W = W0 + U M V^T on all singular vectors of W0, with a sparse M.

Lingam et al., 2024, arXiv:2405.19597. M has its diagonal (plain), and with `off_diagonals` as many
diagonals on each side (banded). M starts at zero, so that the model is the pretrained one; the
release draws it, behind a gate.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import get_matrix
from variants.layerwise import DenseLayer
from variants.spectral import BasisLayer, OnBasis, signed_svd


class SVFTLayer(BasisLayer, DenseLayer):
    """The update B M A with B = U [d_out, k], A = V^T [k, d_in] and `m`, M's entries by diagonal.

    Diagonal i of M lies in the first k - |i| entries of row i + d of m [2 d + 1, k].
    """

    def __init__(self, base: nn.Module, A: Tensor, B: Tensor, off_diagonals: int) -> None:
        super().__init__(base, A, B)
        k = len(A)
        if off_diagonals >= k:
            raise ValueError(
                f"off_diagonals must be below {k}, the side of M, got {off_diagonals}."
            )
        count = k * (2 * off_diagonals + 1) - off_diagonals * (off_diagonals + 1)
        self.m = nn.Parameter(A.new_zeros(count))
        self.off_diagonals = off_diagonals

    def diagonals(self) -> dict[int, Tensor]:
        """The entries of M by the number of their diagonal."""
        k, d = len(self.A), self.off_diagonals
        numbers = range(-d, d + 1)
        return dict(zip(numbers, self.m.split([k - abs(i) for i in numbers]), strict=True))

    def delta(self) -> Tensor:
        # A diagonal rescales rows of A, moved by its number.
        k, rows = len(self.A), torch.zeros_like(self.A)
        for i, values in self.diagonals().items():
            moved = values[:, None] * self.A[max(i, 0) : k + min(i, 0)]
            rows = rows + nn.functional.pad(moved, (0, 0, max(-i, 0), max(i, 0)))
        return self.B @ rows


@dataclass(frozen=True, kw_only=True)
class SVFT(OnBasis):
    """Weights between the singular directions of W0."""

    any_form: ClassVar[bool] = True

    off_diagonals: int  # d, on each side of the diagonal; 0: plain

    def __post_init__(self) -> None:
        if self.off_diagonals < 0:
            raise ValueError(f"off_diagonals must not be negative, got {self.off_diagonals}.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        U, _, Vh = signed_svd(get_matrix(linear))
        return SVFTLayer(linear, Vh, U, self.off_diagonals)
