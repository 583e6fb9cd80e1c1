"""LoRA-Pro: steps of A and B that together move W as full fine-tuning would, as nearly as they can.

Wang et al., 2024, arXiv:2407.18242, in the form of Adam that its authors have released. From the
gradients of A and B follows the nearest gradient of W that they can make; it goes through Adam's
moments, of the size of W, and what comes of it goes back to steps of A and B, with the X that keeps
them nearest to those of LoRA. The scale s is the layer's own: the release has a fixed 2.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Progress, check_betas, set_apart
from variants.layerwise import layers_of
from variants.lora import LoRA, LoRALayer, factors
from variants.products import disable_autocast

DAMPING = 1e-8  # of both Gram matrices, as in the release
EPSILON = 1e-8  # Adam's


class LoRAProLayer(LoRALayer):
    """LoRA's layer with the moments of its weight's gradient; a step of the method's own."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, rank, scale, dropout)
        self.mean: Tensor
        self.square: Tensor
        for name in ("mean", "square"):
            self.register_buffer(name, self.A.detach().new_zeros(self.W0.shape))

    def grams(self) -> tuple[Tensor, Tensor]:
        """B^T B and A A^T, damped, in float64: B is nearly zero in the first steps."""
        A, B = self.A.double(), self.B.double()
        damping = DAMPING * torch.eye(len(A), dtype=A.dtype, device=A.device)
        return B.T @ B + damping, A @ A.T + damping

    def nearest(self, g_A: Tensor, g_B: Tensor) -> tuple[Tensor, Tensor]:
        """h_A and h_B for which s (B h_A + h_B A) is nearest to the gradient of W; X is zero."""
        of_B, of_A = self.grams()
        s2, B = self.scale**2, self.B.double()
        h_A = torch.linalg.solve(of_B, g_A.double()) / s2
        half = torch.linalg.solve(of_A, g_B.double().T).T / s2
        h_B = half - B @ torch.linalg.solve(of_B, B.T @ half)
        return h_A.to(g_A.dtype), h_B.to(g_B.dtype)

    def balanced(self, g_A: Tensor, g_B: Tensor) -> tuple[Tensor, Tensor]:
        """The same change of W, with the X for which h_A and h_B are nearest to g_A and g_B."""
        of_B, of_A = self.grams()
        A, B = self.A.double(), self.B.double()
        h_A, h_B = (h.double() for h in self.nearest(g_A, g_B))
        right = -torch.linalg.solve(of_B, g_A.double()) @ A.T / self.scale**2
        X = sylvester(of_B, of_A, right)
        return (h_A + X @ A).to(g_A.dtype), (h_B - B @ X).to(g_B.dtype)

    def rewrite(self, beta1: float, beta2: float, step: int) -> None:
        """Put steps of A and B in the place of their gradients, after `step` from 1."""
        assert self.A.grad is not None and self.B.grad is not None
        h_A, h_B = self.nearest(self.A.grad, self.B.grad)
        G = self.scale * (self.B @ h_A + h_B @ self.A)
        self.mean.lerp_(G, 1 - beta1)
        self.square.mul_(beta2).addcmul_(G, G, value=1 - beta2)
        root = (self.square / (1 - beta2**step)).sqrt_().add_(EPSILON)
        G = self.mean / (1 - beta1**step) / root
        h_A, h_B = self.balanced(self.scale * self.B.T @ G, self.scale * G @ self.A.T)
        self.A.grad, self.B.grad = h_A.contiguous(), h_B.contiguous()


def sylvester(P: Tensor, Q: Tensor, C: Tensor) -> Tensor:
    """The X for which P X + X Q = C, for symmetric positive P and Q."""
    p, U = torch.linalg.eigh(P)
    q, V = torch.linalg.eigh(Q)
    return U @ (U.T @ C @ V / (p[:, None] + q)) @ V.T


@dataclass(frozen=True, kw_only=True)
class LoRAPro(LoRA):
    """LoRA whose steps are those that full fine-tuning would take, as far as rank r allows."""

    any_form: ClassVar[bool] = True

    beta1: float  # of the mean of W's gradient
    beta2: float  # of its square

    def __post_init__(self) -> None:
        super().__post_init__()
        check_betas(self.beta1, self.beta2)

    def wrap(self, linear: nn.Module) -> nn.Module:
        return LoRAProLayer(linear, self.rank, self.scale, self.dropout)

    def param_groups(
        self, model: nn.Module, lr: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        groups = super().param_groups(model, lr, weight_decay)
        return set_apart(groups, factors(model), clip=False, plain=True)

    @torch.no_grad()
    def after_backward(self, model: nn.Module, progress: Progress) -> None:
        for layer in layers_of(model, LoRAProLayer).values():
            if layer.A.grad is None or layer.B.grad is None:
                continue
            with disable_autocast(layer.A.device):
                layer.rewrite(self.beta1, self.beta2, progress.step)
