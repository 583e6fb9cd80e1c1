"""FourierFT: the change is the inverse Fourier transform of few numbers.

Gao et al., 2024, arXiv:2405.03003: dW = alpha Re(IDFT2(F)), where F is zero but for n trained
numbers c at random positions, the same in all layers of one shape.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Foreign, Variant, at_least_float32, get_matrix
from variants.layerwise import (
    DenseLayer,
    check_fields,
    exportable,
    tensors_of,
)
from variants.peft_forms import state
from variants.seeded import SparseMethod

NAMES = {"c": "fourierft_spectrum"}


class FourierFTLayer(DenseLayer):
    """The update alpha Re(IDFT2(F)) with c [n] at `positions` [n] of the flattened F."""

    def __init__(self, base: nn.Module, positions: Tensor, alpha: float, zero: bool) -> None:
        super().__init__(base)
        c = at_least_float32(self.W0).new_zeros(len(positions))
        self.c = nn.Parameter(c if zero else c.normal_())
        self.alpha = alpha
        self.positions: Tensor
        self.places: Tensor
        self.which: Tensor
        self.place(positions)

    def place(self, positions: Tensor) -> None:
        """Put c at these positions, [n] on the CPU.

        `places` is where its entries go in the half of F that says all, and `which` they are. The
        real part is that of F made even, and an even F is known from its first columns.
        """
        d_out, d_in = self.W0.shape
        j, k = positions // d_in, positions % d_in
        j, k = torch.cat((j, -j % d_out)), torch.cat((k, -k % d_in))
        kept = (k <= d_in // 2).nonzero()[:, 0]
        places, which = j[kept] * (d_in // 2 + 1) + k[kept], kept % len(positions)
        for name, buffer in (("positions", positions), ("places", places), ("which", which)):
            self.register_buffer(name, buffer.to(self.c.device), persistent=False)

    def delta(self) -> Tensor:
        d_out, d_in = self.W0.shape
        F = self.c.new_zeros(d_out * (d_in // 2 + 1))
        F = F.index_add(0, self.places, self.c[self.which] * (self.alpha / 2)).view(d_out, -1)
        return torch.fft.irfft2(torch.complex(F, torch.zeros_like(F)), s=(d_out, d_in))


@dataclass(frozen=True, kw_only=True)
class FourierFT(SparseMethod):
    """n numbers for each matrix, whatever its size."""

    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset(
        {"n_frequency", "scaling", "random_loc_seed"}
    )

    begin: str  # normal, as in the paper: c ~ N(0, 1); or zero: c = 0, the pretrained model

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.begin not in ("normal", "zero"):
            raise ValueError(f"begin must be normal or zero, got '{self.begin}'.")

    @property
    def starts_as_pretrained(self) -> bool:
        """Only if c is zero."""
        return self.begin == "zero"

    def wrap(self, linear: nn.Module) -> nn.Module:
        positions = self.draw(get_matrix(linear).numel())
        return FourierFTLayer(linear, positions, self.alpha, self.starts_as_pretrained)

    def to_peft(self, model: nn.Module) -> Foreign:
        return Foreign(
            library="peft",
            config={
                "peft_type": "FOURIERFT",
                "n_frequency": self.n,
                "scaling": self.alpha,
                "random_loc_seed": self.position_seed,
            },
            layers=tensors_of(exportable(model, FourierFTLayer), NAMES),
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "FOURIERFT":
            return None
        check_fields(form, {"n_frequency_pattern": {}})
        variant = FourierFT(
            lr=0.0,
            n=config.get("n_frequency", 1000),
            alpha=float(config.get("scaling", 150.0)),
            begin="normal",
            position_seed=config.get("random_loc_seed", 777),
            targets=list(form.layers),
        )
        return variant, state(form, NAMES)
