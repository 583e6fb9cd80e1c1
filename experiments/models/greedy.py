"""Greedy search by the packed passes: no padding, and texts that have ended are left out.

Keys and values of all tokens lie in a memory with as many places for every text; a step computes
the new tokens alone, the prompts' in the first one. transformers' search takes every text to the
end of the longest, and copies its keys and values at each step.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.backbones.stream import Layout
from experiments.families.base import family_of

FEWER = 8  # texts less before a batch is made smaller, so that few shapes are met


@dataclass
class Memory:
    """The keys and values of every block, with `room` places for each text."""

    texts: int
    room: int
    keys: list[Tensor] = field(default_factory=list)  # [texts * room, width] of each block
    values: list[Tensor] = field(default_factory=list)
    block: int = 0  # whose turn it is
    places: Tensor | None = None  # [m], of the new tokens

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Put the new tokens' keys and values [m, width] of a block down; return those of all."""
        assert self.places is not None
        if self.block == len(self.keys):
            for held, new in ((self.keys, k), (self.values, v)):
                held.append(new.new_zeros(self.texts * self.room, new.shape[1]))
        own = self.keys[self.block], self.values[self.block]
        for held, new in zip(own, (k, v), strict=True):
            held[self.places] = new
        self.block += 1
        return own


@torch.no_grad()
def search(
    backbone: Any, prompts: Sequence[Sequence[int]], limit: int, end: Sequence[int]
) -> list[list[int]]:
    """At most `limit` tokens behind each prompt, the likeliest one by one, without the end."""
    family, output = family_of(backbone.config), family_of(backbone.config).output(backbone)
    memory = Memory(len(prompts), max(map(len, prompts)) + limit)
    every = layout_of(memory, np.arange(memory.texts * memory.room))
    context = family.context(backbone, every)
    found: list[list[int]] = [[] for _ in prompts]
    lengths = np.array([len(prompt) for prompt in prompts])
    active, new = np.arange(len(prompts)), [list(prompt) for prompt in prompts]
    for _ in range(limit):
        counts = np.array([len(tokens) for tokens in new])
        ends = active * memory.room + lengths[active]
        places = np.concatenate([np.arange(e - n, e) for e, n in zip(ends, counts, strict=True)])
        layout, ids = layout_of(memory, places), torch.tensor(list(chain(*new)))
        memory.block, memory.places = 0, torch.from_numpy(places)
        x = family.embed(backbone, {"input_ids": ids}, layout)
        for block in family.blocks(backbone):
            x = family.block(backbone, context, block, x, layout, False)
        last = torch.from_numpy(np.cumsum(counts) - 1)
        chosen = output(family.finish(backbone, x.index_select(0, last))).argmax(dim=1).tolist()
        for text, token in zip(active.tolist(), chosen, strict=True):
            found[text].append(token)
        going = np.array([not set(end) & set(found[text]) for text in active])
        if not going.any():
            break
        lengths[active] += 1
        if (~going).sum() >= min(FEWER, len(active)):
            active, chosen = active[going], [t for t, g in zip(chosen, going, strict=True) if g]
        new = [[token] for token in chosen]
    return [tokens[: first_of(end, tokens)] for tokens in found]


def layout_of(memory: Memory, places: np.ndarray) -> Layout:
    """The tokens at these places of a memory, which attend to those before them in their text."""
    lengths = np.full(memory.texts, memory.room)
    positions = torch.from_numpy(places % memory.room)
    return Layout(lengths, positions, True, places, None, memory)


def first_of(end: Sequence[int], tokens: Sequence[int]) -> int:
    """The place of the first token that ends a text, or behind all."""
    return next((i for i, token in enumerate(tokens) if token in end), len(tokens))
