"""LoRA+: B's learning rate is a fixed multiple of A's.  Hayou et al., 2024, arXiv:2402.12354.

Published ratios belong to an initialisation: the authors' code has A = 0 and B random, most
others B = 0 and A random.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn as nn

from variants.base import adapter_layers, set_apart
from variants.lora import LoRA, LoRALayer


@dataclass(frozen=True, kw_only=True)
class LoRAPlus(LoRA):
    """LoRA whose B moves `ratio` times as fast as A."""

    any_form: ClassVar[bool] = True

    ratio: float  # lambda: learning rate of B over that of A
    zero: str  # the factor that starts at zero: B, as in LoRA, or A, as in the authors' code

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.ratio < math.inf:
            raise ValueError(f"ratio must be positive, got {self.ratio}.")
        if self.zero not in ("A", "B"):
            raise ValueError(f"zero must be A or B, got '{self.zero}'.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        layer = LoRALayer(linear, self.rank, self.scale, self.dropout)
        if self.zero == "A":
            nn.init.zeros_(layer.A)
            nn.init.kaiming_uniform_(layer.B, a=5**0.5)
        return layer

    def param_groups(
        self, model: nn.Module, lr: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        fast = [layer.B for _, layer in adapter_layers(model) if isinstance(layer, LoRALayer)]
        groups = super().param_groups(model, lr, weight_decay)
        return set_apart(groups, fast, lr=lr * self.ratio)
