"""Examples of a task as texts and labels, before a tokenizer has seen them."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class Split:
    """Examples of one split: `ids` are row numbers from 0, `labels` codes [n], scores or None.

    Class codes are int64, scores float32; `sha256` is that of the data the examples came from.
    """

    ids: np.ndarray
    texts: list[tuple[str, ...]]
    labels: np.ndarray | None
    origin: str
    sha256: str
    skipped: int = 0  # malformed rows left out, where the task says so

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> "Split":
        """The examples at positions `rows`, in that order."""
        labels = None if self.labels is None else self.labels[rows]
        return replace(
            self, ids=self.ids[rows], texts=[self.texts[row] for row in rows], labels=labels
        )


@dataclass(frozen=True)
class Data:
    """The splits of one task: one to train on, some to score, some to predict without labels."""

    train: Split
    score: dict[str, Split]
    predict: dict[str, Split]


class Limits(NamedTuple):
    """The limits that a task keeps to when it evaluates."""

    max_length: int  # tokens of a text; what is longer is cut, and counted
    batch_size: int  # examples at once
