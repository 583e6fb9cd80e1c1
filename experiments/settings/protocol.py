"""Protocols: how the data of a run is divided, and which of its states is scored."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from experiments.data.sources import Source
from experiments.data.splits import Data, Split
from experiments.data.tables import Part, Table
from experiments.machine.randomness import numpy_generator
from experiments.tasks.base import Task

STAGES = ("select", "test")
SELECTION = "selection"  # the split that is carved from the train split


@dataclass(frozen=True, kw_only=True)
class Protocol(ABC):
    """The rules of a comparison, as far as one run has to keep them."""

    @abstractmethod
    def load(self, task: Task, source: Source) -> Data:
        """The splits that the run trains on and is scored on."""

    @property
    @abstractmethod
    def best_epoch(self) -> bool:
        """Return whether the state of the best epoch is scored, and not that of the last step."""


@dataclass(frozen=True, kw_only=True)
class Clean(Protocol):
    """Settings are chosen on rows of the train split, and the scored splits are read after that."""

    stage: str  # select: train without the selection split, score it; test: train on all, score dev
    share: float  # of the train split, that is the selection split
    most: int  # rows of the selection split
    seed: int  # of the rows drawn for it: part of the data, not of the run

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise ValueError(f"protocol.stage must be {' or '.join(STAGES)}, got '{self.stage}'.")
        if not 0 < self.share < 1:
            raise ValueError(f"protocol.share must lie between 0 and 1, got {self.share}.")
        if self.most < 1:
            raise ValueError(f"protocol.most must be at least 1, got {self.most}.")

    def load(self, task: Task, source: Source) -> Data:
        if self.stage == "test":
            return task.load(source)
        train = task.load(train_only(source), evaluated=False).train
        kept, chosen = carve(train, task.strata(train), self.share, self.most, self.seed)
        return Data(train.take(kept), {SELECTION: task.held_out(train.take(chosen))}, {})

    @property
    def best_epoch(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class Paper(Protocol):
    """The protocol of most papers: the best epoch by the very split that is reported."""

    def load(self, task: Task, source: Source) -> Data:
        # Splits without labels are for a trained model, which this protocol has one of per epoch.
        return replace(task.load(source), predict={})

    @property
    def best_epoch(self) -> bool:
        return True


def train_only(source: Source) -> Source:
    """The source, but that it has no split beside the train split, whatever is asked of it."""

    class TrainOnly(type(source)):
        @property
        def name(self) -> str:
            return source.name

        def table(self, part: Part) -> Table:
            if part.split != "train":
                raise ValueError(f"Split '{part.split}' is not read before settings are chosen.")
            return super().table(part)

    return TrainOnly(**vars(source))


def carve(
    train: Split, strata: np.ndarray, share: float, most: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to train on and rows to select by, both in the order of the file."""
    share = min(share, most / len(train))
    parts = divide(train, strata, share, numpy_generator(seed, "selection"))
    if not all(map(len, parts)):
        raise ValueError(
            f"protocol.share={share:.3g} of {len(train)} rows leaves nothing on one side."
        )
    return parts


def divide(
    train: Split, strata: np.ndarray, share: float, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows that stay, and about this share that is drawn, both in the order of the file.

    Every stratum gives its share; rows whose first text is the same stay on one side.
    """
    groups = first_of_group(train)
    heads = np.unique(groups)
    drawn = [
        generator.permutation(members)[: round(share * len(members))]
        for members in (heads[strata[heads] == stratum] for stratum in np.unique(strata[heads]))
    ]
    chosen = np.isin(groups, np.concatenate(drawn))
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def first_of_group(train: Split) -> np.ndarray:
    """For every row [n] the first row with the same first text."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(texts[0], row) for row, texts in enumerate(train.texts)])
