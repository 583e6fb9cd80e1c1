"""Full fine-tuning: every parameter of the backbone trains."""

from dataclasses import dataclass

import torch.nn as nn

from variants.base import Variant, hold_in_float32


@dataclass(frozen=True, kw_only=True)
class Full(Variant):
    """The baseline without any restriction."""

    def adapt(self, model: nn.Module) -> None:
        # Codes of few bits have no gradient.
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        hold_in_float32(model)
