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
    replace_linears,
    target_linears,
)
from variants.layerwise import Layerwise, exportable
from variants.peft_forms import state

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
        return None if self.b0 is None else self.l * self.b0

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return (y * self.l).to(y.dtype)


class IA3InputLayer(IA3Layer):
    """y = W0 (l * x) + b, with l [d_in]."""

    side = 1

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        if not self.form.dense:
            raise ValueError(
                f"Each entry of an input can be rescaled in a linear layer, not in a "
                f"{self.form.noun}; leave it out of feedforward."
            )

    def merged_bias(self) -> Tensor | None:
        return self.b0

    def forward(self, x: Tensor) -> Tensor:
        return self.base((x * self.l).to(x.dtype))

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return self.forward(x)


@dataclass(frozen=True, kw_only=True)
class IA3(Layerwise):
    """One vector per layer: on the outputs of `targets`, on the inputs of `feedforward`."""

    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset(
        {"feedforward_modules", "init_ia3_weights"}
    )

    feedforward: list[str]  # names of linear layers too

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        inputs = {id(linear) for linear in self.by_inputs(model)}

        def wrap(linear: nn.Module) -> nn.Module:
            return IA3InputLayer(linear) if id(linear) in inputs else IA3Layer(linear)

        replace_linears(model, [*self.targets, *self.feedforward], wrap)

    def by_inputs(self, model: nn.Module) -> list[nn.Linear]:
        """The layers whose inputs are rescaled."""
        if not self.feedforward:
            return []
        try:
            return list(target_linears(model, self.feedforward).values())
        except ValueError as error:
            raise ValueError(f"feedforward, which may be [], means nothing here: {error}") from None

    def to_peft(self, model: nn.Module) -> Foreign:
        layers = exportable(model, IA3Layer)
        inputs = [re.escape(name) for name in exportable(model, IA3InputLayer)]
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
