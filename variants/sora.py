"""SoRA: LoRA with gates that are driven to zero.  Ding et al., 2023, arXiv:2311.11696.

dW = s B diag(g) A. After each step of AdamW the gates shrink by xi, and those below it become zero:
the paper's soft threshold. The released code zeroes all gates below 2 xi by the order of its
operations. The paper thresholds by xi times the rate and the released code by xi, as this does,
because the hook after a step does not know the rate. Ranks whose gate is zero can be dropped at the
end.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import Foreign, Progress, at_least_float32, check_adapter
from variants.layerwise import Layerwise, ProductLayer, as_lora, exportable, layers_of


class SoRALayer(ProductLayer):
    """y = W0 x + s B (g * (A dropout(x))), with A [r, d_in], B [d_out, r] and gates g [r]."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, dropout)
        d_out, d_in = self.W0.shape
        like = at_least_float32(self.W0)
        self.A = nn.Parameter(like.new_empty(rank, d_in))
        self.B = nn.Parameter(like.new_zeros(d_out, rank))
        self.g = nn.Parameter(like.new_empty(rank).normal_())
        nn.init.kaiming_uniform_(self.A, a=5**0.5)
        self.scale = scale

    def product(self) -> tuple[Tensor, Tensor, float]:
        return self.A, self.B * self.g, self.scale


@dataclass(frozen=True, kw_only=True)
class SoRA(Layerwise):
    """LoRA that finds its ranks by a sparsity penalty on gates."""

    any_form: ClassVar[bool] = True

    rank: int  # r, the most
    alpha: float  # s = alpha / r
    dropout: float  # probability, on the input of the update only
    xi: float  # by which every gate shrinks in a step
    gamma: float  # weight of the mean of |g| in the loss

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout, self.alpha)
        for name in ("xi", "gamma"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        return SoRALayer(linear, self.rank, self.alpha / self.rank, self.dropout)

    def penalty(self, model: nn.Module) -> Tensor | float:
        """gamma times the mean of |g| over all gates."""
        if not self.gamma:
            return 0.0
        gates: list[Tensor] = [layer.g for layer in layers_of(model, SoRALayer).values()]
        return self.gamma * torch.cat(gates).abs().mean()

    def list_idle_hooks(self) -> set[str]:
        return (set() if self.gamma else {"penalty"}) | (set() if self.xi else {"after_step"})

    @torch.no_grad()
    def after_step(self, model: nn.Module, progress: Progress) -> None:
        for layer in layers_of(model, SoRALayer).values():
            layer.g.copy_(F.softshrink(layer.g, self.xi))

    def telemetry(self, model: nn.Module) -> dict[str, float]:
        """How many gates are open, and what numbers are left with them."""
        layers = layers_of(model, SoRALayer)
        ranks = {name: int((layer.g != 0).sum()) for name, layer in layers.items()}
        left = sum(ranks[name] * (sum(layer.W0.shape) + 1) for name, layer in layers.items())
        found = {f"rank/{name}": float(rank) for name, rank in ranks.items()}
        return {"rank": float(sum(ranks.values())), "left": float(left), **found}

    def to_peft(self, model: nn.Module) -> Foreign:
        """A plain LoRA with g in B, which keeps all ranks."""
        factors = {
            name: (layer.A, layer.B * layer.g)
            for name, layer in exportable(model, SoRALayer).items()
        }
        return as_lora(factors, self.rank, self.alpha, self.dropout)
