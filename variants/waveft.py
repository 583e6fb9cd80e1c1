"""WaveFT: the change is a wavelet synthesis of few numbers.  2025, arXiv:2505.12532.

dW = lambda W^-1(F), where F is zero but for n trained numbers c at random positions, and W^-1 the
Haar synthesis of one level, which keeps lengths: each number moves a patch of 2 x 2 entries. The
form is PEFT's, as the authors' code was not read.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
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

NAMES = {"c": "waveft_spectrum"}


class WaveFTLayer(DenseLayer):
    """The update lambda W^-1(F) with c [n] at `positions` [n] of the flattened F [d_out, d_in]."""

    def __init__(self, base: nn.Module, positions: Tensor, scale: float) -> None:
        super().__init__(base)
        self.c = nn.Parameter(at_least_float32(self.W0).new_zeros(len(positions)))
        self.scale = scale
        self.positions: Tensor
        self.place(positions)

    def place(self, positions: Tensor) -> None:
        """Put c at these positions, [n]."""
        self.register_buffer("positions", positions.to(self.c.device), persistent=False)

    def delta(self) -> Tensor:
        d_out, d_in = self.W0.shape
        flat = self.c.new_zeros(d_out * d_in).index_add(0, self.positions, self.scale * self.c)
        return haar(F.pad(flat.view(d_out, d_in), (0, d_in % 2, 0, d_out % 2)))[:d_out, :d_in]


def haar(spectrum: Tensor) -> Tensor:
    """The one-level synthesis of quadrants: averages, and differences down, along and across."""
    (a, h), (v, d) = (half.chunk(2, dim=1) for half in spectrum.chunk(2))
    patches = torch.stack((a + h + v + d, a + h - v - d, a - h + v - d, a - h - v + d), dim=-1) / 2
    rows, columns = a.shape
    return patches.view(rows, columns, 2, 2).transpose(1, 2).reshape(2 * rows, 2 * columns)


@dataclass(frozen=True, kw_only=True)
class WaveFT(SparseMethod):
    """n numbers for each matrix, each of which moves four neighbours."""

    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset(
        {"n_frequency", "scaling", "random_loc_seed", "wavelet_family", "use_idwt"}
    )

    def wrap(self, linear: nn.Module) -> nn.Module:
        positions = self.draw(get_matrix(linear).numel())
        return WaveFTLayer(linear, positions, self.alpha)

    def to_peft(self, model: nn.Module) -> Foreign:
        return Foreign(
            library="peft",
            config={
                "peft_type": "WAVEFT",
                "n_frequency": self.n,
                "scaling": self.alpha,
                "random_loc_seed": self.position_seed,
                "wavelet_family": "db1",
                "use_idwt": True,
            },
            layers=tensors_of(exportable(model, WaveFTLayer), NAMES),
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "WAVEFT":
            return None
        check_fields(
            form,
            {"wavelet_family": "db1", "use_idwt": True, "n_frequency_pattern": {}}
            | {"proportional_parameters": False},
        )
        variant = WaveFT(
            lr=0.0,
            n=config["n_frequency"],
            alpha=float(config["scaling"]),
            position_seed=config["random_loc_seed"],
            targets=list(form.layers),
        )
        return variant, state(form, NAMES)
