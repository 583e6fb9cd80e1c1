"""(IA)3: trained vectors that rescale keys, values and inner activations of the feed-forward.

Liu et al., 2022, arXiv:2205.05638, Sec. 3.3. On a linear layer an output vector is W = diag(l) W0
with the bias rescaled too, l * b, as it scales what the whole layer gives; an input vector is
W = W0 diag(l), the bias as it was.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

import torch.nn as nn
from torch import Tensor

from variants.base import (
    AdapterLayer,
    Foreign,
    Variant,
    at_least_float32,
    replace_module,
    target_linears,
)
from variants.foreign import state
from variants.layerwise import Layerwise, layers_of

VECTOR = "ia3_l"


class IA3Layer(AdapterLayer):
    """y = l * (W0 x + b), with l [d_out]."""

    side = 0  # the axis of W0 that l rescales

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        like = at_least_float32(self.W0)
        self.l = nn.Parameter(like.new_ones(like.shape[self.side]))

    def merged_weight(self) -> Tensor:
        return self.l.unsqueeze(1 - self.side) * at_least_float32(self.W0)

    def merged_bias(self) -> Tensor | None:
        return None if self.bias is None else self.l * self.bias

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return (y * self.l).to(y.dtype)


class IA3InputLayer(IA3Layer):
    """y = W0 (l * x) + b, with l [d_in]."""

    side = 1

    def merged_bias(self) -> Tensor | None:
        return self.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.base((x * self.l).to(x.dtype))

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return self.forward(x)


@dataclass(frozen=True, kw_only=True)
class IA3(Layerwise):
    """One vector per layer: on the outputs of `targets`, on the inputs of `feedforward`."""

    foreign_fields: ClassVar[frozenset[str]] = frozenset(
        {"feedforward_modules", "init_ia3_weights"}
    )

    feedforward: list[str]  # names of linear layers too

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        chosen = target_linears(model, [*self.targets, *self.feedforward])
        inputs = target_linears(model, self.feedforward) if self.feedforward else {}
        for name, linear in chosen.items():
            replace_module(model, name, (IA3InputLayer if name in inputs else IA3Layer)(linear))

    def to_peft(self, model: nn.Module) -> Foreign:
        layers = layers_of(model, IA3Layer)
        inputs = [re.escape(name) for name in layers_of(model, IA3InputLayer)]
        # A regular expression, as PEFT matches all of a name, of which a classifier has more.
        pattern = rf"(.*\.)?({'|'.join(inputs)})" if inputs else []
        return Foreign(
            library="peft",
            config={"peft_type": "IA3", "feedforward_modules": pattern},
            layers={
                name: {VECTOR: layer.l.detach().unsqueeze(1 - layer.side)}
                for name, layer in layers.items()
            },
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        if form.config.get("peft_type") != "IA3":
            return None
        found = state(form, {"l": VECTOR})
        # A column of outputs, or a row of inputs: the shape says which.
        inputs = [name for name in form.layers if len(found[f"{name}.l"]) == 1]
        targets = [name for name in form.layers if name not in inputs]
        variant = IA3(lr=0.0, targets=targets, feedforward=inputs)
        return variant, {name: tensor.flatten() for name, tensor in found.items()}
