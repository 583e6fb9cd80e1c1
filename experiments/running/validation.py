"""Rows that are held out of the train split, and what a run does on them while it trains.

They are no part of what a run is scored on: that is read when it is over.
"""

import numpy as np
import torch

from experiments.data.batches import Encoded
from experiments.data.splits import Split
from experiments.machine.randomness import numpy_generator
from experiments.models.model import Model
from experiments.settings.protocol import divide
from experiments.stored.history import HELD_OUT
from experiments.tasks.base import Task

TIMES = 10  # that a run is measured, the last time at its end
SEED = 0  # of the draw: the rows are the same for every method and seed


def hold_out(task: Task, train: Split, rows: int | None) -> tuple[Split, Split | None]:
    """The rows to train on, and about so many others; raises ValueError if either were none."""
    if rows is None:
        return train, None
    share = min(1.0, rows / len(train))
    kept, held = divide(train, task.strata(train), share, numpy_generator(SEED, "held out"))
    if not len(kept) or not len(held):
        raise ValueError(f"train.held_out={rows} of {len(train)} rows leaves nothing on one side.")
    return train.take(kept), train.take(held)


def is_due(step: int, before: int, total: int) -> bool:
    """Return whether a tenth of the run has ended since the step of the record before."""
    return TIMES * step // total > TIMES * before // total


@torch.no_grad()
def measure(task: Task, model: Model, data: Encoded, batch_size: int) -> dict[str, float]:
    """Mean loss and training metric on held-out rows, by the names they have in a history."""
    device = next(model.parameters()).device
    rows = np.arange(len(data))
    losses, labels, outputs = [], [], []
    model.eval()
    for part in (data.batch(rows[i : i + batch_size]) for i in range(0, len(rows), batch_size)):
        loss, found = model.loss(part.to(device))
        losses.append(float(loss))
        labels.append(part.labels)
        outputs.append(found)
    model.train()
    metric = task.training_metric
    return {
        f"{HELD_OUT}loss": sum(losses) / data.num_labels(rows),
        f"{HELD_OUT}{metric}": task.training_score(labels, outputs),
    }
