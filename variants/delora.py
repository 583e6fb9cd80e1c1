"""DeLoRA: W = W0 + f(A, B) - f(A_0, B_0), directions apart from one strength per matrix.

Bini et al., 2025, arXiv:2503.18225. f = (lambda / r) B Xi A diag(n), where Xi takes away the
lengths of each column of B and row of A, and n has those of W0's columns. The frozen start A_0, B_0
is multiplied by the current lambda too, so that it cancels whatever lambda does. PEFT has B = 0
instead, with lengths of at least 1e-4: its first step is as large as W0.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Foreign, Variant, at_least_float32, check_adapter, set_apart
from variants.layerwise import Layerwise, ProductLayer, check_fields, exportable, layers_of
from variants.peft_forms import check_keys

SHORTEST = 1e-4  # a length that is divided by, as in PEFT


class DeLoRALayer(ProductLayer):
    """y = W0 x + (lambda / r) (B Xi A - B_0 Xi_0 A_0) diag(n) dropout(x)."""

    def __init__(self, base: nn.Module, rank: int, strength: float, dropout: float) -> None:
        super().__init__(base, dropout)
        d_out, d_in = self.W0.shape
        like = at_least_float32(self.W0)
        self.A = nn.Parameter(like.new_empty(rank, d_in))
        self.B = nn.Parameter(like.new_empty(d_out, rank))
        for factor in (self.A, self.B):
            nn.init.kaiming_uniform_(factor, a=5**0.5)
        self.A_0 = nn.Parameter(self.A.detach().clone(), requires_grad=False)
        self.B_0 = nn.Parameter(self.B.detach().clone(), requires_grad=False)
        self.lamda = nn.Parameter(like.new_full((1,), strength))  # lambda is a word of Python's

    def product(self) -> tuple[Tensor, Tensor, float]:
        self.check_readable()
        A = torch.cat((self.A, self.A_0))
        B = torch.cat((self.B, -self.B_0), dim=1)
        lengths = A.norm(dim=1).clamp_min(SHORTEST) * B.norm(dim=0).clamp_min(SHORTEST)
        n = at_least_float32(self.W0).norm(dim=0)
        return A * n, B * (self.lamda / len(self.A) / lengths), 1.0


@dataclass(frozen=True, kw_only=True)
class DeLoRA(Layerwise):
    """LoRA whose change is bounded by its strength, whatever its factors grow to."""

    sized_by_rank: ClassVar[bool] = True
    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset(
        {"delora_lambda", "module_dropout", "lambda_pattern"}
    )

    rank: int  # r
    strength: float  # lambda at the start
    ratio: float  # lambda's learning rate over that of A and B
    dropout: float  # probability, on the input of the update only

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout)
        if not 0 < self.ratio < math.inf:
            raise ValueError(f"ratio must be positive, got {self.ratio}.")

        if not 0 < abs(self.strength) < math.inf:
            raise ValueError(f"strength must not be 0: nothing would train, got {self.strength}.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        return DeLoRALayer(linear, self.rank, self.strength, self.dropout)

    def param_groups(
        self, model: nn.Module, lr: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        strengths = [layer.lamda for layer in layers_of(model, DeLoRALayer).values()]
        groups = super().param_groups(model, lr, weight_decay)
        return set_apart(groups, strengths, lr=lr * self.ratio)

    def to_peft(self, model: nn.Module) -> Foreign:
        """Twice the rank and twice lambda: the frozen start is part of one larger product."""
        layers = {}
        for name, layer in exportable(model, DeLoRALayer).items():
            layers[name] = {
                "delora_A": torch.cat((layer.A, layer.A_0)).detach(),
                "delora_B": torch.cat((layer.B, -layer.B_0), dim=1).detach(),
                "delora_lambda": 2 * layer.lamda.detach(),
                "delora_w_norm": at_least_float32(layer.W0).norm(dim=0).detach(),
            }
        config = {"peft_type": "DELORA", "r": 2 * self.rank, "delora_lambda": 2 * self.strength}
        return Foreign(library="peft", config=config, layers=layers)

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        """PEFT's, which has no frozen start, with one that is zero."""
        config = form.config
        if config.get("peft_type") != "DELORA":
            return None
        check_fields(form, {"rank_pattern": {}, "lambda_pattern": {}, "module_dropout": 0.0})
        check_keys(form, {"delora_A", "delora_B", "delora_lambda", "delora_w_norm"})
        found: dict[str, Tensor] = {}
        for name, tensors in form.layers.items():
            A, B = tensors["delora_A"], tensors["delora_B"]
            found |= {f"{name}.A": A, f"{name}.B": B, f"{name}.lamda": tensors["delora_lambda"]}
            found |= {f"{name}.A_0": A.clone(), f"{name}.B_0": torch.zeros_like(B)}
        variant = DeLoRA(
            lr=0.0,
            rank=config["r"],
            strength=float(config.get("delora_lambda", 15)),
            ratio=1.0,
            dropout=0.0,
            targets=list(form.layers),
        )
        return variant, found
