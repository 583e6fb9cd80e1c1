"""GraLoRA: a LoRA for each block of a grid over the weight.  Jung et al., 2025, arXiv:2505.20355.

The formula is that of the authors' code, which PEFT has from them. A weight of k x k blocks has a
pair of rank r / k in each: as many numbers as a LoRA of rank r, and k times the rank. s = alpha/r.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import (
    Foreign,
    Variant,
    at_least_float32,
    check_adapter,
)
from variants.layerwise import BranchLayer, Layerwise, check_fields, exportable, tensors_of
from variants.peft_forms import state

NAMES = {"A": "gralora_A", "B": "gralora_B"}


class GraLoRALayer(BranchLayer):
    """y = W0 x + s times the products of all blocks, with A [k, d_in / k, r], B [k, r, d_out / k].

    Of the r columns of A[i], that of the inputs i, the j-th r / k are for the outputs j, and of the
    rows of B[j] the i-th r / k for the inputs i.
    """

    def __init__(self, base: nn.Module, rank: int, k: int, scale: float, dropout: float) -> None:
        super().__init__(base, dropout)
        d_out, d_in = self.W0.shape
        if d_out % k or d_in % k:
            raise ValueError(f"k must divide both sides of a {d_out} x {d_in} weight, got {k}.")
        like = at_least_float32(self.W0)
        self.A = nn.Parameter(like.new_empty(k, d_in // k, rank))
        self.B = nn.Parameter(like.new_zeros(k, rank, d_out // k))
        nn.init.uniform_(self.A, -((k / d_in) ** 0.5), (k / d_in) ** 0.5)
        self.scale = scale

    def branch(self, x: Tensor) -> Tensor:
        """s times the product of every block for x [..., d_in]."""
        k, d_in, _ = self.A.shape
        inner = torch.bmm(x.reshape(-1, k, d_in).transpose(0, 1), self.A.to(x.dtype))
        # From inputs i, for outputs j, to outputs j, from inputs i.
        given = inner.unflatten(-1, (k, -1)).permute(2, 1, 0, 3).flatten(2)
        found = torch.bmm(given, (self.scale * self.B).to(x.dtype))
        return found.transpose(0, 1).reshape(*x.shape[:-1], -1)


@dataclass(frozen=True, kw_only=True)
class GraLoRA(Layerwise):
    """LoRA by blocks, so that one part of the inputs does not disturb all outputs."""

    sized_by_rank: ClassVar[bool] = True
    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset(
        {"alpha", "gralora_dropout", "gralora_k", "hybrid_r"}
    )

    rank: int  # r, in k parts
    alpha: float  # s = alpha / r
    k: int  # blocks along each side
    dropout: float  # probability, on the input of the update only

    @property
    def rank_step(self) -> int:
        """Every block has the same share of the rank."""
        return self.k

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout, self.alpha)
        if self.k < 1 or self.rank % self.k:
            raise ValueError(f"k must divide rank={self.rank}, got {self.k}.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        return GraLoRALayer(linear, self.rank, self.k, self.alpha / self.rank, self.dropout)

    def to_peft(self, model: nn.Module) -> Foreign:
        return Foreign(
            library="peft",
            config={
                "peft_type": "GRALORA",
                "r": self.rank,
                "alpha": self.alpha,
                "gralora_k": self.k,
                "gralora_dropout": self.dropout,
                "hybrid_r": 0,
            },
            layers=tensors_of(exportable(model, GraLoRALayer), NAMES),
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "GRALORA":
            return None
        check_fields(form, {"hybrid_r": 0})
        variant = GraLoRA(
            lr=0.0,
            rank=config["r"],
            alpha=float(config["alpha"]),
            k=config.get("gralora_k", 2),
            dropout=float(config.get("gralora_dropout", 0.0)),
            targets=list(form.layers),
        )
        return variant, state(form, NAMES)
