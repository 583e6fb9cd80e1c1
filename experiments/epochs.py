"""The score after every epoch, and the state that had the best: for `protocol=paper`."""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments import evaluation
from experiments.files import flatten, read_tensors, unflatten, write_tensors
from experiments.job import Job
from variants.base import Progress, copy_exactly

BEST = "best.safetensors"


@dataclass
class Epochs:
    """Scores a model where an epoch ends, and keeps what it had learned where that is the best."""

    job: Job
    folder: Path
    scores: list[dict[str, Any]] = field(default_factory=list)

    def ends(self, step: int) -> bool:
        """Whether an epoch, or the run, ends with this step."""
        return step % self.job.batches.steps_per_epoch == 0 or step == self.job.plan.total

    def score(self, step: int) -> None:
        """Score the model as it is after this step."""
        run = self.job.run
        items = {
            name: run.task.evaluate(self.job.loaded, split, run.train)
            for name, split in self.job.data.score.items()
        }
        self.job.loaded.model.train()
        found = evaluation.joined(run.task, items)
        settled = run.variant.settled(Progress(step, self.job.plan.total))
        kept = [rank(entry["score"]) for entry in self.scores if entry["settled"]]
        if settled and rank(found) > max(kept, default=-math.inf):
            write_tensors(self.folder / BEST, self.learned())
        epoch = step / self.job.batches.steps_per_epoch
        entry = {"epoch": epoch, "step": step, "score": found, "settled": settled}
        self.scores.append(entry)

    def learned(self) -> dict[str, Tensor]:
        """All that training has moved."""
        model = self.job.loaded.model
        learned = self.job.run.variant.learned_state(model.backbone)
        return flatten({"learned": learned, "head": dict(model.head.state_dict())})

    def restore_best(self) -> None:
        """Make the model that of the best epoch, the first of several.

        Epochs before the method had its final structure are none of them.
        """
        groups = unflatten(read_tensors(self.folder / BEST, "delete the folder to start over")[1])
        model = self.job.loaded.model
        self.job.run.variant.load_state(model.backbone, groups.get("learned", {}))
        copy_exactly(dict(model.head.state_dict()), groups.get("head", {}))


def rank(score: float) -> float:
    """The score, or less than any where it is no number."""
    return score if math.isfinite(score) else -sys.float_info.max
