"""RoAd: pairs of outputs are turned and stretched.  Liao and Monz, 2024, arXiv:2409.00119.

W = R W0 and b' = R b, with R of 2 x 2 blocks a (cos t, -sin t; sin t, cos t). An output is paired
with that half a group further on: in groups of 2 with its neighbour, as in the paper; PEFT's groups
have 64. The paper's RoAd_2 and RoAd_4 give both outputs of a pair, or all four entries of a block,
numbers of their own.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch.nn as nn
from torch import Tensor

from variants.base import AdapterLayer, Foreign, Variant, at_least_float32
from variants.layerwise import Layerwise, exportable, tensors_of
from variants.peft_forms import state

NAMES = {"t": "road_theta", "a": "road_alpha"}


class RoAdLayer(AdapterLayer):
    """y = R (W0 x + b), with angles t and stretches a, `entries` of each for every pair."""

    def __init__(self, base: nn.Module, group: int, entries: int) -> None:
        super().__init__(base)
        d_out = len(self.W0)
        if d_out % group:
            raise ValueError(f"group must divide d_out={d_out}, got {group}.")
        self.group, self.entries = group, entries
        like = at_least_float32(self.W0)
        self.t = nn.Parameter(like.new_zeros(d_out // 2 * entries))
        self.a = nn.Parameter(like.new_ones(d_out // 2 * entries))

    def columns(self) -> tuple[Tensor, Tensor]:
        """Return the factors of an output and of the other output of its pair; both [d_out]."""
        half, t, a = self.group // 2, self.t, self.a
        if self.entries == 4:
            t, a = (v.view(-1, 2, self.group).transpose(0, 1).flatten(1) for v in (t, a))
            own, other = a[0] * t[0].cos(), a[1] * t[1].sin()
        else:
            if self.entries == 1:  # the same for both
                t, a = (v.view(-1, 1, half).expand(-1, 2, -1).flatten() for v in (t, a))
            own, other = a * t.cos(), a * t.sin()
        signs = other.new_tensor([-1.0, 1.0])[:, None]
        return own, (other.view(-1, 2, half) * signs).flatten()

    def turned(self, y: Tensor) -> Tensor:
        """R y for y [..., d_out], at least float32."""
        own, other = self.columns()
        pairs = y.unflatten(-1, (-1, 2, self.group // 2))
        return y * own + pairs.flip(-2).flatten(-3) * other

    def merged_weight(self) -> Tensor:
        return self.turned(at_least_float32(self.W0).T).T

    def merged_bias(self) -> Tensor | None:
        return None if self.b0 is None else self.turned(self.b0)

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return self.turned(y).to(y.dtype)


@dataclass(frozen=True, kw_only=True)
class RoAd(Layerwise):
    """An angle and a length for every pair of outputs; neither is decayed."""

    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset({"variant", "group_size"})

    group: int  # outputs, of which one half is paired with the other
    entries: int  # numbers of each kind for a pair: 1, 2 or 4

    def __post_init__(self) -> None:
        if self.group < 2 or self.group % 2:
            raise ValueError(f"group must be even, got {self.group}.")
        if self.entries not in (1, 2, 4):
            raise ValueError(f"entries must be 1, 2 or 4, got {self.entries}.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        return RoAdLayer(linear, self.group, self.entries)

    def to_peft(self, model: nn.Module) -> Foreign:
        config = {"variant": f"road_{self.entries}", "group_size": self.group}
        return Foreign(
            library="peft",
            config={"peft_type": "ROAD", **config},
            layers=tensors_of(exportable(model, RoAdLayer), NAMES),
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "ROAD":
            return None
        entries = int(str(config.get("variant", "road_1")).removeprefix("road_"))
        group, targets = config.get("group_size", 64), list(form.layers)
        return RoAd(lr=0.0, group=group, entries=entries, targets=targets), state(form, NAMES)
