"""Full fine-tuning: every parameter of the backbone trains."""

from dataclasses import dataclass

import torch.nn as nn

from variants.base import Variant


@dataclass(frozen=True, kw_only=True)
class Full(Variant):
    """The baseline without any restriction."""

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(True)
