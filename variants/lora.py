"""LoRA: W = W0 + s B A, s = alpha / r.  Hu et al., 2021, arXiv:2106.09685, Sec. 4.1, Eq. (3).

With `rslora`, s = alpha / sqrt(r).  Kalajdzievski, 2023, arXiv:2312.03732.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import (
    AdapterLayer,
    Foreign,
    Variant,
    adapter_layers,
    at_least_float32,
    check_adapter,
    find_exportable_layers,
    mark_additive,
    replace_linears,
)
from variants.peft_forms import FACTORS, even, low_rank_settings, state
from variants.products import side_product


class LoRALayer(AdapterLayer):
    """y = W0 x + s B A dropout(x), with A [r, d_in] and B [d_out, r]."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base)
        d_out, d_in = self.W0.shape
        like = at_least_float32(self.W0)
        self.A = nn.Parameter(like.new_empty(rank, d_in))
        self.B = nn.Parameter(like.new_zeros(d_out, rank))
        self.draw_A()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)

    @torch.no_grad()
    def draw_A(self) -> None:
        """U(-1/sqrt(d_in), 1/sqrt(d_in)) as in the authors' code; the paper only says Gaussian.

        Of an embedding, whose input is a single one, U(-1, 1): A x is as large as elsewhere.
        """
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        if self.fan_in != self.A.shape[1]:
            self.A.mul_((self.A.shape[1] / self.fan_in) ** 0.5)

    def merged_weight(self) -> Tensor:
        return at_least_float32(self.W0) + self.scale * self.B @ self.A

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        return self.A, self.B, self.scale

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.branch(self.dropout(x))

    def branch(self, x: Tensor) -> Tensor:
        """s B A x, without a d_out x d_in product."""
        return side_product(x, self.A.to(x.dtype), self.B.to(x.dtype), self.scale)


@dataclass(frozen=True, kw_only=True)
class LoRA(Variant):
    """A rank-r update beside each target layer."""

    sized_by_rank: ClassVar[bool] = True
    any_form: ClassVar[bool] = True

    rank: int  # r
    alpha: float  # s = alpha / r
    dropout: float  # probability, on the input of the update only
    rslora: bool  # s = alpha / sqrt(r) instead
    targets: list[str]  # names of linear layers, or ends of their dotted names

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout, self.alpha)

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        replace_linears(model, self.targets, self.wrap)

    def wrap(self, linear: nn.Module) -> nn.Module:
        """The adapter layer that takes the place of `linear`."""
        return LoRALayer(linear, self.rank, self.scale, self.dropout)

    def to_peft(self, model: nn.Module) -> Foreign:
        return Foreign(
            library="peft",
            config={
                "peft_type": "LORA",
                "r": self.rank,
                "lora_alpha": self.alpha,
                "lora_dropout": self.dropout,
                "use_rslora": self.rslora,
            },
            layers={
                name: {"lora_A.weight": layer.A.detach(), "lora_B.weight": layer.B.detach()}
                for name, layer in find_exportable_layers(model)
                if isinstance(layer, LoRALayer)
            },
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        ours = config.get("peft_type") == "LORA" and not config.get("use_dora")
        if form.library == "peft" and not ours:
            return None
        form = even(form)
        return LoRA(**low_rank_settings(form)), state(form, FACTORS)


def factors(model: nn.Module) -> Iterator[nn.Parameter]:
    """Every A and B of a model."""
    for _, layer in adapter_layers(model):
        if isinstance(layer, LoRALayer):
            yield from (layer.A, layer.B)
