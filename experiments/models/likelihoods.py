"""The likelihood of texts that continue prompts; a prompt is computed once for all of its texts.

A source has several reference texts, and a question several choices. All of them lie in one stream
of tokens in which their prompt lies once. Attention alone sees each text behind its prompt: it gets
the prompt's keys and values again for every text.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experiments.backbones.language import next_token_loss
from experiments.backbones.stream import Layout, lay_out, positions
from experiments.data.batches import PromptedTexts
from experiments.families.base import family_of
from experiments.models import inference
from experiments.models.generation import is_packed
from experiments.models.model import Model


@dataclass(frozen=True)
class Repeated:
    """Keys and values of a stream, repeated where texts have a part in common."""

    index: Tensor  # [tokens of all whole texts], the place of each one in the stream

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Return the keys and values of every text with its prompt."""
        return k.index_select(0, self.index), v.index_select(0, self.index)


@torch.no_grad()
def losses(model: Model, texts: PromptedTexts, batch_size: int) -> np.ndarray:
    """Per text [n, 2]: the summed negative log-likelihood of its targets, and their number.

    What no packed pass computes, or not on this device, is computed with a prompt for each text.
    """
    longest = int(texts.lengths.max(initial=0))
    if model.engine.name != "packed" or not is_packed(model.backbone, longest):
        return inference.outputs(model, texts, batch_size)
    model.eval()
    found, numbers = np.zeros((len(texts), 2)), number_prompts(texts)
    for rows in batches(numbers, texts.lengths, batch_size):
        found[rows] = weigh(model, texts, rows, numbers[rows])
    return found


def number_prompts(texts: PromptedTexts) -> np.ndarray:
    """A number [n] for the prompt of each text; equal prompts have the same."""
    known: dict[bytes, int] = {}
    ids = texts.columns["input_ids"]
    own = (
        ids[a : a + n].tobytes() for a, n in zip(texts.starts, texts.prompt_lengths, strict=True)
    )
    return np.array([known.setdefault(prompt, len(known)) for prompt in own], dtype=np.int64)


def batches(numbers: np.ndarray, lengths: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Rows of all texts in batches of less than twice the size; those of one prompt together.

    Texts have prompts of these `numbers` [n]. Of a prompt with more texts than the size, so many
    are together.
    """
    groups: dict[int, list[int]] = {}
    for row, number in enumerate(numbers.tolist()):
        groups.setdefault(number, []).append(row)
    parts = [own[i : i + size] for own in groups.values() for i in range(0, len(own), size)]
    batch: list[int] = []
    # Long texts first: what is too large for the memory shows at once.
    for part in sorted(parts, key=lambda rows: -int(lengths[rows].sum())):
        batch += part
        if len(batch) >= size:
            yield np.array(batch)
            batch = []
    if batch:
        yield np.array(batch)


@dataclass(frozen=True)
class Group:
    """Texts with their prompts, as a stream in which neighbours with one prompt have it once."""

    ids: np.ndarray  # [tokens of all whole texts]
    lengths: np.ndarray  # [n], of whole texts
    places: np.ndarray  # [m], of the stream's tokens among those of whole texts, rising
    index: np.ndarray  # [tokens of all whole texts], the place of each one in the stream
    targets: np.ndarray  # places of the targets among the tokens of whole texts
    text_of: np.ndarray  # [tokens of all whole texts], the number of its text


def share_prompts(
    ids: np.ndarray, lengths: np.ndarray, prompts: np.ndarray, numbers: np.ndarray
) -> Group:
    """Lay out whole texts [tokens] of these lengths [n].

    They begin with prompts of so many tokens [n]; neighbours of one number [n] have the same.
    """
    starts, own = np.cumsum(lengths) - lengths, positions(lengths)
    text_of = np.repeat(np.arange(len(lengths)), lengths)
    begins = np.diff(numbers, prepend=-1) != 0  # texts whose prompt lies in the stream
    first = np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))
    is_target = own >= prompts[text_of]
    places = np.flatnonzero(is_target | begins[text_of])
    origin = np.arange(len(ids))  # the token of the stream that stands for each one
    shared = ~is_target
    origin[shared] = (starts[first[text_of]] + own)[shared]
    index = np.searchsorted(places, origin)
    return Group(ids, lengths, places, index, np.flatnonzero(is_target), text_of)


def weigh(model: Model, texts: PromptedTexts, rows: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The losses [m, 2] of these rows, whose prompts have these numbers [m]."""
    ids = texts.columns["input_ids"][texts.token_positions(rows)].astype(np.int64)
    group = share_prompts(ids, texts.lengths[rows], texts.prompt_lengths[rows], numbers)
    read, where = np.unique(group.index[group.targets - 1], return_inverse=True)
    states = last_states(model, group, read, texts.padding["input_ids"])
    table = family_of(model.backbone.config).output(model.backbone).weight
    hidden, targets = states.index_select(0, torch.from_numpy(where)), ids[group.targets]
    _, each = next_token_loss(hidden, table, torch.from_numpy(targets), 0.0)
    found = np.zeros((len(rows), 2))
    np.add.at(found, group.text_of[group.targets], np.stack((each, np.ones(len(each))), axis=1))
    return found


def last_states(model: Model, group: Group, read: np.ndarray, padding: int) -> Tensor:
    """The last hidden states [r, d] of the tokens at the places `read` [r] of the stream."""
    backbone, engine = model.backbone, model.engine
    family, stream, whole = family_of(backbone.config), len(group.places), len(group.ids)
    # A text of padding behind the others, so that few shapes are met.
    missing = np.arange(-stream % engine.multiple)
    lengths = np.append(group.lengths, len(missing))
    places = np.append(group.places, whole + missing)
    ids = np.append(group.ids[group.places], np.full_like(missing, padding))
    memory = Repeated(torch.from_numpy(np.append(group.index, stream + missing)))
    every = lay_out(lengths, backbone.device, causal=True)
    own = every.positions[torch.from_numpy(places)]
    layout = Layout(lengths, own, True, places, None, memory)
    reading = Layout(lengths, own, True, places[read], torch.from_numpy(read), memory)
    context, blocks = family.context(backbone, every), family.blocks(backbone)
    x = family.embed(backbone, {"input_ids": torch.from_numpy(ids)}, layout)
    x = engine.through(backbone, blocks[:-1], context, x, layout)
    return family.finish(backbone, engine.through(backbone, blocks[-1:], context, x, reading))
