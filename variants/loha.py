"""LoHa: W = W0 + s (B1 A1) * (B2 A2), the product of two low-rank matrices entry by entry.

Hyeon-Woo et al., 2021, arXiv:2108.06098 (FedPara); Yeh et al., 2023, arXiv:2309.14859 (LyCORIS).
The rank of the change is up to r^2. A2 starts at zero and the rest Kaiming-uniform, as in PEFT;
LyCORIS draws from normal distributions, and its merging applies s twice.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn as nn
from torch import Tensor

from variants.base import Foreign, Variant, at_least_float32, check_adapter
from variants.layerwise import DenseLayer, Layerwise, check_fields, exportable, tensors_of
from variants.peft_forms import state

NAMES = {"B1": "hada_w1_a", "A1": "hada_w1_b", "B2": "hada_w2_a", "A2": "hada_w2_b"}
DROPPED = {"rank_dropout": 0.0, "module_dropout": 0.0, "rank_pattern": {}, "alpha_pattern": {}}


class LoHaLayer(DenseLayer):
    """The update s (B1 A1) * (B2 A2), with A1, A2 [r, d_in] and B1, B2 [d_out, r]."""

    def __init__(self, base: nn.Module, rank: int, scale: float) -> None:
        super().__init__(base)
        d_out, d_in = self.W0.shape
        like = at_least_float32(self.W0)
        self.A1 = nn.Parameter(like.new_empty(rank, d_in))
        self.B1 = nn.Parameter(like.new_empty(d_out, rank))
        self.A2 = nn.Parameter(like.new_zeros(rank, d_in))
        self.B2 = nn.Parameter(like.new_empty(d_out, rank))
        for factor in (self.B1, self.A1, self.B2):
            nn.init.kaiming_uniform_(factor, a=5**0.5)
        self.scale = scale

    def delta(self) -> Tensor:
        return (self.scale * self.B1 @ self.A1) * (self.B2 @ self.A2)


@dataclass(frozen=True, kw_only=True)
class LoHa(Layerwise):
    """A change of rank r^2 from four factors of rank r."""

    sized_by_rank: ClassVar[bool] = True
    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset({"alpha", *DROPPED})

    rank: int  # r
    alpha: float  # s = alpha / r

    def __post_init__(self) -> None:
        check_adapter(self.rank, 0.0, self.alpha)

    def wrap(self, linear: nn.Module) -> nn.Module:
        return LoHaLayer(linear, self.rank, self.alpha / self.rank)

    def to_peft(self, model: nn.Module) -> Foreign:
        return Foreign(
            library="peft",
            config={"peft_type": "LOHA", "r": self.rank, "alpha": self.alpha},
            layers=tensors_of(exportable(model, LoHaLayer), NAMES),
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "LOHA":
            return None
        check_fields(form, DROPPED)
        alpha, targets = float(config["alpha"]), list(form.layers)
        return LoHa(lr=0.0, rank=config["r"], alpha=alpha, targets=targets), state(form, NAMES)
