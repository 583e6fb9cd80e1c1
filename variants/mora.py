"""MoRA: one trained square matrix between a fixed compression and its reverse.

Jiang et al., 2024, arXiv:2405.12130; W = W0 + D M C, without a scale. M [k, k] has about as many
numbers as a LoRA of rank r. `sharing` (the authors' type 1) sums the inputs in blocks of k and
gives all blocks of outputs the same; `rope` (type 6) multiplies every block of inputs, turned by
its place, by M.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import at_least_float32, check_adapter
from variants.layerwise import BranchLayer, Layerwise

FORMS = ("rope", "sharing")


class MoRALayer(BranchLayer):
    """y = W0 x + D M C dropout(x), with M [k, k]; where k does not fit, both sides go round."""

    def __init__(self, base: nn.Module, rank: int, rope: bool, dropout: float) -> None:
        super().__init__(base, dropout)
        side = int((sum(self.W0.shape) * rank) ** 0.5 + 0.5)
        side -= side % 2 if rope else 0
        self.M = nn.Parameter(at_least_float32(self.W0).new_zeros(side, side))
        self.rope = rope

    def branch(self, x: Tensor) -> Tensor:
        """D M C x for x [..., d_in]."""
        d_out, d_in = self.W0.shape
        side = len(self.M)
        blocks = round_about(x, -(-d_in // side) * side).unflatten(-1, (-1, side))
        blocks = self.by_place(blocks) if self.rope else blocks.sum(dim=-2, keepdim=True)
        return round_about(F.linear(blocks, self.M.to(x.dtype)).flatten(-2), d_out)

    def by_place(self, blocks: Tensor) -> Tensor:
        """Blocks [..., n, k], block p turned by p 10000^(-2 i / k) in the plane of i, i + k/2."""
        n, side = blocks.shape[-2:]
        like = at_least_float32(self.M)
        place = torch.arange(n, dtype=like.dtype, device=like.device)
        rate = torch.arange(0, side, 2, dtype=like.dtype, device=like.device) / side
        angles = place[:, None] * 10000.0**-rate
        cos, sin = angles.cos().to(blocks.dtype), angles.sin().to(blocks.dtype)
        first, second = blocks.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def round_about(x: Tensor, size: int) -> Tensor:
    """x [..., d] cut to `size`, or begun again from the start as often as that takes."""
    whole, rest = divmod(size, x.shape[-1])
    return torch.cat((x,) * whole + (x[..., :rest],), dim=-1) if whole else x[..., :size]


@dataclass(frozen=True, kw_only=True)
class MoRA(Layerwise):
    """As many numbers as LoRA in one square matrix, and so a change of higher rank."""

    sized_by_rank: ClassVar[bool] = True
    any_form: ClassVar[bool] = True

    rank: int  # r of the LoRA that has as many parameters
    form: str  # rope or sharing
    dropout: float  # probability, on the input of the update only

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout)
        if self.form not in FORMS:
            raise ValueError(f"form must be {' or '.join(FORMS)}, got '{self.form}'.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        return MoRALayer(linear, self.rank, self.form == "rope", self.dropout)
