"""DoRA: W = m (W0 + s B A) / ||W0 + s B A||.  Liu et al., 2024, arXiv:2402.09353, Eq. (5) and (11).

The norm runs over the inputs of each output neuron: m has one entry per row of W [d_out, d_in].
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import Foreign, Variant, adapter_layers
from variants.lora import LoRA, LoRALayer
from variants.peft_forms import FACTORS, even, low_rank_settings, state
from variants.products import (
    TensorSnapshot,
    at_least_float32,
    can_merge,
    disable_autocast,
    is_transforming,
    merged_linear,
    merging_pays,
)

MAGNITUDE = "lora_magnitude_vector"


class DoRALayer(LoRALayer):
    """LoRA's layer with each row of its weight rescaled to the trained magnitude m [d_out]."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, rank, scale, dropout)
        self.m = nn.Parameter(self.plain_norm())
        self.reset_cache()

    def reset_cache(self) -> None:
        self.frozen: tuple[TensorSnapshot, Tensor] | None = None  # W0, and the norms of its rows
        # W0, what else they depend on, A, B, and the norms.
        self.known: tuple[TensorSnapshot, Hashable, Tensor, Tensor, Tensor] | None = None
        self.positive: Tensor | None = None  # those norms, where no row is zero

    def merged_weight(self) -> Tensor:
        return self.compute_rescaling(self.plain_norm()).unsqueeze(1) * super().merged_weight()

    def compute_rescaling(self, norm: Tensor) -> Tensor:
        """c = m / norm [d_out]; 1 for a row of zeros as long as its m is 0: it has no direction."""
        if norm is self.positive:
            return self.m / norm
        zero = (norm == 0).to(norm.dtype)
        return self.m / (norm + zero) + zero

    def row_norm(self) -> Tensor:
        """||W0 + s B A|| per row, [d_out]; held constant in the backward pass, Sec. 4.3.

        Computed once for all parts of a batch, and once for an evaluation: as long as A and B have
        the values they had.
        """
        # Comparing makes a GPU wait, and is nothing that could be compiled or mapped.
        elsewhere = self.A.device.type != "cpu"
        if elsewhere or torch.compiler.is_compiling() or is_transforming():
            return self.plain_norm()
        # A norm kept from inference mode could not be used in training.
        with torch.inference_mode(False), torch.no_grad():
            stored, seen = self.stored(), None
            key = (self.scale, self.A.dtype)
            if self.known is not None and self.known[0].are_still(*stored):
                seen, known_key, A, B, norm = self.known
                # Not their `_version`: fused optimisers and `.data` do not count there.
                if key == known_key and torch.equal(A, self.A) and torch.equal(B, self.B):
                    return norm
            norm = self.new_norm()
            self.positive = norm if bool((norm > 0).all()) else None
            seen = TensorSnapshot(*stored) if seen is None else seen
            self.known = (seen, key, self.A.clone(), self.B.clone(), norm)
            return norm

    def stored(self) -> list[Tensor]:
        """The tensors that say what W0 is, which itself may be made of them in every call."""
        weight = self.base._parameters.get("weight")
        if weight is not None:
            return [weight]
        if getattr(self.base, "holds_codes", False):
            return [*self.base.buffers(), *self.base.parameters()]
        return [self.W0]

    def new_norm(self) -> Tensor:
        """The norm per row, in the form that takes less time, see benchmarks/dora_norm.py."""
        rank, d_in = self.A.shape
        return self.plain_norm() if 64 * rank > d_in else self.gram_norm()

    @torch.no_grad()
    def plain_norm(self) -> Tensor:
        """The norm per row of the matrix W0 + s B A."""
        W0, A, B = self.get_matrices()
        with disable_autocast(A.device):
            return torch.linalg.vector_norm(torch.addmm(W0, B, A, alpha=self.scale), dim=1)

    def gram_norm(self) -> Tensor:
        """The same without that matrix, from ||W0||^2, W0 A^T and A A^T."""
        W0, A, B = self.get_matrices()
        start = self.compute_frozen_norm()
        before = start.square()
        with disable_autocast(A.device):
            half = torch.addmm(A @ W0.T, A @ A.T, B.T, alpha=self.scale / 2)
        change = 2 * self.scale * (B.T * half).sum(dim=0)
        # Where the update takes away most of a row, the sum is a small difference of large numbers;
        # and a row of zeros has none to start from.
        if bool(((before + change < before / 16) | (before == 0)).any()):
            return self.plain_norm()
        return start * (1 + change / before).sqrt()  # so exactly `start` for B = 0

    def get_matrices(self) -> tuple[Tensor, Tensor, Tensor]:
        """W0, A and B, at least float32, as constants of every kind of differentiation."""
        self.check_readable()
        W0, A, B = (at_least_float32(t.detach()) for t in (self.W0, self.A, self.B))
        return W0, A, B

    def compute_frozen_norm(self) -> Tensor:
        """||W0|| per row, [d_out], computed once."""
        stored = self.stored()
        if self.frozen is None or not self.frozen[0].are_still(*stored):
            # Contiguous, so that it is added up as in `plain_norm`, to the same bits.
            W0 = at_least_float32(self.W0).contiguous()
            self.frozen = (TensorSnapshot(*stored), torch.linalg.vector_norm(W0, dim=1))
        return self.frozen[1]

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        return None  # W0 is rescaled too

    def forward(self, x: Tensor) -> Tensor:
        if self.dropping():
            return self.forward_with_dropout(x)
        if can_merge(x, self.base) and merging_pays(x, self.A, self.B):
            return self.forward_merged(x)
        return self.update(x, self.base(x))

    def forward_merged(self, x: Tensor) -> Tensor:
        """c (W0 + s B A) x + bias, where one product gives all but c, and so c's gradient."""
        c = self.compute_rescaling(self.row_norm())
        y = c * merged_linear(x, self.W0, self.A, self.B, self.scale)
        return y if self.b0 is None else y + self.b0

    def growth(self, x: Tensor) -> Tensor:
        """c - 1 [d_out], c = m / ||W0 + s B A||, in the dtype of x.

        A magnitude changes by little, and 1 + little is 1 in bfloat16.
        """
        return (self.compute_rescaling(self.row_norm()) - 1).to(x.dtype)

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        y = y + self.branch(x)
        # The bias is not part of the weight, so it is not rescaled.
        weighed = y if self.b0 is None else y - self.b0.to(x.dtype)
        return torch.addcmul(y, self.growth(x), weighed)

    def forward_with_dropout(self, x: Tensor) -> Tensor:
        """W0 x + (c - 1) W0 x' + c s B A x' with one mask in x', as the authors' code has it."""
        dropped = self.dropout(x)
        branch = self.branch(dropped)
        base = F.linear(dropped, self.W0.to(x.dtype))
        return torch.addcmul(self.base(x) + branch, self.growth(x), base + branch)


@dataclass(frozen=True, kw_only=True)
class DoRA(LoRA):
    """LoRA on the direction of each row, its magnitude trained apart."""

    any_form: ClassVar[bool] = True

    def wrap(self, linear: nn.Module) -> nn.Module:
        return DoRALayer(linear, self.rank, self.scale, self.dropout)

    def to_peft(self, model: nn.Module) -> Foreign:
        form = super().to_peft(model)
        magnitudes = {
            name: layer.m.detach()
            for name, layer in adapter_layers(model)
            if isinstance(layer, DoRALayer)
        }
        return replace(
            form,
            config=form.config | {"use_dora": True},
            layers={name: t | {MAGNITUDE: magnitudes[name]} for name, t in form.layers.items()},
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        if form.config.get("peft_type") != "LORA" or not form.config.get("use_dora"):
            return None
        form = even(form)
        return DoRA(**low_rank_settings(form)), state(form, FACTORS | {"m": MAGNITUDE})
