"""The scores and predictions of a trained model on the splits of its task."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from experiments.metrics.baseline import baseline_for
from experiments.models.inference import Evaluated
from experiments.running.job import PreparedRun
from experiments.tasks.base import Task

RESAMPLES_SEED = 0  # of the interval's bootstrap: part of the measure, not of the run


def evaluate_on_the_way(job: PreparedRun) -> dict[str, Evaluated]:
    """The outputs of a model that trains on every split that its run is scored on."""
    run = job.run
    items = {
        name: run.task.evaluate(job.loaded, split, run.limits)
        for name, split in job.data.score.items()
    }
    job.loaded.model.train()
    return items


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
    """The task's first metric over all labelled splits together, with its 95 % interval.

    `floor` is the score of its baseline.
    """
    labels, outputs = together(evaluated)
    low, high = task.interval(labels, outputs, np.random.default_rng(RESAMPLES_SEED))
    return {
        "metric": task.primary,
        "score": task.score(labels, outputs)[task.primary],
        "interval": [low, high],
        "examples": len(labels),
        "floor": baseline_for(task.primary, labels).score,
    }


def join_splits(task: Task, evaluated: Mapping[str, Evaluated]) -> float:
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
