"""The part of a run that a method may look at before it trains."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from experiments.batches import Batch, Batches, Continued, Encoded
from experiments.models import Model
from experiments.randomness import derived_seed
from experiments.training import Plan, Watch, fit
from variants.base import Probe, Variant

SCORE_BINS = 5


@dataclass(frozen=True)
class Trial:
    """Short training of a method on a share of the train split, beside the main run."""

    model: Model
    variant: Variant
    data: Encoded
    plan: Plan  # of the main run
    seed: int

    def probe(self) -> Probe:
        return Probe(fit=self.fit, batches=self.batches)

    def fit(self, share: float, steps: int) -> None:
        """Train on the share for some steps at the run's own rates, held constant."""
        head = {name: tensor.clone() for name, tensor in self.model.head.state_dict().items()}
        train = replace(self.plan.train, schedule="constant", warmup=0.0)
        subset = take(self.data, self.rows(share))
        batches = Batches(
            subset, train.batch_size, train.accumulate, derived_seed(self.seed, "probe")
        )
        fit(self.model, self.variant, batches, Plan(train, self.plan.lr, steps), Watch())
        self.model.head.load_state_dict(head)

    def batches(self, share: float) -> Iterator[Batch]:
        """The examples of the share, in order."""
        device = next(self.model.parameters()).device
        rows = self.rows(share)
        for start in range(0, len(rows), self.plan.train.eval_batch_size):
            yield self.data.batch(rows[start : start + self.plan.train.eval_batch_size]).to(device)

    def rows(self, share: float) -> np.ndarray:
        """A share of the examples, equal for one seed, with the classes or scores in proportion."""
        if not 0 < share <= 1:
            raise ValueError(f"A share of the train split lies in (0, 1], got {share}.")
        rows = np.arange(len(self.data))
        if share == 1:
            return rows
        from sklearn.model_selection import train_test_split  # slow to import, seldom used

        codes = strata(self.data.labels)
        check_share(share, len(rows), codes)
        seed = derived_seed(self.seed, "probe") % 2**32
        chosen, _ = train_test_split(rows, train_size=share, stratify=codes, random_state=seed)
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


def check_share(share: float, rows: int, codes: np.ndarray | None) -> None:
    """Raise ValueError unless a share of the rows, and what is left, has room for every class."""
    classes = 1 if codes is None else len(np.unique(codes))
    drawn = int(share * rows)
    if min(drawn, rows - drawn) < classes:
        raise ValueError(
            f"A share of {share:g} of the train split's {rows} examples are {drawn}, and on each "
            f"side of the division there must be {classes}, one for each class or range of scores; "
            "choose another share, such as 1."
        )


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
