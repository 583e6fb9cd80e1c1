"""Methods that put a layer of their own in the place of each target, and what they share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import (
    AdapterLayer,
    Foreign,
    Variant,
    adapter_layers,
    at_least_float32,
    find_exportable_layers,
    mark_additive,
    replace_linears,
)
from variants.products import can_merge, disable_autocast, side_product

Layer = TypeVar("Layer", bound=AdapterLayer)


@dataclass(frozen=True, kw_only=True)
class Layerwise(Variant):
    """A method that is one adapter layer in the place of each target."""

    targets: list[str]  # names of linear layers, or ends of their dotted names

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        replace_linears(model, self.targets, self.wrap)

    def wrap(self, linear: nn.Module) -> nn.Module:
        """The adapter layer that takes the place of `linear`."""
        raise NotImplementedError


class DenseLayer(AdapterLayer):
    """An adapter layer that makes its update W - W0 as one matrix in every call.

    The update and W0 become one weight where that loses nothing. In bfloat16 and with dropout the
    update stays beside W0: added to it, a small one would be rounded away.
    """

    def __init__(self, base: nn.Module, dropout: float = 0.0) -> None:
        super().__init__(base)
        self.dropout = nn.Dropout(dropout)

    def delta(self) -> Tensor:
        """W - W0 [d_out, d_in], at least float32, with gradients to what trains."""
        raise NotImplementedError

    def merged_weight(self) -> Tensor:
        return at_least_float32(self.W0) + self.delta()

    def compute_change(self) -> Tensor:
        with disable_autocast(self.W0.device):
            return self.delta()

    def forward(self, x: Tensor) -> Tensor:
        if can_merge(x, self.base) and not self.dropping():
            return F.linear(x, self.merged_weight(), self.b0)
        return self.update(x, self.base(x))

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return y + F.linear(self.dropout(x), self.compute_change().to(x.dtype))


class ProductLayer(AdapterLayer):
    """An adapter layer whose update is a thin product, s B A, of factors made of what trains."""

    def __init__(self, base: nn.Module, dropout: float = 0.0) -> None:
        super().__init__(base)
        self.dropout = nn.Dropout(dropout)

    def product(self) -> tuple[Tensor, Tensor, float]:
        """A [r, d_in], B [d_out, r] and s, with gradients to what trains."""
        raise NotImplementedError

    def factors(self) -> tuple[Tensor, Tensor, float]:
        with disable_autocast(self.W0.device):
            return self.product()

    def merged_weight(self) -> Tensor:
        A, B, scale = self.product()
        return at_least_float32(self.W0) + scale * B @ A

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        A, B, scale = self.factors()
        return y + side_product(self.dropout(x), A.to(x.dtype), B.to(x.dtype), scale)


class BranchLayer(AdapterLayer):
    """An adapter layer whose update is `branch(dropout(x))`, a linear map without a bias."""

    def __init__(self, base: nn.Module, dropout: float) -> None:
        super().__init__(base)
        self.dropout = nn.Dropout(dropout)

    def branch(self, x: Tensor) -> Tensor:
        """The map of x [..., d_in] to [..., d_out]."""
        raise NotImplementedError

    def merged_weight(self) -> Tensor:
        W0 = at_least_float32(self.W0)
        identity = torch.eye(W0.shape[1], dtype=W0.dtype, device=W0.device)
        return W0 + self.branch(identity).T

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.branch(self.dropout(x))


def layers_of(model: nn.Module, kind: type[Layer]) -> dict[str, Layer]:
    """The model's adapter layers of one class by name."""
    return {name: layer for name, layer in adapter_layers(model) if isinstance(layer, kind)}


def exportable(model: nn.Module, kind: type[Layer]) -> dict[str, Layer]:
    """The same, if they have a form in another library's format; else raises ValueError."""
    return {name: layer for name, layer in find_exportable_layers(model) if isinstance(layer, kind)}


def tensors_of(
    layers: Mapping[str, AdapterLayer], names: Mapping[str, str]
) -> dict[str, dict[str, Tensor]]:
    """Tensors of each layer under another library's names, given that name for each of ours."""
    return {
        layer: {theirs: getattr(found, ours).detach() for ours, theirs in names.items()}
        for layer, found in layers.items()
    }


def as_lora(
    factors: Mapping[str, tuple[Tensor, Tensor]], rank: int, alpha: float, dropout: float
) -> Foreign:
    """A plain LoRA of PEFT's with these A [r, d_in] and B [d_out, r] by layer."""
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "lora_dropout": dropout}
    return Foreign(
        library="peft",
        config=config | {"use_rslora": False},
        layers={
            name: {"lora_A.weight": A.detach(), "lora_B.weight": B.detach()}
            for name, (A, B) in factors.items()
        },
    )


def check_fields(form: Foreign, wanted: Mapping[str, Any]) -> None:
    """Raise ValueError unless the form's config has these values, or lacks the field."""
    for field, value in wanted.items():
        found = form.config.get(field, value)
        if found != value:
            raise ValueError(
                f"The checkpoint has {field}={found!r}, and only {field}={value!r} is read here."
            )
