"""EVA: LoRA whose A starts as the principal directions of each layer's inputs.

Paischer et al., 2024, arXiv:2410.07170. Before training the ranks go where directions explain most
of the variance of their inputs: each layer offers round(r rho) directions, and of all layers
together the best are kept, r for each on average. B = 0, so the start is W0, and s is the same for
every rank. Directions are those of the covariance over a share of the train split, decomposed once;
the authors' code and PEFT come to them batch by batch, until they settle.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.activations import Moments, check_inputs, input_moments
from variants.base import Foreign, Probe
from variants.layerwise import layers_of
from variants.lora import LoRA, LoRALayer

SMALLEST = torch.finfo(torch.float64).tiny  # where inputs are constant, no direction has a share


@dataclass(frozen=True, kw_only=True)
class EVA(LoRA):
    """LoRA that looks at inputs first, and then has directions and ranks from them."""

    any_form: ClassVar[bool] = True
    foreign_starts: ClassVar[frozenset[str]] = frozenset({"eva"})

    rho: float  # directions that a layer offers over r; at 1 every layer keeps r
    share: float  # of the train split, stratified, whose inputs are looked at

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rho < 1:
            raise ValueError(f"rho must be at least 1, got {self.rho}.")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must lie in (0, 1], got {self.share}.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        layer = super().wrap(linear)
        assert isinstance(layer, LoRALayer)
        check_inputs(layer)
        return layer

    @torch.no_grad()
    def prepare(self, model: nn.Module, probe: Probe) -> None:
        layers = layers_of(model, LoRALayer)
        moments = input_moments(model, layers, probe.batches(self.share))
        count = round(self.rank * self.rho)
        offers = {name: directions(found, count) for name, found in moments.items()}
        ratios = {name: shares for name, (_, shares) in offers.items()}
        ranks = distribute(ratios, self.rank * len(layers))
        for name, layer in layers.items():
            resize(layer, ranks[name])
            layer.A.copy_(offers[name][0][: ranks[name]])

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        for name, layer in layers_of(model, LoRALayer).items():
            if f"{name}.A" in state:
                resize(layer, len(state[f"{name}.A"]))
        super().load_state(model, state)

    def to_peft(self, model: nn.Module) -> Foreign:
        """A LoRA of ranks that differ; a layer that has none is left out."""
        form = super().to_peft(model)
        layers = {n: t for n, t in form.layers.items() if len(t["lora_A.weight"])}
        return replace(form, layers=layers)

    def telemetry(self, model: nn.Module) -> dict[str, float]:
        """The rank of each layer, and of all together."""
        layers = layers_of(model, LoRALayer)
        ranks = {f"rank/{name}": float(len(layer.A)) for name, layer in layers.items()}
        return {"rank": sum(ranks.values()), **ranks}


def directions(moments: Moments, count: int) -> tuple[Tensor, Tensor]:
    """The principal directions [count, d] of inputs, and the share of variance of each."""
    covariance = moments.covariance()
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count].T
    # A direction has no sign; its largest entry is positive.
    signs = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True)).sign()
    return vectors * signs, values.clamp_min(0) / covariance.trace().clamp_min(SMALLEST)


def distribute(ratios: Mapping[str, Tensor], total: int) -> dict[str, int]:
    """How many of each layer's directions are among the `total` best; of equal ones the first."""
    names = [name for name, found in ratios.items() for _ in found]
    order = torch.cat(list(ratios.values())).sort(descending=True, stable=True).indices[:total]
    ranks = dict.fromkeys(ratios, 0)
    for i in order.tolist():
        ranks[names[i]] += 1
    return ranks


def resize(layer: LoRALayer, rank: int) -> None:
    """Give the factors this rank; B is zero then."""
    (d_out, d_in), A = layer.W0.shape, layer.A
    layer.A = nn.Parameter(A.new_zeros(rank, d_in))
    layer.B = nn.Parameter(A.new_zeros(d_out, rank))
