"""From texts to padded batches: tokens, the order of examples, and how they are put together."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.randomness import numpy_generator
from experiments.tasks.base import Split

IGNORED = -100  # in the place of a label: no target here


@dataclass(frozen=True)
class Batch:
    """Model inputs [n, tokens], labels where there are any, and the rows they come from.

    Labels are [n], or [n, tokens] where tokens are to be predicted.
    """

    inputs: dict[str, Tensor]
    labels: Tensor | None
    rows: np.ndarray

    def to(self, device: torch.device) -> "Batch":
        inputs = {name: tensor.to(device) for name, tensor in self.inputs.items()}
        return Batch(inputs, None if self.labels is None else self.labels.to(device), self.rows)

    @property
    def num_labels(self) -> int:
        """How many losses the batch has: one per example, or one per predicted token."""
        if self.labels is None or self.labels.ndim == 1:
            return len(self.rows)
        return int((self.labels != IGNORED).sum())

    @property
    def tokens(self) -> int:
        """Real tokens, without padding."""
        return int(self.inputs["attention_mask"].sum())


@dataclass(frozen=True)
class Encoded:
    """A split as token ids of unequal length, ready to be batched."""

    columns: dict[str, list[list[int]]]  # input_ids, and token_type_ids where the model has them
    labels: np.ndarray | None
    padding: dict[str, int]  # by column
    truncated: int  # examples that were longer than max_length

    def __len__(self) -> int:
        return len(self.columns["input_ids"])

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens of each example."""
        return np.array([len(ids) for ids in self.columns["input_ids"]])

    def batch(self, rows: np.ndarray) -> Batch:
        """These examples, padded on the right to the longest of them."""
        inputs = {}
        for name, column in self.columns.items():
            parts = [torch.tensor(column[row]) for row in rows]
            inputs[name] = torch.nn.utils.rnn.pad_sequence(
                parts, batch_first=True, padding_value=self.padding[name]
            )
        lengths = torch.from_numpy(self.lengths[rows])
        positions = torch.arange(inputs["input_ids"].shape[1])
        inputs["attention_mask"] = (positions < lengths[:, None]).long()
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        return Batch(inputs, labels, rows)


@dataclass(frozen=True)
class Continued(Encoded):
    """Texts of which only what follows `starts` [n] is to be predicted."""

    starts: np.ndarray

    def batch(self, rows: np.ndarray) -> Batch:
        """These examples, their labels the targets' own tokens [n, tokens]."""
        batch = super().batch(rows)
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        starts = torch.from_numpy(self.starts[rows])[:, None]
        target = (torch.arange(ids.shape[1]) >= starts) & (mask > 0)
        return Batch(batch.inputs, ids.masked_fill(~target, IGNORED), rows)


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
    whole = tokenizer(*texts, add_special_tokens=True, truncation=False, verbose=False)
    cut = tokenizer(*texts, add_special_tokens=True, truncation=True, max_length=max_length)
    names = [n for n in ("input_ids", "token_type_ids") if n in tokenizer.model_input_names]
    long = sum(len(ids) > max_length for ids in whole["input_ids"])
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0
    padding = {"input_ids": pad, "token_type_ids": 0}
    return Encoded({name: cut[name] for name in names}, split.labels, padding, long)


@dataclass(frozen=True)
class Batches:
    """The training batches of a run by step number, so that any step can be taken up again."""

    data: Encoded
    batch_size: int
    accumulate: int  # parts that one batch is computed in
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.data) // self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """The examples of optimiser step `step`, from 1; each epoch is a permutation of its own."""
        epoch, position = divmod(step - 1, self.steps_per_epoch)
        order = numpy_generator(self.seed, "order", epoch).permutation(len(self.data))
        return order[position * self.batch_size : (position + 1) * self.batch_size]

    def parts(self, step: int) -> Iterator[Batch]:
        """The batch of one step, in up to `accumulate` parts of examples of like length.

        A sum over examples does not mind their order, and short ones need less padding.
        """
        rows = self.rows(step)
        by_length = rows[np.argsort(self.data.lengths[rows], kind="stable")]
        for part in np.array_split(by_length, self.accumulate):
            if len(part):
                yield self.data.batch(part)
