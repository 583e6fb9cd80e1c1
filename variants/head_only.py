"""Head only: the backbone stays as pretrained, only the task head trains (a linear probe)."""

from dataclasses import dataclass

import torch.nn as nn

from variants.base import Variant


@dataclass(frozen=True, kw_only=True)
class HeadOnly(Variant):
    """The baseline that shows what the pretrained features give by themselves."""

    def __post_init__(self) -> None:
        if self.lr != 0:
            raise ValueError(
                f"head_only trains nothing in the backbone, so lr must be 0, got {self.lr}; "
                "the head's own rate is train.head_lr."
            )

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
