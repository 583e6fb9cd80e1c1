"""A trained model on the splits of its task: outputs per example, scores per split."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from experiments.data.batches import Encoded
from experiments.models.pretrained import Model
from experiments.tasks.base import Split, Task

RESAMPLES_SEED = 0  # of the interval's bootstrap: part of the measure, not of the run


@dataclass(frozen=True)
class Evaluated:
    """The evaluation of one split, beside its examples: outputs [n, ...], or texts [n]."""

    split: Split
    outputs: np.ndarray
    truncated: int  # examples that were longer than the model was given
    losses: Mapping[str, float] = field(default_factory=dict)  # scores that follow from no outputs


@torch.no_grad()
def outputs(model: Model, data: Encoded, batch_size: int) -> np.ndarray:
    """The model's outputs [n, num_outputs] in the order of the examples."""
    model.eval()
    device = next(model.parameters()).device
    # Examples of like length together: less padding, the same outputs.
    order = np.argsort(-data.lengths, kind="stable")
    parts = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    found = [model(data.batch(rows).to(device)).cpu() for rows in parts]
    result = torch.empty_like(torch.cat(found))
    result[torch.from_numpy(order)] = torch.cat(found)
    return result.numpy()


def not_finite(evaluated: Mapping[str, Evaluated]) -> str | None:
    """Error message if any output is not finite, else None."""
    for name, item in evaluated.items():
        numbers = item.outputs if item.outputs.dtype != object else list(item.losses.values())
        broken = int((~np.isfinite(np.reshape(numbers, (len(numbers), -1)))).any(axis=1).sum())
        if broken:
            return (
                f"The outputs of {broken} of {len(item.outputs)} examples of {name} are no numbers."
            )
    return None


def scores(task: Task, evaluated: Mapping[str, Evaluated]) -> dict[str, dict[str, float]]:
    """Every metric of the task on every split that has labels."""
    return {
        name: task.score(item.split.labels, item.outputs) | dict(item.losses)
        for name, item in evaluated.items()
        if item.split.labels is not None
    }


def primary(task: Task, evaluated: Mapping[str, Evaluated]) -> dict[str, object]:
    """The task's first metric over all labelled splits together, with its 95 % interval."""
    labels, outputs = together(evaluated)
    low, high = task.interval(labels, outputs, np.random.default_rng(RESAMPLES_SEED))
    return {
        "metric": task.primary,
        "score": task.score(labels, outputs)[task.primary],
        "interval": [low, high],
        "examples": len(labels),
    }


def joined(task: Task, evaluated: Mapping[str, Evaluated]) -> float:
    """The task's first metric over all labelled splits together."""
    return task.score(*together(evaluated))[task.primary]


def together(evaluated: Mapping[str, Evaluated]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and outputs of all labelled splits, one after the other."""
    items = [item for item in evaluated.values() if item.split.labels is not None]
    labels = np.concatenate([item.split.labels for item in items if item.split.labels is not None])
    return labels, np.concatenate([item.outputs for item in items])


def predictions(task: Task, evaluated: Mapping[str, Evaluated]) -> pd.DataFrame:
    """One row per example: split, id, and what the task keeps, label and prediction among it."""
    frames = [
        pd.DataFrame({"split": name, "id": item.split.ids, **task.columns(item)})
        for name, item in evaluated.items()
    ]
    return pd.concat(frames, ignore_index=True)
