"""SHiRA: a few entries of each weight train.  Bhardwaj et al., 2024, arXiv:2406.13175.

W = W0 + S with as many trained entries as a LoRA of rank r has numbers, drawn at random or those of
largest |W0|. The places are part of the adapter.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Foreign, Variant, at_least_float32, check_adapter, get_matrix
from variants.layerwise import DenseLayer, Layerwise, exportable, layers_of, tensors_of
from variants.peft_forms import state
from variants.seeded import draw_positions

NAMES = {"values": "shira_weight", "positions": "shira_indices"}


class SHiRALayer(DenseLayer):
    """The update with `values` [n] at rows and columns `positions` [2, n], and zero elsewhere."""

    def __init__(self, base: nn.Module, positions: Tensor) -> None:
        super().__init__(base)
        d_in = self.W0.shape[1]
        self.values = nn.Parameter(at_least_float32(self.W0).new_zeros(len(positions)))
        places = torch.stack((positions // d_in, positions % d_in)).to(self.values.device)
        self.positions = nn.Parameter(places.int(), requires_grad=False)

    def delta(self) -> Tensor:
        return self.with_values(self.values.new_zeros(self.W0.shape))

    def merged_weight(self) -> Tensor:
        return self.with_values(at_least_float32(self.W0))

    def with_values(self, weight: Tensor) -> Tensor:
        """A weight [d_out, d_in] with the values added."""
        rows, columns = self.positions.long()
        places = rows * weight.shape[1] + columns
        return weight.flatten().index_add(0, places, self.values).view(weight.shape)


@dataclass(frozen=True, kw_only=True)
class SHiRA(Layerwise):
    """As many numbers as LoRA has, in the weight itself."""

    sized_by_rank: ClassVar[bool] = True
    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset({"mask_type", "random_seed"})
    foreign_places: ClassVar[frozenset[str]] = frozenset({NAMES["positions"]})

    rank: int  # r of the LoRA that has as many parameters
    mask: str  # random, or magnitude: the entries of largest |W0|
    position_seed: int  # of random places

    def __post_init__(self) -> None:
        check_adapter(self.rank, dropout=0.0)
        if self.mask not in ("random", "magnitude"):
            raise ValueError(f"mask must be random or magnitude, got '{self.mask}'.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        W0 = get_matrix(linear)
        count = self.rank * sum(W0.shape)
        if count > W0.numel():
            raise ValueError(
                f"rank {self.rank} makes {count} trained entries of {list(W0.shape)}, which has "
                f"{W0.numel()}."
            )
        if self.mask == "magnitude":
            positions = W0.detach().abs().flatten().topk(count).indices
        else:
            positions = draw_positions(count, W0.numel(), self.position_seed)
        return SHiRALayer(linear, positions.sort().values)

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        for name, layer in layers_of(model, SHiRALayer).items():
            if (found := state.get(f"{name}.positions")) is not None:
                check_positions(name, found, layer.W0.shape)
        super().load_state(model, state)

    def to_peft(self, model: nn.Module) -> Foreign:
        return Foreign(
            library="peft",
            config={"peft_type": "SHIRA", "r": self.rank, "mask_type": "random"},
            layers=tensors_of(exportable(model, SHiRALayer), NAMES),
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        if form.config.get("peft_type") != "SHIRA":
            return None
        seed = form.config.get("random_seed") or 0
        rank, targets = form.config["r"], list(form.layers)
        variant = SHiRA(lr=0.0, rank=rank, mask="random", position_seed=seed, targets=targets)
        return variant, state(form, NAMES)


def check_positions(name: str, positions: Tensor, shape: torch.Size) -> None:
    """Raise ValueError for positions [2, n] of which some lie outside of a weight of this shape."""
    if positions.is_meta or positions.ndim != 2 or len(positions) != 2:
        return  # it is refused by its shape
    sides = torch.tensor(shape, device=positions.device)[:, None]
    if not ((positions >= 0) & (positions < sides)).all():
        raise ValueError(f"Some positions of {name} lie outside of its weight, {list(shape)}.")
