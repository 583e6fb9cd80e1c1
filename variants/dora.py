"""DoRA: W = m (W0 + s B A) / ||W0 + s B A||.  Liu et al., 2024, arXiv:2402.09353, Eq. (5) and (11).

The norm runs over the inputs of each output neuron: m has one entry per row of W [d_out, d_in].
"""

from dataclasses import dataclass, replace

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import Foreign, Variant, adapter_layers, at_least_float32
from variants.foreign import FACTORS, even, low_rank_settings, state
from variants.lora import LoRA, LoRALayer

MAGNITUDE = "lora_magnitude_vector"


class DoRALayer(LoRALayer):
    """LoRA's layer with each row of its weight rescaled to the trained magnitude m [d_out]."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, rank, scale, dropout)
        self.m = nn.Parameter(at_least_float32(self.W0).norm(dim=1))

    def merged_weight(self) -> Tensor:
        return (self.m / self.row_norm()).unsqueeze(1) * super().merged_weight()

    def row_norm(self) -> Tensor:
        """||W0 + s B A|| per row, [d_out]; held constant in the backward pass, Sec. 4.3."""
        with torch.no_grad():
            return super().merged_weight().norm(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.dropout.p > 0:
            return self.forward_with_dropout(x)
        return self.update(x, self.base(x))

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        c = (self.m / self.row_norm()).to(x.dtype)
        bias = self.bias
        if bias is None:
            return c * (y + self.branch(x))
        # The bias is not part of the weight, so it is not rescaled.
        bias = bias.to(x.dtype)
        return c * (y - bias + self.branch(x)) + bias

    def forward_with_dropout(self, x: Tensor) -> Tensor:
        """W0 x + (c - 1) W0 x' + c s B A x' with one mask in x', as the authors' code has it."""
        c = (self.m / self.row_norm()).to(x.dtype)
        dropped = self.dropout(x)
        base = F.linear(dropped, self.W0.to(x.dtype))
        return self.base(x) + (c - 1) * base + c * self.branch(dropped)


@dataclass(frozen=True, kw_only=True)
class DoRA(LoRA):
    """LoRA on the direction of each row, its magnitude trained apart."""

    def wrap(self, linear: nn.Module) -> nn.Module:
        return DoRALayer(linear, self.rank, self.scale, self.dropout)

    def to_peft(self, model: nn.Module) -> Foreign:
        form = super().to_peft(model)
        magnitudes = {
            name: layer.m.detach()
            for name, layer in adapter_layers(model)
            if isinstance(layer, DoRALayer)
        }
        return replace(
            form,
            config=form.config | {"use_dora": True},
            layers={name: t | {MAGNITUDE: magnitudes[name]} for name, t in form.layers.items()},
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        if form.config.get("peft_type") != "LORA" or not form.config.get("use_dora"):
            return None
        form = even(form)
        return DoRA(**low_rank_settings(form)), state(form, FACTORS | {"m": MAGNITUDE})
