"""The interface of a task: examples, outputs to predict from, and a score."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data.sources import Source
from experiments.data.splits import Data, Limits, Split
from experiments.data.tables import Table
from experiments.models.inference import Evaluated

if TYPE_CHECKING:  # settings do not wait for torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from experiments.data.batches import Encoded
    from experiments.models.model import Loaded


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """One task as immutable settings; what it reads comes from the source it is given."""

    name: str  # under which results are listed
    version: int  # raised when a change moves scores; stored with every result
    names: list[str]  # classes, for people; empty where there are none

    @abstractmethod
    def load(self, source: Source, evaluated: bool = True) -> Data:
        """Read the train split, and with `evaluated` every split that is scored or predicted."""

    def strata(self, train: Split) -> np.ndarray:
        """A code [n] per row of the train split; a part drawn from it has each code's share."""
        if train.labels is None:
            return np.zeros(len(train), dtype=np.int64)
        return np.rint(train.labels).astype(np.int64)

    def held_out(self, part: Split) -> Split:
        """A part of the train split in the form in which splits are scored."""
        return part

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Width of the head: the number of classes, or 1 for a score."""

    @property
    @abstractmethod
    def regression(self) -> bool:
        """Return whether the labels are scores."""

    @property
    @abstractmethod
    def primary(self) -> str:
        """Name of the metric that runs are compared by."""

    @property
    @abstractmethod
    def training_metric(self) -> str:
        """Name of what is followed while a run trains."""

    @abstractmethod
    def configure(self, loaded: "Loaded", name: str) -> None:
        """Set what the task decides of a model; raises ValueError for one that cannot do it."""

    def check(self, loaded: "Loaded", data: Data, limits: Limits) -> None:  # noqa: B027 (most need none)
        """Raise ValueError for what would end the evaluation, before anything is trained."""

    @abstractmethod
    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", split: Split, max_length: int
    ) -> "Encoded":
        """A split as token ids; what is longer than `max_length` is cut, and counted."""

    @abstractmethod
    def evaluate(self, loaded: "Loaded", split: Split, limits: Limits) -> Evaluated:
        """Run the model on every example of a split."""

    @abstractmethod
    def training_score(self, labels: "list[Tensor | None]", outputs: "list[Tensor]") -> float:
        """The training metric of parts of batches."""

    @abstractmethod
    def columns(self, item: Evaluated) -> Mapping[str, Any]:
        """Return the columns stored for every example beside its split and id, by name."""

    @abstractmethod
    def write(self, folder: Path, name: str, item: Evaluated) -> None:
        """Write further files of one split into a run's folder."""

    @abstractmethod
    def samples(self, item: Evaluated) -> list[tuple[str, str, str]]:
        """A few examples for people: what was given, what came out, what was expected."""

    @property
    def given(self) -> list[str]:
        """Columns of the texts that people may ask a trained model about; none: they may not."""
        return []

    def texts(self, table: Table) -> list[tuple[str, ...]]:
        """The given texts of every row; raises ValueError for one that is no text."""
        raise NotImplementedError

    def answers(
        self, loaded: "Loaded", texts: list[tuple[str, ...]], limits: Limits
    ) -> Mapping[str, Any]:
        """Return a trained model's answers to texts, by name of the column."""
        raise NotImplementedError

    @abstractmethod
    def predict(self, outputs: np.ndarray) -> np.ndarray:
        """Class codes or scores [n] for outputs [n, num_outputs]."""

    @abstractmethod
    def score(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        """Metrics of outputs [n, num_outputs] against labels [n], the primary one first."""

    @abstractmethod
    def interval(
        self, labels: np.ndarray, outputs: np.ndarray, generator: np.random.Generator
    ) -> tuple[float, float]:
        """Ends of the 95 % percentile bootstrap interval, over examples, of the primary metric."""
