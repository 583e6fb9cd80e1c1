"""HiRA: W = W0 * (1 + B A), entry by entry.  Huang et al., 2025 (ICLR).

The change W0 * (B A) has a rank of up to r times that of W0, from r (d_in + d_out) numbers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn as nn
from torch import Tensor

from variants.base import Foreign, Variant, at_least_float32, check_adapter
from variants.layerwise import DenseLayer, Layerwise, check_fields, exportable, tensors_of
from variants.peft_forms import state

NAMES = {"A": "hira_A", "B": "hira_B"}


class HiRALayer(DenseLayer):
    """y = W0 x + (W0 * (B A)) dropout(x), with A [r, d_in] and B [d_out, r]."""

    def __init__(self, base: nn.Module, rank: int, dropout: float) -> None:
        super().__init__(base, dropout)
        d_out, d_in = self.W0.shape
        like = at_least_float32(self.W0)
        self.A = nn.Parameter(like.new_empty(rank, d_in))
        self.B = nn.Parameter(like.new_zeros(d_out, rank))
        nn.init.kaiming_uniform_(self.A, a=5**0.5)

    def delta(self) -> Tensor:
        self.check_readable()
        return at_least_float32(self.W0) * (self.B @ self.A)


@dataclass(frozen=True, kw_only=True)
class HiRA(Layerwise):
    """A rank-r factor of each weight instead of a term beside it."""

    sized_by_rank: ClassVar[bool] = True
    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset({"hira_dropout"})

    rank: int  # r
    dropout: float  # probability, on the input of the change only

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout)

    def wrap(self, linear: nn.Module) -> nn.Module:
        return HiRALayer(linear, self.rank, self.dropout)

    def to_peft(self, model: nn.Module) -> Foreign:
        return Foreign(
            library="peft",
            config={"peft_type": "HIRA", "r": self.rank, "hira_dropout": self.dropout},
            layers=tensors_of(exportable(model, HiRALayer), NAMES),
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "HIRA":
            return None
        check_fields(form, {"rank_pattern": {}})
        dropout = float(config.get("hira_dropout", 0.0))
        variant = HiRA(lr=0.0, rank=config["r"], dropout=dropout, targets=list(form.layers))
        return variant, state(form, NAMES)
