"""Frozen tensors that are drawn from a seed, and not stored: the seed and their hash are."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import adapter_layers, check_scale
from variants.layerwise import Layerwise

SEED, SHA256 = "projection.seed", "projection.sha256"  # in a saved state


def with_seed(state: dict[str, Tensor], seed: int, drawn: Iterable[Tensor]) -> dict[str, Tensor]:
    """The state with the seed of what was drawn, and the hash of what came of it."""
    return state | {SEED: torch.tensor(seed), SHA256: hash_of(drawn)}


def without_seed(
    state: Mapping[str, Tensor], setting: str, seed: int, drawn: Iterable[Tensor]
) -> dict[str, Tensor]:
    """The state without what `with_seed` has added; `setting` is what the seed is called.

    Raises ValueError if the state was trained on other frozen tensors.
    """
    for key, own in ((SEED, torch.tensor(seed)), (SHA256, hash_of(drawn))):
        if key not in state or not torch.equal(state[key].cpu(), own):
            raise ValueError(
                f"What the adapter was trained on and does not hold is not what {setting} {seed} "
                f"gives on this model ({key} differs)."
            )
    return {name: tensor for name, tensor in state.items() if name not in (SEED, SHA256)}


def hash_of(tensors: Iterable[Tensor]) -> Tensor:
    """The sha256 [32] of tensors, in order; numbers with a point in float32."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        plain = plain.float() if plain.is_floating_point() else plain.long()
        digest.update(plain.numpy().tobytes())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


class SparseLayer(Protocol):
    """An adapter layer whose trained numbers stand at positions of its flattened weight."""

    W0: Tensor

    def place(self, positions: Tensor) -> None:
        """Put the numbers at these positions, [n] on the CPU."""


@dataclass(frozen=True, kw_only=True)
class SparseMethod(Layerwise):
    """A method of n trained numbers for each matrix, at positions that are drawn and not stored."""

    n: int  # trained numbers of a matrix
    alpha: float  # multiplies what they are made into
    position_seed: int  # positions are drawn from it and not stored

    def __post_init__(self) -> None:
        check_scale(self.alpha)

    def draw(self, size: int) -> Tensor:
        """The positions [n] in a matrix of this many entries."""
        return draw_positions(self.n, size, self.position_seed)

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        super().load_state(model, state)
        for _, layer in adapter_layers(model):  # which may have had no memory yet
            cast(SparseLayer, layer).place(self.draw(layer.W0.numel()))


def draw_positions(count: int, size: int, seed: int) -> Tensor:
    """Different positions [count] below `size`, of which there must be as many."""
    if not 1 <= count <= size:
        raise ValueError(f"n must lie in 1 to {size}, the entries of a matrix, got {count}.")
    return torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:count]
