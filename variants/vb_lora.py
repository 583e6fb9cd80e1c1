"""VB-LoRA: factors put together from one bank of vectors.  Li et al., 2024, arXiv:2405.15179.

W = W0 + B A, without a scale. A and B are cut into pieces of length b, and each is a mixture of k
vectors of the bank, those of its largest logits, weighed by their softmax. All layers share the
bank. No factor is zero, so the model starts a little beside the pretrained one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from typing import Any, ClassVar

import torch.nn as nn
from torch import Tensor

from variants.base import (
    Foreign,
    Variant,
    at_least_float32,
    check_adapter,
    get_matrix,
    replace_module,
    set_apart,
    target_linears,
)
from variants.layerwise import (
    Layerwise,
    ProductLayer,
    check_fields,
    exportable,
    layers_of,
    tensors_of,
)
from variants.peft_forms import state

NAMES = {"logits_A": "vblora_logits_A", "logits_B": "vblora_logits_B"}
BANK = "vblora_vector_bank"


class VBLoRALayer(ProductLayer):
    """y = W0 x + B A dropout(x), with A and B from the shared `bank` [h, b].

    logits_A [r, d_in / b, h] and logits_B [d_out / b, r, h] choose and weigh k vectors for a piece.
    """

    def __init__(self, base: nn.Module, bank: nn.Parameter, rank: int, k: int, dropout: float):
        super().__init__(base, dropout)
        (d_out, d_in), (h, b) = self.W0.shape, bank.shape
        self.bank, self.k = bank, k
        self.logits_A = nn.Parameter(bank.new_empty(rank, d_in // b, h).normal_(0.0, 0.01))
        self.logits_B = nn.Parameter(bank.new_empty(d_out // b, rank, h).normal_(0.0, 0.01))

    def mixed(self, logits: Tensor) -> Tensor:
        """The pieces [..., b] for logits [..., h]."""
        top = logits.topk(self.k, dim=-1)
        return (top.values.softmax(dim=-1)[..., None] * self.bank[top.indices]).sum(dim=-2)

    def product(self) -> tuple[Tensor, Tensor, float]:
        # A piece of A is part of a row, and one of B part of a column.
        A, B = self.mixed(self.logits_A).flatten(1), self.mixed(self.logits_B)
        return A, B.transpose(1, 2).flatten(0, 1), 1.0


@dataclass(frozen=True, kw_only=True)
class VBLoRA(Layerwise):
    """Mixtures of few shared vectors in the place of every factor."""

    starts_as_pretrained: ClassVar[bool] = False
    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset(
        {
            "num_vectors", "vector_length", "topk", "vblora_dropout", "save_only_topk_weights",
            "init_vector_bank_bound", "init_logits_std",
        }
    )  # fmt: skip

    rank: int  # r
    vectors: int  # h, in the bank
    length: int  # of a vector, at most: b is the largest such divisor of all widths
    k: int  # vectors that are mixed
    ratio: float  # learning rate of logits over that of the bank
    dropout: float  # probability, on the input of the update only

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout)
        if not 1 <= self.k <= self.vectors:
            raise ValueError(f"k must lie in 1 to vectors={self.vectors}, got {self.k}.")
        if self.length < 1:
            raise ValueError(f"length must be at least 1, got {self.length}.")
        if not 0 < self.ratio < math.inf:
            raise ValueError(f"ratio must be positive, got {self.ratio}.")

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        linears = target_linears(model, self.targets)
        common = gcd(*(side for linear in linears.values() for side in get_matrix(linear).shape))
        b = max(n for n in range(1, min(common, self.length) + 1) if common % n == 0)
        like = at_least_float32(next(iter(linears.values())).weight)
        # A parameter that all layers hold; moving a module keeps it one tensor.
        bank = nn.Parameter(like.new_empty(self.vectors, b).uniform_(-0.02, 0.02))
        for name, linear in linears.items():
            layer = VBLoRALayer(linear, bank, self.rank, self.k, self.dropout)
            replace_module(model, name, layer)

    def param_groups(
        self, model: nn.Module, lr: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        layers = layers_of(model, VBLoRALayer).values()
        logits = [p for layer in layers for p in (layer.logits_A, layer.logits_B)]
        groups = super().param_groups(model, lr, weight_decay)
        return set_apart(groups, logits, lr=lr * self.ratio)

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        # The bank goes by the name it has in the first layer, which another order may change.
        banks = [f"{name}.bank" for name in layers_of(model, VBLoRALayer)]
        named = {banks[0] if name in banks else name: tensor for name, tensor in state.items()}
        super().load_state(model, named)

    def to_peft(self, model: nn.Module) -> Foreign:
        layers = exportable(model, VBLoRALayer)
        bank = next(iter(layers.values())).bank.detach()
        return Foreign(
            library="peft",
            config={
                "peft_type": "VBLORA",
                "r": self.rank,
                "num_vectors": self.vectors,
                "vector_length": bank.shape[1],
                "topk": self.k,
                "vblora_dropout": self.dropout,
                "save_only_topk_weights": False,
            },
            layers=tensors_of(layers, NAMES),
            shared={BANK: bank},
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "VBLORA":
            return None
        check_fields(form, {"save_only_topk_weights": False})
        if BANK not in form.shared:
            raise ValueError(f"The checkpoint lacks {BANK}, of which all factors are made.")
        variant = VBLoRA(
            lr=0.0,
            rank=config["r"],
            vectors=config["num_vectors"],
            length=config["vector_length"],
            k=config["topk"],
            ratio=1.0,
            dropout=float(config.get("vblora_dropout", 0.0)),
            targets=list(form.layers),
        )
        return variant, state(form, NAMES) | {f"{variant.targets[0]}.bank": form.shared[BANK]}
