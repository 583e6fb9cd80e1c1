"""Riemannian preconditioned LoRA: each factor's gradient by the inverse Gram matrix of the other.

Zhang and Pilanci, 2024, arXiv:2402.02347: g_A becomes (B^T B + delta I)^-1 g_A and g_B becomes
g_B (A A^T + delta I)^-1, and AdamW goes on with these ("scaled AdamW"). Both come from the same A
and B, as in PEFT; the authors' code takes the new A for B. There is no clipping: after the first
step B^T B is small, and A's gradient is multiplied by up to 1 / delta.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn as nn

from variants.base import Progress, set_apart
from variants.layerwise import layers_of
from variants.lora import LoRA, LoRALayer, factors
from variants.products import disable_autocast


@dataclass(frozen=True, kw_only=True)
class Riemannian(LoRA):
    """LoRA whose gradients know how long and how alike the directions of the other factor are."""

    any_form: ClassVar[bool] = True

    delta: float  # added to the diagonal of both Gram matrices

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.delta < math.inf:
            raise ValueError(f"delta must be positive, as B^T B starts at 0, got {self.delta}.")

    def param_groups(
        self, model: nn.Module, lr: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        groups = super().param_groups(model, lr, weight_decay)
        return set_apart(groups, factors(model), clip=False)

    @torch.no_grad()
    def after_backward(self, model: nn.Module, progress: Progress) -> None:
        for layer in layers_of(model, LoRALayer).values():
            A, B = layer.A, layer.B
            if A.grad is None or B.grad is None:
                continue
            damping = self.delta * torch.eye(len(A), dtype=A.dtype, device=A.device)
            with disable_autocast(A.device):
                # Solutions come column by column, which fused optimisers would not notice.
                A.grad = torch.linalg.solve(B.T @ B + damping, A.grad).contiguous()
                B.grad = torch.linalg.solve(A @ A.T + damping, B.grad.T).T.contiguous()
