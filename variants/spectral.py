"""Frozen singular vectors of W0, computed anew wherever an adapter is loaded, and not stored."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import AdapterLayer, at_least_float32, copy_exactly
from variants.layerwise import Layerwise, layers_of
from variants.state import without

SKETCH = "basis"  # in a saved state: what the vectors look like
TOLERANCE = 1e-3  # of a sketch, relative to its largest entry: more than rounding ever changes


def signed_svd(W0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U [d_out, k], S [k], Vh [k, d_in] of W0 in at least float32, k the smaller side.

    A pair of singular vectors may change its sign from one library to another, and with it what an
    adapter on them means. So the largest entry of each u_i is made positive.
    """
    U, S, Vh = torch.linalg.svd(at_least_float32(W0.detach()), full_matrices=False)
    largest = U.abs().argmax(dim=0, keepdim=True)
    signs = torch.where(U.gather(0, largest) < 0, -1.0, 1.0).to(U.dtype)
    return U * signs, S, signs.T * Vh


class BasisLayer(AdapterLayer):
    """An adapter layer on two frozen bases, A [r, d_in] and B [d_out, r], that follow from W0."""

    def __init__(self, base: nn.Module, A: Tensor, B: Tensor) -> None:
        super().__init__(base)
        self.A = nn.Parameter(A.contiguous(), requires_grad=False)
        self.B = nn.Parameter(B.contiguous(), requires_grad=False)

    @torch.no_grad()
    def sketch(self) -> Tensor:
        """Both bases as seen from two fixed directions, [2, r]."""
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(self.A.shape[1], generator=generator).to(self.A)
        y = torch.randn(self.B.shape[0], generator=generator).to(self.B)
        return torch.stack((self.A @ x, y @ self.B))


@dataclass(frozen=True, kw_only=True)
class OnBasis(Layerwise):
    """A method whose state is what trains, and a sketch of the bases it was trained on."""

    def learned_state(self, model: nn.Module) -> dict[str, Tensor]:
        """All but the bases, and instead of them their sketches."""
        return self.without_bases(model) | sketches(model)

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        for key, own in sketches(model).items():
            if not alike(state.get(key), own):
                raise ValueError(
                    f"The adapter was trained on other singular vectors of "
                    f"{key.removesuffix(f'.{SKETCH}')} than this model has ({key} differs)."
                )
        others = {name: t for name, t in state.items() if name not in sketches(model)}
        copy_exactly(self.without_bases(model), others)

    def without_bases(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the learned state without the bases."""
        layers = layers_of(model, BasisLayer).values()
        bases = [basis for layer in layers for basis in (layer.A, layer.B)]
        return without(super().learned_state(model), model, bases)


def sketches(model: nn.Module) -> dict[str, Tensor]:
    """The sketch of each layer's bases, by the name that it has in a saved state."""
    layers = layers_of(model, BasisLayer)
    return {f"{name}.{SKETCH}": layer.sketch() for name, layer in layers.items()}


def alike(found: Tensor | None, own: Tensor) -> bool:
    """Return whether a stored sketch is that of the same vectors, but for rounding."""
    if found is None or found.shape != own.shape:
        return False
    return bool((found.to(own) - own).abs().max() <= TOLERANCE * own.abs().max())
