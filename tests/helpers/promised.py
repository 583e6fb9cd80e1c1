"""The promises of every method, checked once before the contract's other tests ask for it."""

from functools import cache

import pytest
import torch
import torch.nn as nn
from modules import method

from variants.promises import BrokenPromise, check

TOLD: set[str] = set()


class Block(nn.Module):
    """Two projections that a method adapts, and what it leaves alone."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(width, width), nn.Linear(width, width)
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x + self.dense(torch.tanh(self.query(x)) * self.value(x)))


class Stack(nn.Module):
    """Two blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(Block(width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.layer:
            x = block(x)
        return x


@cache
def find_broken(name: str) -> str | None:
    """The first promise that a method breaks on a small model, as a sentence."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Stack(32), torch.randn(10, 32)
        try:
            check(method(name, ["query", "value"]), model, x)
        except BrokenPromise as broken:
            return str(broken)
    return None


def require(name: str) -> None:
    """Fail with the promise that a method breaks, and skip what else would say so less plainly."""
    if (sentence := find_broken(name)) is None:
        return
    if name in TOLD:
        pytest.skip(f"{name} breaks a promise: see tests/contract/test_promises.py")
    TOLD.add(name)
    pytest.fail(sentence, pytrace=False)
