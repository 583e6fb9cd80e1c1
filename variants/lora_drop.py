"""LoRA-drop: layers whose update does little share one LoRA.  Zhou et al., 2024, arXiv:2402.07721.

The importance of a layer is the share of ||dW x||^2 that it has after a short training. The most
important layers that together reach the threshold keep a LoRA of their own. What the
sources that were read leave open is a setting here.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch
import torch.nn as nn
from torch import Tensor

from variants.activations import Masks, visit_inputs
from variants.base import Foreign, Probe, adapter_layers, copy_exactly
from variants.lora import LoRA, LoRALayer

OWNERS = "owners"  # in a saved state: the layer, by number, whose factors each layer uses


@dataclass(frozen=True, kw_only=True)
class LoRADrop(LoRA):
    """LoRA that looks at data first, and then gives most layers one pair in common."""

    any_form: ClassVar[bool] = True

    share: float  # of the train split, stratified, that the probe trains on and looks at
    steps: int  # of the probe
    threshold: float  # T: share of the importance that layers with a LoRA of their own reach
    unit: str  # what is ranked: each matrix, or each block with its matrices together
    shared_per: str  # one pair in common for all matrices of one shape, or of one name and shape
    reset: bool  # start the main run from fresh factors

    @property
    def starts_as_pretrained(self) -> bool:
        """Unless what the probe has learned stays."""
        return self.reset

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}.")
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, since B starts at zero, got {self.steps}.")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], got {self.threshold}.")
        for name, known in (("unit", ("matrix", "block")), ("shared_per", ("shape", "name"))):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be {' or '.join(known)}, got '{getattr(self, name)}'."
                )

    def wrap(self, linear: nn.Module) -> nn.Module:
        layer = super().wrap(linear)
        assert isinstance(layer, LoRALayer)
        # Kept for the record: what was measured, and not known before.
        layer.register_buffer("importance", layer.W0.new_full((), math.nan))
        return layer

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        probe.fit(self.share, self.steps)
        importance = measure_importance(model, probe.batches(self.share))
        units: dict[str, float] = {}
        for name, value in importance.items():
            units[self.unit_of(name)] = units.get(self.unit_of(name), 0.0) + value
        kept = smallest_cover(units, self.threshold)
        layers = lora_layers(model)
        for name, layer in layers.items():
            cast(Tensor, layer.importance).fill_(importance[name])
        if self.reset:
            for layer in layers.values():
                layer.draw_A()
                nn.init.zeros_(layer.B)
        first: dict[Any, str] = {}
        owners = {
            name: name
            if self.unit_of(name) in kept
            else first.setdefault(self.group_of(name, layer), name)
            for name, layer in layers.items()
        }
        share_factors(layers, owners)

    def unit_of(self, name: str) -> str:
        """The matrix itself, or the numbered block it stands in."""
        parts = name.split(".")
        numbers = [i for i, part in enumerate(parts) if part.isdigit()]
        whole = self.unit == "matrix" or not numbers
        return name if whole else ".".join(parts[: numbers[-1] + 1])

    def group_of(self, name: str, layer: LoRALayer) -> tuple[Any, ...]:
        """Return the key that layers must have in common to share one pair."""
        return (*layer.W0.shape, name.rpartition(".")[2] if self.shared_per == "name" else "")

    def learned_state(self, model: nn.Module) -> dict[str, Tensor]:
        """Every pair once, and which layer uses whose."""
        layers = lora_layers(model)
        number = {id(layer.A): i for i, layer in reversed(list(enumerate(layers.values())))}
        owners = torch.tensor([number[id(layer.A)] for layer in layers.values()])
        return super().learned_state(model) | {OWNERS: owners}

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        layers = lora_layers(model)
        names = list(layers)
        numbers = state[OWNERS].tolist() if OWNERS in state else []
        if len(numbers) != len(names) or not all(0 <= n < len(names) for n in numbers):
            raise ValueError(
                f"The stored tensors do not fit this model: '{OWNERS}' must name one of "
                f"{len(names)} layers for each."
            )
        share_factors(layers, {name: names[n] for name, n in zip(names, numbers, strict=True)})
        factors = {name: tensor for name, tensor in state.items() if name != OWNERS}
        copy_exactly(super().learned_state(model), factors)

    def to_peft(self, model: nn.Module) -> Foreign:
        """A LoRA in which every layer has a pair of its own, equal where it was shared."""
        form = super().to_peft(model)
        layers = {
            name: {key: tensor.clone() for key, tensor in tensors.items()}
            for name, tensors in form.layers.items()
        }
        return replace(form, layers=layers)

    def telemetry(self, model: nn.Module) -> dict[str, float]:
        """How many pairs there are, which layers have one of their own, and what the probe found.

        An adapter that was loaded says nothing of the probe.
        """
        layers = lora_layers(model)
        users: dict[int, int] = {}
        for layer in layers.values():
            users[id(layer.A)] = users.get(id(layer.A), 0) + 1
        own = {f"own/{name}": float(users[id(layer.A)] == 1) for name, layer in layers.items()}
        found = {name: float(cast(Tensor, layer.importance)) for name, layer in layers.items()}
        known = {f"importance/{name}": v for name, v in found.items() if not math.isnan(v)}
        return {"pairs": float(len(users)), **own, **known}


def lora_layers(model: nn.Module) -> dict[str, LoRALayer]:
    """The model's LoRA layers by name."""
    return {n: layer for n, layer in adapter_layers(model) if isinstance(layer, LoRALayer)}


@torch.no_grad()
def measure_importance(model: nn.Module, batches: Iterable[Any]) -> dict[str, float]:
    """Each layer's share of the sum of ||(W - W0) x||^2 over all real tokens, dropout off.

    Where a layer sees something else than tokens, as pooled states or patches, all of it counts.
    Raises ValueError for a layer that nothing is known of.
    """
    layers = lora_layers(model)
    device = next(model.parameters()).device
    sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in layers}

    def add(name: str, x: Tensor, masks: Masks) -> None:
        squares = compute_squared_change(layers[name], x)
        sums[name] += (squares * masks.find(name, squares)).sum()

    visit_inputs(model, layers, batches, add)
    values = {name: float(value) for name, value in sums.items()}
    total = sum(values.values())
    if not 0 < total < math.inf:
        raise ValueError("The probe left every update at zero or not a number: nothing to compare.")
    return {name: value / total for name, value in values.items()}


def compute_squared_change(layer: LoRALayer, x: Tensor) -> Tensor:
    """||(W - W0) x||^2 for every place of the output."""
    change = layer.branch(x) if layer.form.dense else layer.apply_change(x)
    return change.double().pow(2).sum(dim=layer.form.find_channel(layer.base))


def smallest_cover(importance: dict[str, float], threshold: float) -> set[str]:
    """The fewest units, most important first, whose shares reach `threshold` in [0, 1]."""
    kept, reached = set[str](), 0.0
    for name in sorted(importance, key=lambda name: -importance[name]):
        # The shares of all add up to one but for rounding.
        if reached >= threshold - 1e-12:
            break
        kept.add(name)
        reached += importance[name]
    return kept


def share_factors(layers: dict[str, LoRALayer], owners: dict[str, str]) -> None:
    """Give each layer the factors of its owner, as the same parameters."""
    for name, owner in owners.items():
        layers[name].A, layers[name].B = layers[owner].A, layers[owner].B
