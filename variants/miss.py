"""MiSS: W = W0 + a matrix whose columns repeat.  Kang et al., 2024, arXiv:2409.15371.

Column t of the change is row t mod r of D, so an input is cut into blocks of r, the blocks are
summed, and D^T is applied: half of LoRA's numbers on a square matrix.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import (
    AdapterLayer,
    Foreign,
    Variant,
    at_least_float32,
    check_adapter,
    mark_additive,
)
from variants.layerwise import Layerwise, check_fields, exportable, tensors_of
from variants.peft_forms import state

NAMES = {"D": "miss_block"}


class MiSSLayer(AdapterLayer):
    """y = W0 x + D^T fold(dropout(x)), with D [r, d_out]; fold sums blocks of r inputs."""

    def __init__(self, base: nn.Module, rank: int, dropout: float) -> None:
        super().__init__(base)
        d_out, d_in = self.W0.shape
        if rank > d_in:
            raise ValueError(f"rank must be at most {d_in}, the inputs of a layer, got {rank}.")
        self.D = nn.Parameter(at_least_float32(self.W0).new_zeros(rank, d_out))
        self.dropout = nn.Dropout(dropout)

    def fold(self) -> Tensor:
        """The matrix [r, d_in] that sums blocks: an identity, again and again."""
        rank, d_in = len(self.D), self.W0.shape[1]
        identity = torch.eye(rank, dtype=self.D.dtype, device=self.D.device)
        return identity.repeat(1, -(-d_in // rank))[:, :d_in]

    def merged_weight(self) -> Tensor:
        return at_least_float32(self.W0) + self.D.T @ self.fold()

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        return self.fold(), self.D.T, 1.0

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        rank = len(self.D)
        blocks = F.pad(self.dropout(x), (0, -x.shape[-1] % rank)).unflatten(-1, (-1, rank))
        return y + F.linear(blocks.sum(dim=-2), self.D.T.to(x.dtype))


@dataclass(frozen=True, kw_only=True)
class MiSS(Layerwise):
    """One matrix of r rows, shared by all blocks of r inputs."""

    sized_by_rank: ClassVar[bool] = True
    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset({"miss_dropout", "mini_r"})

    rank: int  # r
    dropout: float  # probability, on the input of the update only

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout)

    def wrap(self, linear: nn.Module) -> nn.Module:
        return MiSSLayer(linear, self.rank, self.dropout)

    def to_peft(self, model: nn.Module) -> Foreign:
        return Foreign(
            library="peft",
            config={"peft_type": "MISS", "r": self.rank, "miss_dropout": self.dropout},
            layers=tensors_of(exportable(model, MiSSLayer), NAMES),
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "MISS":
            return None
        # The other forms, "bat" and "mini", are other functions of a block.
        check_fields(form, {"init_weights": True})
        dropout = float(config.get("miss_dropout", 0.0))
        variant = MiSS(lr=0.0, rank=config["r"], dropout=dropout, targets=list(form.layers))
        return variant, state(form, NAMES)
