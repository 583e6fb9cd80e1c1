"""A batch without padding: its examples one after another, and how attention keeps them apart."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK = 64  # tokens; shorter blocks cost more calls than they save, see benchmarks/NOTES.md


@dataclass(frozen=True)
class Block:
    """Neighbouring examples that attention sees together."""

    tokens: slice  # of the stream
    bias: Tensor | None  # [tokens, tokens], -inf where one does not see another, else 0


@dataclass(frozen=True)
class Layout:
    """Where the examples of a stream lie."""

    positions: Tensor  # [tokens], of each token in its example
    blocks: list[Block]


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
        return Block(tokens, None)
    bias = np.where(seen, np.float32(0), np.float32(-math.inf))
    return Block(tokens, torch.from_numpy(bias).to(device))
