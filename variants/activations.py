"""What comes into layers: their inputs on real tokens, and moments of them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import AdapterLayer


@torch.no_grad()
def visit_inputs(
    model: nn.Module,
    layers: Mapping[str, AdapterLayer],
    batches: Iterable[Any],
    visit: Callable[[str, Tensor], None],
) -> None:
    """Call `visit(name, x)` with each layer's input x [real tokens, d_in], batch by batch.

    Padding is left out, and dropout is off.
    """
    mask = torch.empty(0)

    def hook(name: str) -> Any:
        def see(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            visit(name, inputs[0][mask])

        return see

    hooks = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    training = model.training
    model.eval()
    for batch in batches:
        mask = batch.inputs["attention_mask"].bool()
        model(**batch.inputs)
    model.train(training)
    for handle in hooks:
        handle.remove()


@dataclass
class Moments:
    """The sums over tokens of x [d] and of x x^T [d, d], in float64."""

    first: Tensor
    second: Tensor
    tokens: int = 0

    def add(self, x: Tensor) -> None:
        """Take in the inputs x [tokens, d]."""
        x = x.double()
        self.first += x.sum(dim=0)
        self.second += x.T @ x
        self.tokens += len(x)

    def covariance(self) -> Tensor:
        """The mean of (x - mean)(x - mean)^T."""
        mean = self.first / self.tokens
        return self.second / self.tokens - torch.outer(mean, mean)


def input_moments(
    model: nn.Module, layers: Mapping[str, AdapterLayer], batches: Iterable[Any]
) -> dict[str, Moments]:
    """The moments of each layer's input by name; layers that share an input share one object.

    Which do is seen in the first batch. Raises ValueError where there is no batch.
    """
    found: dict[str, Moments] = {}
    owners: dict[str, str] = {}
    inputs: dict[str, Tensor] = {}  # of the first batch

    def visit(name: str, x: Tensor) -> None:
        if name not in owners:
            same = (n for n, seen in inputs.items() if seen.shape == x.shape and seen.equal(x))
            owners[name] = next(same, name)
            inputs[name] = x
            if owners[name] == name:
                zeros = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
                found[name] = Moments(zeros[0].clone(), zeros)
        if owners[name] == name:
            found[name].add(x)

    visit_inputs(model, layers, batches, visit)
    if not owners:
        raise ValueError("The probe saw no batch.")
    return {name: found[owner] for name, owner in owners.items()}
