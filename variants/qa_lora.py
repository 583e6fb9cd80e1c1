"""QA-LoRA: LoRA on pooled inputs, which merges into the zero points of a quantised base exactly.

Xu et al., 2023, arXiv:2309.14717, Algorithm 1: pooling by sum, as its equations have it.
"""

from copy import deepcopy
from dataclasses import dataclass
from typing import ClassVar, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import (
    AdapterLayer,
    Variant,
    at_least_float32,
    check_adapter,
    mark_additive,
    replace_linears,
)
from variants.quantize import GroupLinear


class QALoRALayer(AdapterLayer):
    """y = W~ x + s B A pool(x), with A [r, groups] and B [d_out, r]; pool sums each group of x."""

    def __init__(self, base: GroupLinear, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base)
        d_out, groups = base.step.shape
        self.A = nn.Parameter(base.step.new_empty(rank, groups))
        self.B = nn.Parameter(base.step.new_zeros(d_out, rank))
        nn.init.xavier_uniform_(self.A)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    @property
    def grouped(self) -> GroupLinear:
        """The base by its own type."""
        return cast(GroupLinear, self.base)

    def merged_weight(self) -> Tensor:
        per_group = self.scale * self.B @ self.A
        return at_least_float32(self.W0) + per_group.repeat_interleave(self.grouped.group, dim=1)

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        pooled = self.dropout(x.unflatten(-1, (-1, self.grouped.group)).sum(dim=-1))
        inner = F.linear(pooled, self.A.to(x.dtype))
        return y + F.linear(inner, self.B.to(x.dtype)) * self.scale

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """The quantised layer with its zero points moved: integers and steps are untouched."""
        merged = deepcopy(self.grouped)
        # Real numbers: rounding the zero points would break the equality.
        merged.low = self.grouped.low + self.scale * self.B @ self.A
        return merged.train(self.training)


@dataclass(frozen=True, kw_only=True)
class QALoRA(Variant):
    """A rank-r update on group sums beside a base of few bits."""

    sized_by_rank: ClassVar[bool] = True
    starts_as_pretrained: ClassVar[bool] = False  # but as the quantised model

    rank: int  # r
    alpha: float  # s = alpha / r
    dropout: float  # probability, on the pooled input
    bits: int  # 2, 3, 4 or 8
    group: int  # inputs that share step and zero point
    targets: list[str]  # names of linear layers, or ends of their dotted names

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout, self.alpha)
        if self.bits not in (2, 3, 4, 8):
            raise ValueError(f"bits must be 2, 3, 4 or 8, got {self.bits}.")
        if self.group < 1:
            raise ValueError(f"group must be at least 1, got {self.group}.")

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        replace_linears(model, self.targets, self.wrap)

    def wrap(self, linear: nn.Linear) -> nn.Module:
        base = GroupLinear(linear, self.bits, self.group)
        return QALoRALayer(base, self.rank, self.alpha / self.rank, self.dropout)
