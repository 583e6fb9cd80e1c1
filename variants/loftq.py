"""LoftQ: a quantised base and a LoRA that are fitted to W0 together.

Li et al., 2023, arXiv:2310.08659, Algorithm 1. In turn, Q quantises what B A leaves of W0, and B A
is the best approximation of rank r of what Q leaves. W0 is nearly W = Q + s B A at the start; A and
B are divided by the root of s, where PEFT is right for s = 1 alone. Q is not the quantised W0, so
it is stored with the adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import at_least_float32, copy_exactly
from variants.forms import copy_with
from variants.layerwise import layers_of
from variants.lora import LoRALayer
from variants.qlora import QLoRA
from variants.quantize import NF4Linear, check_quantisable
from variants.residual import check_directions


@dataclass(frozen=True, kw_only=True)
class LoftQ(QLoRA):
    """QLoRA that starts nearer to the pretrained model than its quantised base is."""

    iterations: int  # T: how often Q and B A are fitted in turn

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.iterations < 1:
            raise ValueError(f"iterations must be at least 1, got {self.iterations}.")

    @torch.no_grad()
    def wrap(self, linear: nn.Module) -> nn.Module:
        assert isinstance(linear, nn.Linear)
        check_quantisable(linear)
        check_directions(self.rank, linear.weight)
        W0 = at_least_float32(linear.weight)
        base, A, B = self.fit(linear, W0)
        layer = LoRALayer(base, self.rank, self.scale, self.dropout)
        layer.A.copy_(A / self.scale**0.5)
        layer.B.copy_(B / self.scale**0.5)
        return layer

    def fit(self, linear: nn.Linear, W0: Tensor) -> tuple[NF4Linear, Tensor, Tensor]:
        """The quantised base, A [r, d_in] and B [d_out, r] after all iterations."""
        base = self.quantised(linear, W0)
        A, B = best_factors(W0 - base.weight, self.rank)
        for _ in range(self.iterations - 1):
            base = self.quantised(linear, W0 - B @ A)
            A, B = best_factors(W0 - base.weight, self.rank)
        return base, A, B

    def quantised(self, linear: nn.Linear, weight: Tensor) -> NF4Linear:
        """This weight in the place of a linear layer's, in four bits."""
        other = cast(nn.Linear, copy_with(linear, weight, linear.bias))
        base = NF4Linear(other, self.block, self.double, self.backend)
        base.stored_dtype = linear.weight.dtype
        return base

    def learned_state(self, model: nn.Module) -> dict[str, Tensor]:
        """The factors, and the bits of the base."""
        return super().learned_state(model) | {
            f"{name}.base.{key}": bits
            for name, layer in layers_of(model, LoRALayer).items()
            for key, bits in layer.base.state_dict().items()
            if key != "bias"
        }

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        copy_exactly(self.learned_state(model), state)


def best_factors(weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A [r, d_in] and B [d_out, r] whose product is the nearest of that rank."""
    U, S, Vh = torch.linalg.svd(at_least_float32(weight), full_matrices=False)
    root = S[:rank].sqrt()
    return root[:, None] * Vh[:rank], U[:, :rank] * root
