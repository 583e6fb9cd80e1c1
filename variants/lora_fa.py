"""LoRA-FA: LoRA with A frozen at its random start.  Zhang et al., 2023, arXiv:2308.03303.

Its second version corrects the gradient of B so that the change of W is as close as it can be to
full fine-tuning's: g_B (A A^T)^-1 / s^2.  Both are here.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn

from variants.base import Progress, adapter_layers
from variants.lora import LoRA, LoRALayer
from variants.products import disable_autocast


@dataclass(frozen=True, kw_only=True)
class LoRAFA(LoRA):
    """LoRA that trains only B; without dropout no input is kept for the backward pass."""

    any_form: ClassVar[bool] = True

    corrected: bool  # the second version's gradient

    def wrap(self, linear: nn.Module) -> nn.Module:
        layer = LoRALayer(linear, self.rank, self.scale, self.dropout)
        layer.A.requires_grad_(False)
        return layer

    def list_idle_hooks(self) -> set[str]:
        return set() if self.corrected else {"after_backward"}

    @torch.no_grad()
    def after_backward(self, model: nn.Module, progress: Progress) -> None:
        if not self.corrected:
            return
        for _, layer in adapter_layers(model):
            assert isinstance(layer, LoRALayer)
            if layer.B.grad is not None:
                # X (A A^T) = g_B / s^2, the matrix being symmetric.
                with disable_autocast(layer.A.device):
                    gram = layer.A @ layer.A.T * layer.scale**2
                    layer.B.grad = torch.linalg.solve(gram, layer.B.grad.T).T.contiguous()
