"""The part of a run that a method may look at before it trains."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from experiments.data.batches import Batch, Batches, Encoded, PromptedTexts
from experiments.machine.randomness import derive_seed
from experiments.models.model import Model
from experiments.training.loop import TrainingListener, TrainingPlan, fit
from variants.base import Probe, Variant, evaluation_mode, gradients_at_W0

SCORE_BINS = 5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ProbeRun:
    """Short training of a method on a share of the train split, beside the main run."""

    model: Model
    variant: Variant
    data: Encoded
    plan: TrainingPlan  # of the main run
    seed: int

    def probe(self) -> Probe:
        return Probe(fit=self.fit, batches=self.batches, gradients=self.gradients)

    def fit(self, share: float, steps: int) -> None:
        """Train on the share for some steps at the run's own rates, held constant."""
        with self.head_restored():
            self.train(self.variant, self.rows(share), steps)

    def train(self, variant: Variant, rows: np.ndarray, steps: int) -> None:
        """Train what trains under a method on these rows, at constant rates."""
        train = replace(self.plan.train, schedule="constant", warmup=0.0)
        seed = derive_seed(self.seed, "probe")
        batches = Batches(take(self.data, rows), train.batch_size, train.accumulate, seed)
        fit(
            self.model,
            variant,
            batches,
            TrainingPlan(train, self.plan.lr, steps),
            TrainingListener(),
        )

    @contextmanager
    def head_restored(self) -> Iterator[None]:
        """Restore the head on leaving the context, whatever was done to it."""
        head = {name: tensor.clone() for name, tensor in self.model.head.state_dict().items()}
        yield
        self.model.head.load_state_dict(head)

    def gradients(self, rows: int, head_steps: int) -> dict[str, Tensor]:
        """The mean of dL/dW0 [d_out, d_in] over labelled rows, for each adapted matrix by name.

        No parameter of the backbone moves, and dropout is off. The head's weights are random unless
        it trains alone for `head_steps` steps before; a language model has none to train.
        Raises ValueError for a base without a weight of its own, such as a quantised one.
        """
        if rows < 1:
            raise ValueError(f"The gradient needs at least 1 row, got {rows}.")
        chosen = self.stratified(min(rows, len(self.data)))
        with self.head_restored():
            if any(True for _ in self.model.head.parameters()):
                self.train_head(head_steps)
            with evaluation_mode(self.model):
                parts = self.parts(chosen, self.plan.train.batch_size)
                losses = (self.model.loss(part)[0] for part in parts)
                sums = gradients_at_W0(self.model.backbone, losses)
        return {name: total / self.data.num_labels(chosen) for name, total in sums.items()}

    def train_head(self, steps: int) -> None:
        """Train the head alone on the whole split; with no step, say that it is random."""
        if not steps:
            log.warning("The gradient of each matrix comes through a head of random weights.")
            return
        trained = [p for p in self.model.backbone.parameters() if p.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        self.train(Variant(lr=0.0), np.arange(len(self.data)), steps)
        for parameter in trained:
            parameter.requires_grad_(True)

    def batches(self, share: float) -> Iterator[Batch]:
        """The examples of the share, in order."""
        yield from self.parts(self.rows(share), self.plan.train.batch_size)

    def parts(self, rows: np.ndarray, size: int) -> Iterator[Batch]:
        """These rows in order, in batches of this size."""
        device = next(self.model.parameters()).device
        for start in range(0, len(rows), size):
            yield self.data.batch(rows[start : start + size]).to(device)

    def rows(self, share: float) -> np.ndarray:
        """A share of the examples, equal for one seed, with the classes or scores in proportion."""
        if not 0 < share <= 1:
            raise ValueError(f"A share of the train split lies in (0, 1], got {share}.")
        return self.stratified(int(share * len(self.data)), f"A share of {share:g}")

    def stratified(self, count: int, asked: str = "What is asked for") -> np.ndarray:
        """So many examples, equal for one seed, with the classes or scores in proportion.

        Raises ValueError unless they, and what is left, have room for every class.
        """
        rows = np.arange(len(self.data))
        if count == len(rows):
            return rows
        from sklearn.model_selection import train_test_split  # slow to import, seldom used

        codes = strata(self.data.labels)
        check_division(asked, count, len(rows), codes)
        seed = derive_seed(self.seed, "probe") % 2**32
        chosen, _ = train_test_split(rows, train_size=count, stratify=codes, random_state=seed)
        return np.sort(chosen)


def strata(labels: np.ndarray | None) -> np.ndarray | None:
    """Classes as they are, scores in bins of equal number; one row alone joins the most frequent.

    A row alone cannot be divided.
    """
    if labels is None:
        return None
    codes = labels
    if labels.dtype.kind != "i":
        codes = np.digitize(labels, np.quantile(labels, np.linspace(0, 1, SCORE_BINS + 1)[1:-1]))
    found, counts = np.unique(codes, return_counts=True)
    return np.where(np.isin(codes, found[counts == 1]), found[counts.argmax()], codes)


def check_division(asked: str, count: int, rows: int, codes: np.ndarray | None) -> None:
    """Raise ValueError unless so many of the rows, and the others, have room for every class."""
    classes = 1 if codes is None else len(np.unique(codes))
    if min(count, rows - count) < classes:
        raise ValueError(
            f"{asked} of the train split's {rows} examples are {count}, and on each side of the "
            f"division there must be {classes}, one for each class or range of scores; take "
            "another share, or all of them."
        )


def take(data: Encoded, rows: np.ndarray) -> Encoded:
    """Some examples of an encoded split."""
    places = data.token_positions(rows)
    found = {
        "columns": {name: column[places] for name, column in data.columns.items()},
        "lengths": data.lengths[rows],
        "labels": None if data.labels is None else data.labels[rows],
    }
    if isinstance(data, PromptedTexts):
        found["prompt_lengths"] = data.prompt_lengths[rows]
    # The prefix counts tokens of the whole split.
    return replace(data, prefix=None, **found)
