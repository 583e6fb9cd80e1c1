"""QLoRA: LoRA on a base of 4-bit NormalFloat.  Dettmers et al., 2023, arXiv:2305.14314, Eq. (5)."""

from dataclasses import dataclass

import torch.nn as nn

from variants.lora import LoRA
from variants.quantize import NF4Linear


@dataclass(frozen=True, kw_only=True)
class QLoRA(LoRA):
    """LoRA whose frozen weights take half a byte each; it starts from the quantised model."""

    block: int  # entries that share one scale
    double: bool  # the scales in 8 bits too

    def wrap(self, linear: nn.Module) -> nn.Module:
        assert isinstance(linear, nn.Linear)
        return super().wrap(NF4Linear(linear, self.block, self.double))
