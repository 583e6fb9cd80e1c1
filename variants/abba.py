"""ABBA: W = W0 + s (B1 A1) * (B2 A2), both pairs trained, one from W0.

Singhal et al., 2025, arXiv:2505.14238. B1 A1 starts as the best approximation of W0 of rank r1, A2
Kaiming-uniform and B2 at zero. s is alpha itself. The product entry by entry is one of rank r1 r2,
of rows that are all products of an entry of A1 and one of A2, so no matrix is made for it.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Foreign, at_least_float32, check_adapter
from variants.layerwise import Layerwise, ProductLayer, as_lora, exportable
from variants.residual import check_directions


class ABBALayer(ProductLayer):
    """The update s (B1 A1) * (B2 A2), with A1 [r1, d_in], B1 [d_out, r1], A2 [r2, d_in] and B2."""

    def __init__(self, base: nn.Module, rank1: int, rank2: int, scale: float) -> None:
        super().__init__(base)
        check_directions(rank1, self.W0)
        U, S, Vh = torch.linalg.svd(at_least_float32(self.W0.detach()), full_matrices=False)
        root = S[:rank1].sqrt()
        self.A1 = nn.Parameter(root[:, None] * Vh[:rank1])
        self.B1 = nn.Parameter(U[:, :rank1] * root)
        self.A2 = nn.Parameter(U.new_empty(rank2, Vh.shape[1]))
        self.B2 = nn.Parameter(U.new_zeros(len(U), rank2))
        nn.init.kaiming_uniform_(self.A2)
        self.scale = scale

    def product(self) -> tuple[Tensor, Tensor, float]:
        A = (self.A1[:, None] * self.A2).flatten(0, 1)
        B = (self.B1[:, :, None] * self.B2[:, None]).flatten(1)
        return A, B, self.scale


@dataclass(frozen=True, kw_only=True)
class ABBA(Layerwise):
    """A change of rank r1 r2 that begins with the shape of W0."""

    any_form: ClassVar[bool] = True

    rank1: int  # r1, of the pair that starts as W0
    rank2: int  # r2
    alpha: float  # s

    def __post_init__(self) -> None:
        check_adapter(min(self.rank1, self.rank2), dropout=0.0, alpha=self.alpha)

    def wrap(self, linear: nn.Module) -> nn.Module:
        return ABBALayer(linear, self.rank1, self.rank2, self.alpha)

    def to_peft(self, model: nn.Module) -> Foreign:
        """A plain LoRA of rank r1 r2."""
        factors = {n: layer.product()[:2] for n, layer in exportable(model, ABBALayer).items()}
        rank = self.rank1 * self.rank2
        return as_lora(factors, rank, self.alpha * rank, dropout=0.0)
