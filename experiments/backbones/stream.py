"""A batch without padding: its examples one after another, and how attention keeps them apart."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

BLOCK = 64  # tokens; shorter blocks cost more calls than they save


class Memory(Protocol):
    """Keys and values that attention adds those of new tokens to, block by block."""

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values [m, width] of new tokens; return those of all tokens."""
        ...


@dataclass(frozen=True)
class Block:
    """Neighbouring examples that attention sees together."""

    tokens: slice  # of the stream
    queries: slice  # of those that attend: their own tokens, or some of them
    bias: Tensor | None  # [queries, tokens], -inf where one does not see another, else 0


@dataclass(frozen=True)
class Layout:
    """Where the examples of a stream lie."""

    lengths: np.ndarray  # [n], tokens of each example
    positions: Tensor  # [tokens], of each token in its example
    causal: bool  # no token sees a later one
    query_positions: np.ndarray  # [m], of the tokens that attend, in the stream, rising
    query_index: Tensor | None  # the same on the device; None: all tokens
    memory: Memory | None = None  # keys and values of tokens that went before

    def queries(self, x: Tensor) -> Tensor:
        """The rows of x [tokens, d] whose tokens attend."""
        return x if self.query_index is None else x.index_select(0, self.query_index)

    @cached_property
    def bounds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Where each example begins and the last one ends [n + 1], in the stream and among the
        tokens that attend, and the positions of these."""
        starts = np.concatenate([[0], np.cumsum(self.lengths)])
        own = np.searchsorted(self.query_positions, starts)
        return (
            torch.from_numpy(starts),
            torch.from_numpy(own),
            torch.from_numpy(self.query_positions),
        )

    @cached_property
    def blocks(self) -> list[Block]:
        """The examples in blocks, for a kernel that sees several at once."""
        ends = np.cumsum(self.lengths)
        examples = np.repeat(np.arange(len(ends)), self.lengths)
        device = self.positions.device
        return [
            block_of(p, self.query_positions, examples, self.causal, device) for p in parts(ends)
        ]


def lay_out(
    lengths: np.ndarray,
    device: torch.device,
    causal: bool,
    query_positions: np.ndarray | None = None,
) -> Layout:
    """The layout of examples of these lengths [n]; `causal`: no token sees a later one.

    With `query_positions` [m], which rise, only the tokens there attend.
    """
    own = torch.from_numpy(positions(lengths)).to(device)
    if query_positions is None:
        return Layout(lengths, own, causal, np.arange(len(own)), None)
    index = torch.from_numpy(query_positions).to(device)
    return Layout(lengths, own, causal, query_positions, index)


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


def block_of(
    tokens: slice,
    query_positions: np.ndarray,
    examples: np.ndarray,
    causal: bool,
    device: torch.device,
) -> Block:
    """The block of these tokens, of a stream whose tokens belong to these examples."""
    first, after = np.searchsorted(query_positions, (tokens.start, tokens.stop))
    queries = slice(int(first), int(after))
    own = query_positions[queries, None]
    seen = examples[own] == examples[tokens]
    if causal:
        seen &= own >= np.arange(tokens.start, tokens.stop)
    if seen.all():
        return Block(tokens, queries, None)
    bias = np.where(seen, np.float32(0), np.float32(-math.inf))
    return Block(tokens, queries, torch.from_numpy(bias).to(device))
