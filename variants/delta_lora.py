"""Delta-LoRA: W0 follows the change of B A.  Zi et al., 2023, arXiv:2309.02411, Algorithm 1.

The moves of W0 telescope: after the first K + 1 steps W0 has moved by ratio s (B A - B_k A_k), with
B_k, A_k the factors at that point.  So W0 stays where it is, and the moved part is a second product
through which A and B get no gradient.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import Foreign, Progress, adapter_layers, mark_additive
from variants.lora import LoRA, LoRALayer


class DeltaLoRALayer(LoRALayer):
    """y = W0 x + s B A x + ratio s (B A - B_k A_k) x, the last term without gradient to A, B."""

    def __init__(self, base: nn.Module, rank: int, scale: float, ratio: float) -> None:
        super().__init__(base, rank, scale, dropout=0.0)
        self.ratio = ratio
        self.A_k: nn.Parameter | None
        self.B_k: nn.Parameter | None
        self.register_parameter("A_k", None)  # until the motion starts
        self.register_parameter("B_k", None)

    def merged_weight(self) -> Tensor:
        weight = super().merged_weight()
        if self.A_k is None or self.B_k is None:
            return weight
        moved = self.B.detach() @ self.A.detach() - self.B_k @ self.A_k
        return weight + self.ratio * self.scale * moved

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        if self.A_k is None or self.B_k is None:
            return self.A, self.B, self.scale
        A = torch.cat((self.A, self.A.detach(), self.A_k))
        B = torch.cat((self.B, self.ratio * self.B.detach(), -self.ratio * self.B_k), dim=1)
        return A, B, self.scale

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        y = y + self.branch(x)
        if self.A_k is None or self.B_k is None:
            return y
        # B A - B_k A_k as one product of width 2 r.
        A = torch.cat((self.A.detach(), self.A_k)).to(x.dtype)
        B = torch.cat((self.B.detach(), -self.B_k), dim=1).to(x.dtype)
        return y + F.linear(F.linear(x, A), B) * (self.ratio * self.scale)

    def start(self) -> None:
        """From here on W0 follows, unless it does already: a run may begin with such an adapter."""
        if self.A_k is not None:
            return
        self.A_k = nn.Parameter(self.A.detach().clone(), requires_grad=False)
        self.B_k = nn.Parameter(self.B.detach().clone(), requires_grad=False)


@dataclass(frozen=True, kw_only=True)
class DeltaLoRA(LoRA):
    """LoRA whose base weight moves along, `ratio` times as far."""

    any_form: ClassVar[bool] = True

    ratio: float  # lambda
    start: float  # K / T: share of the steps before W0 first moves

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout != 0:
            raise ValueError(
                f"delta_lora has no dropout: with it B A and W0 have different gradients, "
                f"got {self.dropout}."
            )
        if not 0 <= self.start < 1:
            raise ValueError(f"start is a share of all steps in [0, 1), got {self.start}.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        return DeltaLoRALayer(linear, self.rank, self.scale, self.ratio)

    def after_step(self, model: nn.Module, progress: Progress) -> None:
        # Steps count from 0 in the paper and W0 moves for t > K, so first after step K + 2 from 1.
        if progress.step == round(self.start * progress.total) + 1:
            for _, layer in adapter_layers(model):
                assert isinstance(layer, DeltaLoRALayer)
                layer.start()

    def to_peft(self, model: nn.Module) -> Foreign:
        """One LoRA of rank 2 r: s [(1 + ratio) B, -ratio B_k] [A; A_k]."""
        form = super().to_peft(model)
        layers = dict(form.layers)
        for name, layer in adapter_layers(model):
            assert isinstance(layer, DeltaLoRALayer)
            if layer.A_k is not None and layer.B_k is not None:
                B = torch.cat(((1 + self.ratio) * layer.B, -self.ratio * layer.B_k), dim=1)
                A = torch.cat((layer.A, layer.A_k))
                layers[name] = {"lora_A.weight": A.detach(), "lora_B.weight": B.detach()}
        rank = len(next(iter(layers.values()))["lora_A.weight"])
        config = form.config | {"r": rank, "lora_alpha": self.scale * rank, "use_rslora": False}
        return replace(form, config=config, layers=layers)

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        for name, layer in adapter_layers(model):
            assert isinstance(layer, DeltaLoRALayer)
            if f"{name}.A_k" in state:
                layer.start()
            else:
                layer.A_k = layer.B_k = None
        super().load_state(model, state)
