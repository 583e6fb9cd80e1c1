"""QLoRA: LoRA on a base of 4-bit NormalFloat.  Dettmers et al., 2023, arXiv:2305.14314, Eq. (5)."""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn as nn

from variants.lora import LoRA
from variants.quantize import BACKENDS, BNB_BLOCKS, NF4Linear


@dataclass(frozen=True, kw_only=True)
class QLoRA(LoRA):
    """LoRA whose frozen weights take half a byte each; it starts from the quantised model."""

    starts_as_pretrained: ClassVar[bool] = False  # but as the quantised model

    block: int  # entries that share one scale
    double: bool  # the scales in 8 bits too
    backend: str  # what reads the stored bits; the function is the same

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.backend not in BACKENDS:
            raise ValueError(f"backend must be {' or '.join(BACKENDS)}, got '{self.backend}'.")
        if self.block < 1:
            raise ValueError(f"block must be at least 1, got {self.block}.")
        if self.backend == "bitsandbytes" and self.block not in BNB_BLOCKS:
            raise ValueError(
                f"block must be one of {', '.join(map(str, BNB_BLOCKS))} with "
                f"backend=bitsandbytes, got {self.block}."
            )

    def wrap(self, linear: nn.Module) -> nn.Module:
        assert isinstance(linear, nn.Linear)
        return super().wrap(NF4Linear(linear, self.block, self.double, self.backend))
