"""LoRA that starts from a part of W0: W = W0 + s (B A - B_0 A_0).

Papers that start so lower the base weight by s B_0 A_0. Here W0 is kept whole and the start of the
product subtracted: the same function, and the base is not rounded a second time.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Foreign, at_least_float32, mark_additive
from variants.layerwise import exportable
from variants.lora import LoRA, LoRALayer
from variants.products import side_product


class ResidualLayer(LoRALayer):
    """y = W0 x + s (B A dropout(x) - B_0 A_0 x), with A_0 and B_0 the start of A and B."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, rank, scale, dropout)
        self.A_0 = nn.Parameter(self.A.detach().clone(), requires_grad=False)
        self.B_0 = nn.Parameter(self.B.detach().clone(), requires_grad=False)

    @torch.no_grad()
    def begin_with(self, A: Tensor, B: Tensor) -> None:
        """Start from the product of these factors, A [r, d_in] and B [d_out, r]."""
        for factor, value in ((self.A, A), (self.B, B), (self.A_0, A), (self.B_0, B)):
            factor.copy_(value)

    def merged_weight(self) -> Tensor:
        # The difference first: at the start it is exactly zero.
        change = self.B @ self.A - self.B_0 @ self.A_0
        return at_least_float32(self.W0) + self.scale * change

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        return torch.cat((self.A, self.A_0)), torch.cat((self.B, -self.B_0), dim=1), self.scale

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        start = side_product(x, self.A_0.to(x.dtype), self.B_0.to(x.dtype), self.scale)
        return y + (self.branch(self.dropout(x)) - start)


@dataclass(frozen=True, kw_only=True)
class ResidualLoRA(LoRA):
    """LoRA that starts from a part of each weight instead of from zero."""

    def wrap(self, linear: nn.Module) -> nn.Module:
        layer = ResidualLayer(linear, self.rank, self.scale, self.dropout)
        layer.begin_with(*self.start_of(layer))
        return layer

    def start_of(self, layer: ResidualLayer) -> tuple[Tensor, Tensor]:
        """A_0 [r, d_in] and B_0 [d_out, r] of a layer; without data, where they need data."""
        return layer.A_0, layer.B_0

    def to_peft(self, model: nn.Module) -> Foreign:
        """One LoRA of rank 2 r on the whole W0: s [B, -B_0] [A; A_0]."""
        layers = {
            name: {
                "lora_A.weight": torch.cat((layer.A, layer.A_0)).detach(),
                "lora_B.weight": torch.cat((layer.B, -layer.B_0), dim=1).detach(),
            }
            for name, layer in exportable(model, ResidualLayer).items()
        }
        double = {"r": 2 * self.rank, "lora_alpha": 2 * self.rank * self.scale, "use_rslora": False}
        form = super().to_peft(model)
        return replace(form, config=form.config | double, layers=layers)


def check_directions(rank: int, W0: Tensor, needed: int = 1) -> None:
    """Raise ValueError for a rank that needs more directions than W0 [d_out, d_in] has."""
    d_out, d_in = W0.shape
    if needed * rank > min(d_out, d_in):
        raise ValueError(
            f"rank must be at most {min(d_out, d_in) // needed} on a {d_out} x {d_in} weight, "
            f"which has {min(d_out, d_in)} singular directions, got {rank}."
        )


def check_singular_values(S: Tensor, chosen: Tensor, floor: float = 0.0) -> None:
    """Raise ValueError if some of the chosen singular values are zero, or nearly so.

    Two factors that both start from zero there would have no gradient, for ever.
    """
    if S.is_meta or not S.numel():
        return
    if not chosen.min() > floor * S[0]:
        raise ValueError(
            f"rank is {len(chosen)}, and the smallest of the singular values that it takes is "
            f"{float(chosen.min()):.1e}, the largest of the weight {float(S[0]):.1e}: what starts "
            "from zero twice would never train."
        )


def check_probe(rows: int, head_steps: int) -> None:
    """Raise ValueError for a gradient over no example, or after less than no step."""
    if rows < 1:
        raise ValueError(f"rows must be at least 1, got {rows}.")
    if head_steps < 0:
        raise ValueError(f"head_steps must not be negative, got {head_steps}.")
