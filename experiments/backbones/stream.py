"""A batch without padding: its examples one after another, and how attention keeps them apart."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

BLOCK = 64  # tokens; shorter blocks cost more calls than they save, see benchmarks/NOTES.md


@dataclass(frozen=True)
class Block:
    """Neighbouring examples that attention sees together."""

    tokens: slice  # of the stream
    queries: slice  # of those that attend: their own tokens, or some of them
    bias: Tensor | None  # [queries, tokens], -inf where one does not see another, else 0


@dataclass(frozen=True)
class Layout:
    """Where the examples of a stream lie."""

    positions: Tensor  # [tokens], of each token in its example
    blocks: list[Block]
    places: Tensor | None = None  # [m], of the tokens that attend, rising; none: all of them

    def queries(self, x: Tensor) -> Tensor:
        """The rows of x [tokens, d] whose tokens attend."""
        return x if self.places is None else x.index_select(0, self.places)

    def reading(self, places: np.ndarray) -> "Layout":
        """The layout in which only the tokens at these places [m], which rise, attend."""
        device, blocks = self.positions.device, []
        for block in self.blocks:
            first, after = np.searchsorted(places, [block.tokens.start, block.tokens.stop])
            own = torch.from_numpy(places[first:after] - block.tokens.start).to(device)
            bias = None if block.bias is None else block.bias[own]
            blocks.append(Block(block.tokens, slice(int(first), int(after)), bias))
        return replace(self, blocks=blocks, places=torch.from_numpy(places).to(device))


def width(rows: slice) -> int:
    """How many rows there are."""
    return rows.stop - rows.start


def lay_out(lengths: np.ndarray, device: torch.device, causal: bool) -> Layout:
    """The layout of examples of these lengths [n]; `causal`: no token sees a later one."""
    ends = np.cumsum(lengths)
    examples = np.repeat(np.arange(len(lengths)), lengths)
    blocks = [block_of(part, examples[part], causal, device) for part in parts(ends)]
    return Layout(torch.from_numpy(positions(lengths)).to(device), blocks)


def positions(lengths: np.ndarray) -> np.ndarray:
    """The place [tokens] of each token in its own example, for examples of these lengths [n]."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def parts(ends: np.ndarray) -> list[slice]:
    """The stream in parts of `BLOCK` tokens at most, or of one example that is longer."""
    found, start = [], 0
    for last, after in zip(ends, [*ends[1:], math.inf], strict=True):
        if after - start > BLOCK:
            found.append(slice(start, int(last)))
            start = int(last)
    return found


def block_of(tokens: slice, examples: np.ndarray, causal: bool, device: torch.device) -> Block:
    """The block of these tokens, which belong to these examples [tokens]."""
    seen = examples[:, None] == examples
    seen = np.tril(seen) if causal else seen
    if seen.all():
        return Block(tokens, tokens, None)
    bias = np.where(seen, np.float32(0), np.float32(-math.inf))
    return Block(tokens, tokens, torch.from_numpy(bias).to(device))
