"""A batch without padding: its examples one after another, and how attention finds them again."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

GROUPS = 4  # more cost more calls than they save padding, see benchmarks/NOTES.md


@dataclass(frozen=True)
class Group:
    """Neighbouring examples, which attention sees as a grid [rows, width] with padding behind."""

    tokens: slice  # of the stream
    rows: int
    width: int
    places: Tensor | None  # [tokens] each token's place in the flat grid; None: there is no padding
    padding: Tensor | None  # [rows, 1, 1, width], -inf where no token is, else 0

    def grids(self, x: Tensor, number: int, heads: int) -> Tensor:
        """This group's part of x [tokens, number * heads * d], with zeros for padding.

        Returns [number, rows * heads, width, d].
        """
        x = x[self.tokens]
        if self.places is not None:
            x = x.new_zeros(self.rows * self.width, x.shape[1]).index_copy_(0, self.places, x)
        x = x.view(self.rows, self.width, number, heads, -1).permute(2, 0, 3, 1, 4)
        return x.reshape(number, self.rows * heads, self.width, -1)

    def stream(self, x: Tensor) -> Tensor:
        """The inverse of `grids`: from [number, rows * heads, width, d]."""
        number, _, width, d = x.shape
        x = x.view(number, self.rows, -1, width, d).permute(1, 3, 0, 2, 4)
        x = x.reshape(self.rows * width, -1)
        return x if self.places is None else x[self.places]


@dataclass(frozen=True)
class Layout:
    """Where the examples of a stream lie."""

    positions: Tensor  # [tokens], of each token in its example
    groups: list[Group]


def lay_out(lengths: np.ndarray, device: torch.device) -> Layout:
    """The layout of examples of these lengths [n]; those of like length should be neighbours."""
    starts = np.cumsum(lengths) - lengths
    positions = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    groups = [grouped(part, int(starts[part[0]]), lengths, device) for part in parts(lengths)]
    return Layout(torch.from_numpy(positions).to(device), groups)


def parts(lengths: np.ndarray) -> Iterator[np.ndarray]:
    """The examples of each group, by number."""
    if lengths.min() == lengths.max():
        yield np.arange(len(lengths))
        return
    yield from (part for part in np.array_split(np.arange(len(lengths)), GROUPS) if len(part))


def grouped(part: np.ndarray, start: int, lengths: np.ndarray, device: torch.device) -> Group:
    """The group of these examples, whose first token is number `start`."""
    own = lengths[part]
    width, total = int(own.max()), int(own.sum())
    tokens = slice(start, start + total)
    if total == len(own) * width:
        return Group(tokens, len(own), width, None, None)
    real = np.arange(width) < own[:, None]
    places = torch.from_numpy(np.flatnonzero(real)).to(device)
    padding = torch.from_numpy(np.where(real, np.float32(0), np.float32(-np.inf))).to(device)
    return Group(tokens, len(own), width, places, padding[:, None, None, :])
