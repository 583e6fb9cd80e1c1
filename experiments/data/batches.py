"""From texts to batches: tokens, the order of examples, and how they are put together."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.backbones.stream import positions
from experiments.data.splits import Split
from experiments.machine.distributed import ALONE, World
from experiments.machine.randomness import numpy_generator

IGNORED = -100  # in the place of a label: no target here


@dataclass(frozen=True)
class Batch:
    """Examples as one stream of tokens, labels if there are any, and the rows they come from.

    Columns are [tokens]. Labels are [n], or [tokens] where tokens are to be predicted.
    """

    columns: dict[str, Tensor]  # input_ids, and token_type_ids where the model has them
    lengths: np.ndarray  # [n], tokens of each example
    labels: Tensor | None
    rows: np.ndarray
    padding: dict[str, int]  # by column
    prefix: tuple[Tensor, int] | None = None  # states [tokens, d] before the block of this number

    def to(self, device: torch.device) -> "Batch":
        columns = {name: tensor.to(device) for name, tensor in self.columns.items()}
        labels = None if self.labels is None else self.labels.to(device)
        prefix = None if self.prefix is None else (self.prefix[0].to(device), self.prefix[1])
        return replace(self, columns=columns, labels=labels, prefix=prefix)

    @property
    def device(self) -> torch.device:
        return self.columns["input_ids"].device

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())

    def filled(self, multiple: int) -> "Batch":
        """With an example of padding behind the others, if the tokens are no multiple of this."""
        missing = -self.tokens % multiple
        if not missing:
            return self
        columns = {
            name: torch.cat((x, x.new_full((missing,), self.padding[name])))
            for name, x in self.columns.items()
        }
        prefix = self.prefix and (F.pad(self.prefix[0], (0, 0, 0, missing)), self.prefix[1])
        lengths = np.append(self.lengths, missing)
        return replace(self, columns=columns, lengths=lengths, prefix=prefix)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Return transformers' form of the batch: columns [n, longest], padded on the right."""
        padded = {name: self.padded(x, self.padding[name]) for name, x in self.columns.items()}
        real = torch.ones_like(self.columns["input_ids"])
        return padded | {"attention_mask": self.padded(real, 0)}

    def padded(self, column: Tensor, padding: int) -> Tensor:
        """A column [tokens] as [n, longest]."""
        parts = list(column.split(self.lengths.tolist()))
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=padding)


class Prefix(Protocol):
    """States of all tokens of a split behind its frozen blocks."""

    blocks: int
    seconds: float

    def states(self, places: np.ndarray) -> Tensor:
        """The states [tokens, d] of the tokens at these places."""
        ...


@dataclass(frozen=True)
class Encoded:
    """A split as token ids, one example after another, ready to be batched."""

    columns: dict[str, np.ndarray]  # [tokens]: input_ids, and token_type_ids where there are any
    lengths: np.ndarray  # [n], tokens of each example
    labels: np.ndarray | None
    padding: dict[str, int]  # by column
    truncated: int  # examples that were longer than max_length
    prefix: Prefix | None = field(default=None, kw_only=True)

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def starts(self) -> np.ndarray:
        """The place [n] of each example's first token."""
        return np.cumsum(self.lengths) - self.lengths

    def num_labels(self, rows: np.ndarray) -> int:
        """How many losses these examples have: one each, or one per predicted token."""
        return len(rows)

    def token_positions(self, rows: np.ndarray) -> np.ndarray:
        """The places of all tokens of these examples, in order."""
        lengths = self.lengths[rows]
        return np.repeat(self.starts[rows], lengths) + positions(lengths)

    def batch(self, rows: np.ndarray) -> Batch:
        """These examples in this order."""
        places = self.token_positions(rows)
        columns = {
            name: torch.from_numpy(column[places].astype(np.int64))
            for name, column in self.columns.items()
        }
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        prefix = None if self.prefix is None else (self.prefix.states(places), self.prefix.blocks)
        return Batch(columns, self.lengths[rows], labels, rows, self.padding, prefix)


@dataclass(frozen=True)
class PromptedTexts(Encoded):
    """Texts that begin with a prompt; only the tokens after the prompt are to be predicted."""

    prompt_lengths: np.ndarray  # [n], in tokens

    def num_labels(self, rows: np.ndarray) -> int:
        return int(np.maximum(self.lengths - self.prompt_lengths, 0)[rows].sum())

    def batch(self, rows: np.ndarray) -> Batch:
        """These examples, their labels the targets' own tokens [tokens]."""
        batch = super().batch(rows)
        lengths = batch.lengths
        shown = torch.from_numpy(positions(lengths) < np.repeat(self.prompt_lengths[rows], lengths))
        return replace(batch, labels=batch.columns["input_ids"].masked_fill(shown, IGNORED))


def flat(examples: list[list[int]]) -> np.ndarray:
    """Token ids of examples, one after another."""
    total = sum(map(len, examples))
    return np.fromiter(chain.from_iterable(examples), dtype=np.int32, count=total)


def encode(tokenizer: PreTrainedTokenizerBase, split: Split, max_length: int) -> Encoded:
    """Tokenise a split; texts longer than `max_length` tokens are cut, and counted."""
    columns = zip(*split.texts, strict=True)
    texts = [list(column) for column in columns]
    if len(texts) == 2 and tokenizer.sep_token is None:
        # GPT-2 has no separator: its tokenizer would run the two texts together.
        texts = [[f"{a}{tokenizer.eos_token}{b}" for a, b in zip(*texts, strict=True)]]
    special = tokenizer.num_special_tokens_to_add(pair=len(texts) == 2)
    if max_length <= special:
        raise ValueError(
            f"train.max_length must leave room for text beside {special} special tokens, "
            f"got {max_length}."
        )
    names = [n for n in ("input_ids", "token_type_ids") if n in tokenizer.model_input_names]
    found: Any = tokenizer(*texts, add_special_tokens=True, truncation=False, verbose=False)
    long = [row for row, ids in enumerate(found["input_ids"]) if len(ids) > max_length]
    if long:
        parts = [[column[row] for row in long] for column in texts]
        cut: Any = tokenizer(
            *parts, add_special_tokens=True, truncation=True, max_length=max_length
        )
        for number, row in enumerate(long):
            for name in names:
                found[name][row] = cut[name][number]
    for ids in found["input_ids"]:
        if not ids:  # GPT-2 marks no beginning, and the head looks at the last token there is
            ids.append(tokenizer.eos_token_id)
    lengths = np.array([len(ids) for ids in found["input_ids"]], dtype=np.int64)
    columns = {name: flat(found[name]) for name in names}
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    padding = {"input_ids": pad, "token_type_ids": 0}
    return Encoded(columns, lengths, split.labels, padding, len(long))


@dataclass(frozen=True)
class Batches:
    """The training batches of a run by step number, so that any step can be taken up again."""

    data: Encoded
    batch_size: int
    accumulate: int  # parts that a process computes its share of one batch in
    seed: int
    world: World = ALONE  # who shares them

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """The examples of optimiser step `step`, from 1; each epoch is a permutation of its own."""
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        order = numpy_generator(self.seed, "order", epoch).permutation(len(self.data))
        return order[position * self.batch_size : (position + 1) * self.batch_size]

    def split_by_process(self, step: int) -> list[list[np.ndarray]]:
        """The examples of one step by process, each in up to `accumulate` parts of like length.

        A sum over examples does not mind their order, and like lengths need less padding; short and
        long ones are dealt out in turn, so that no process waits for another.
        """
        rows = self.rows(step)
        by_length = rows[np.argsort(self.data.lengths[rows], kind="stable")]
        every = self.world.size
        splits = [np.array_split(by_length[r::every], self.accumulate) for r in range(every)]
        return [[part for part in split if len(part)] for split in splits]

    def parts(self, step: int) -> Iterator[Batch]:
        """This process's share of the batch of one step, part by part."""
        return map(self.data.batch, self.split_by_process(step)[self.world.rank])
