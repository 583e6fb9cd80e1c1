"""The part of a run that a method may look at before it trains."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn as nn
from torch import Tensor

from experiments.batches import Batch, Batches, Continued, Encoded
from experiments.models import Model
from experiments.randomness import derived_seed
from experiments.training import Plan, Watch, fit
from variants.base import Probe, Variant, adapter_layers

SCORE_BINS = 5
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trial:
    """Short training of a method on a share of the train split, beside the main run."""

    model: Model
    variant: Variant
    data: Encoded
    plan: Plan  # of the main run
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
        seed = derived_seed(self.seed, "probe")
        batches = Batches(take(self.data, rows), train.batch_size, train.accumulate, seed)
        fit(self.model, variant, batches, Plan(train, self.plan.lr, steps), Watch())

    @contextmanager
    def head_restored(self) -> Iterator[None]:
        """Whatever is done to the head, put it back as it was."""
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
            return self.mean_gradients(chosen)

    def train_head(self, steps: int) -> None:
        """Train the head alone on the whole split; with no step, say that it is random."""
        if not steps:
            log.warning("The gradient of each matrix comes through a head of random weights.")
            return
        frozen = [p for p in self.model.backbone.parameters() if p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(False)
        self.train(Variant(lr=0.0), np.arange(len(self.data)), steps)
        for parameter in frozen:
            parameter.requires_grad_(True)

    def mean_gradients(self, rows: np.ndarray) -> dict[str, Tensor]:
        """The mean of dL/dW0 over these rows, by name of the adapted matrix."""
        weights = dict(base_weights(self.model.backbone))
        sums = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights.items()}
        self.model.eval()
        for weight in weights.values():
            weight.requires_grad_(True)
        for part in self.parts(rows, self.plan.train.batch_size):
            loss = self.model.loss(part)[0]
            found = torch.autograd.grad(loss, list(weights.values()))
            for total, gradient in zip(sums.values(), found, strict=True):
                total += gradient
        for weight in weights.values():
            weight.requires_grad_(False)
        return {name: total / self.data.num_labels(rows) for name, total in sums.items()}

    def batches(self, share: float) -> Iterator[Batch]:
        """The examples of the share, in order."""
        yield from self.parts(self.rows(share), self.plan.train.eval_batch_size)

    def parts(self, rows: np.ndarray, size: int) -> Iterator[Batch]:
        """These rows in order, in batches of this size."""
        device = next(self.model.parameters()).device
        for start in range(0, len(rows), size):
            yield self.data.batch(rows[start : start + size]).to(device)

    def rows(self, share: float) -> np.ndarray:
        """A share of the examples, equal for one seed, with the classes or scores in proportion."""
        if not 0 < share <= 1:
            raise ValueError(f"A share of the train split lies in (0, 1], got {share}.")
        return self.stratified(int(share * len(self.data)))

    def stratified(self, count: int) -> np.ndarray:
        """So many examples, equal for one seed, with the classes or scores in proportion.

        Raises ValueError for fewer than there are classes.
        """
        rows = np.arange(len(self.data))
        if count == len(rows):
            return rows
        from sklearn.model_selection import train_test_split  # slow to import, seldom used

        seed = derived_seed(self.seed, "probe") % 2**32
        chosen, _ = train_test_split(
            rows, train_size=count, stratify=strata(self.data.labels), random_state=seed
        )
        return np.sort(chosen)


def base_weights(backbone: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The frozen weight under each adapter layer, by the layer's name."""
    for name, layer in adapter_layers(backbone):
        if not isinstance(layer.W0, nn.Parameter):
            raise ValueError(f"The base of {name} is quantised, so its weight has no gradient.")
        yield name, layer.W0


def strata(labels: np.ndarray | None) -> np.ndarray | None:
    """Classes as they are, scores in bins of equal number."""
    if labels is None or labels.dtype.kind == "i":
        return labels
    edges = np.quantile(labels, np.linspace(0, 1, SCORE_BINS + 1)[1:-1])
    return np.digitize(labels, edges)


def take(data: Encoded, rows: np.ndarray) -> Encoded:
    """Some examples of an encoded split."""
    places = data.places(rows)
    found = {
        "columns": {name: column[places] for name, column in data.columns.items()},
        "lengths": data.lengths[rows],
        "labels": None if data.labels is None else data.labels[rows],
    }
    if isinstance(data, Continued):
        found["given"] = data.given[rows]
    # The prefix counts tokens of the whole split.
    return replace(data, prefix=None, **found)
