"""DoRA: W = m (W0 + s B A) / ||W0 + s B A||.  Liu et al., 2024, arXiv:2402.09353, Eq. (5) and (11).

The norm runs over the inputs of each output neuron: m has one entry per row of W [d_out, d_in].
"""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from itertools import chain

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import Foreign, Variant, adapter_layers, at_least_float32
from variants.foreign import FACTORS, even, low_rank_settings, state
from variants.kernels import can_merge, merged_linear, merging_pays
from variants.lora import LoRA, LoRALayer

MAGNITUDE = "lora_magnitude_vector"


class DoRALayer(LoRALayer):
    """LoRA's layer with each row of its weight rescaled to the trained magnitude m [d_out]."""

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base, rank, scale, dropout)
        self.m = nn.Parameter(at_least_float32(self.W0).norm(dim=1))
        self.squares: tuple[Hashable, Tensor] | None = None  # of W0's rows
        self.known: tuple[Hashable, Tensor, Tensor, Tensor] | None = None  # a norm, its A and B

    def merged_weight(self) -> Tensor:
        return (self.m / self.plain_norm()).unsqueeze(1) * super().merged_weight()

    def row_norm(self) -> Tensor:
        """||W0 + s B A|| per row, [d_out]; held constant in the backward pass, Sec. 4.3.

        Computed once for all parts of a batch, and once for an evaluation: as long as A and B have
        the values they had.
        """
        # A norm kept from inference mode could not be used in training.
        with torch.inference_mode(False), torch.no_grad():
            if self.A.is_cuda:  # comparing would make the CPU wait for the device
                return self.new_norm()
            key = (self.frozen_key(), self.scale)
            if self.known is not None and self.known[0] == key:
                _, A, B, norm = self.known
                # Not their `_version`: fused optimisers and `.data` do not count there.
                if torch.equal(A, self.A) and torch.equal(B, self.B):
                    return norm
            norm = self.new_norm()
            self.known = (key, self.A.clone(), self.B.clone(), norm)
            return norm

    def new_norm(self) -> Tensor:
        """The norm per row, in the form that takes less time, see benchmarks/dora_norm.py."""
        rank, d_in = self.A.shape
        if self.A.is_cuda or 64 * rank > d_in:
            return self.plain_norm()
        return self.gram_norm()

    @torch.no_grad()
    def plain_norm(self) -> Tensor:
        """The norm per row of the matrix W0 + s B A."""
        weight = torch.addmm(self.W0.to(self.A.dtype), self.B, self.A, alpha=self.scale)
        return torch.linalg.vector_norm(weight, dim=1)

    def gram_norm(self) -> Tensor:
        """The same without that matrix, from ||W0||^2, W0 A^T and A A^T."""
        before, B = self.frozen_squares(), self.B.T
        half = torch.addmm(
            self.A @ self.W0.to(self.A.dtype).T, self.A @ self.A.T, B, alpha=self.scale / 2
        )
        squares = before + 2 * self.scale * (B * half).sum(dim=0)
        # Where the update takes away most of a row, the sum is a small difference of large numbers.
        if bool((squares < before / 16).any()):
            return self.plain_norm()
        return squares.sqrt()

    def frozen_squares(self) -> Tensor:
        """||W0||^2 per row, [d_out], computed once."""
        key = self.frozen_key()
        if self.squares is None or self.squares[0] != key:
            self.squares = (key, self.W0.to(self.A.dtype).norm(dim=1).square())
        return self.squares[1]

    def frozen_key(self) -> Hashable:
        """Another one after W0, or the bits it is made of, was loaded, moved or converted."""
        stored = next(chain(self.base.buffers(), self.base.parameters()))
        return stored.data_ptr(), stored._version, stored.dtype, self.A.dtype

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
        y = (self.m / self.row_norm()) * merged_linear(x, self.W0, self.A, self.B, self.scale)
        return y if self.bias is None else y + self.bias

    def growth(self, x: Tensor) -> Tensor:
        """c - 1 [d_out], c = m / ||W0 + s B A||, in the dtype of x.

        A magnitude changes by little, and 1 + little is 1 in bfloat16.
        """
        return (self.m / self.row_norm() - 1).to(x.dtype)

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        y = y + self.branch(x)
        # The bias is not part of the weight, so it is not rescaled.
        weighed = y if self.bias is None else y - self.bias.to(x.dtype)
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
