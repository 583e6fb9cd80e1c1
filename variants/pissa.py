"""PiSSA: LoRA on the principal singular directions of W0.  Meng et al., 2024, arXiv:2404.02948.

A and B start as the r largest singular triplets of W0, and what is left of W0 stays frozen. Here W0
is kept whole and the start of the product subtracted: the same function.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import Foreign, adapter_layers, at_least_float32, mark_additive
from variants.lora import LoRA, LoRALayer


class PiSSALayer(LoRALayer):
    """y = W0 x + s (B A dropout(x) - B_0 A_0 x), with A_0 and B_0 the start of A and B."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, rank, scale, dropout)
        d_out, d_in = self.W0.shape
        if rank > min(d_out, d_in):
            raise ValueError(
                f"rank must be at most {min(d_out, d_in)}, the singular values of a "
                f"{d_out} x {d_in} weight, got {rank}."
            )
        U, S, Vh = torch.linalg.svd(at_least_float32(self.W0), full_matrices=False)
        if not S.is_meta and not S[rank - 1] > 0:
            raise ValueError(
                f"rank must be at most {int((S > 0).sum())}, the singular values above zero, got "
                f"{rank}: what starts from zero twice would never train."
            )
        root = (S[:rank] / scale).sqrt()
        with torch.no_grad():
            self.A.copy_(root[:, None] * Vh[:rank])
            self.B.copy_(U[:, :rank] * root)
        self.A_0 = nn.Parameter(self.A.detach().clone(), requires_grad=False)
        self.B_0 = nn.Parameter(self.B.detach().clone(), requires_grad=False)

    def merged_weight(self) -> Tensor:
        return super().merged_weight() - self.scale * self.B_0 @ self.A_0

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        return torch.cat((self.A, self.A_0)), torch.cat((self.B, -self.B_0), dim=1), self.scale

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        start = F.linear(F.linear(x, self.A_0.to(x.dtype)), self.B_0.to(x.dtype)) * self.scale
        return super().update(x, y) - start


@dataclass(frozen=True, kw_only=True)
class PiSSA(LoRA):
    """LoRA that starts from the principal part of each weight instead of from zero."""

    any_form: ClassVar[bool] = True

    def wrap(self, linear: nn.Module) -> nn.Module:
        return PiSSALayer(linear, self.rank, self.scale, self.dropout)

    def to_peft(self, model: nn.Module) -> Foreign:
        """One LoRA of rank 2 r on the whole W0: s [B, -B_0] [A; A_0]."""
        layers = {
            name: {
                "lora_A.weight": torch.cat((layer.A, layer.A_0)).detach(),
                "lora_B.weight": torch.cat((layer.B, -layer.B_0), dim=1).detach(),
            }
            for name, layer in adapter_layers(model)
            if isinstance(layer, PiSSALayer)
        }
        double = {"r": 2 * self.rank, "lora_alpha": 2 * self.rank * self.scale, "use_rslora": False}
        form = super().to_peft(model)
        return replace(form, config=form.config | double, layers=layers)
