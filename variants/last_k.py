"""Last k layers: the top blocks of the backbone train (FT-Top2 in Hu et al., 2021, Table 3)."""

from dataclasses import dataclass

import torch.nn as nn

from variants.base import Variant


@dataclass(frozen=True, kw_only=True)
class LastK(Variant):
    """Every parameter of the last k blocks, and none above or below them."""

    k: int

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
        blocks = max(stacks, key=len, default=nn.ModuleList())
        if not 1 <= self.k <= len(blocks):
            raise ValueError(f"k must lie in 1 to {len(blocks)}, the model's blocks, got {self.k}.")
        blocks[-self.k :].requires_grad_(True)
