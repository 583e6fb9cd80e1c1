"""The score after every epoch, and the state that had the best: for `protocol=paper`."""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.disk.files import digest, flatten, read_tensors, unflatten, write_tensors
from experiments.results.result import Diverged
from experiments.running import evaluation
from experiments.running.checkpoints import Groups, Resumable
from experiments.running.job import PreparedRun
from experiments.training.measure import Cost, add_time
from variants.base import Progress, copy_exactly

BEST = "best-{}.safetensors"  # by step


def ends(job: PreparedRun, step: int) -> bool:
    """Return whether an epoch, or the run, ends with this step."""
    return step % job.batches.steps_per_epoch == 0 or step == job.plan.total


@dataclass
class Epochs(Resumable):
    """Scores a model where an epoch ends, and keeps what it had learned where that is the best.

    It does nothing under a protocol that scores the last state.
    """

    job: PreparedRun
    folder: Path
    cost: Cost  # of the scores
    scores: list[dict[str, Any]] = field(default_factory=list)

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Score the state after an epoch; raises Diverged for one that is broken."""
        if not self.job.run.protocol.best_epoch or not ends(self.job, step):
            return
        world = self.job.batches.world
        with add_time(self.cost):
            failure = self.score(step) if world.first else None
        if failure := world.share(failure):
            raise Diverged(failure)

    def stored(self) -> dict[str, Any]:
        return {"epochs": self.scores}

    def restore(self, about: dict[str, Any], groups: Groups) -> None:
        self.scores[:] = about["epochs"]

    def score(self, step: int) -> str | None:
        """Score the model as it is after this step; returns what is wrong with one that is broken.

        Earlier files are left: a run that is taken up again may need them.
        """
        run = self.job.run
        items = evaluation.evaluate_on_the_way(self.job)
        if failure := evaluation.not_finite(items):
            return failure
        found = evaluation.join_splits(run.task, items)
        settled = run.variant.settled(Progress(step, self.job.plan.total))
        epoch = step / self.job.batches.steps_per_epoch
        entry = {"epoch": epoch, "step": step, "score": found, "settled": settled}
        self.scores.append(entry)
        if self.best is entry:
            entry["sha256"] = write_tensors(self.path(entry), self.learned())
        return None

    @property
    def best(self) -> dict[str, Any] | None:
        """The epoch of the highest score, the first of several, once the structure was final."""
        settled = [entry for entry in self.scores if entry["settled"]]
        return max(settled, key=lambda entry: rank(entry["score"]), default=None)

    def path(self, entry: dict[str, Any]) -> Path:
        """Where the state after an epoch lies."""
        return self.folder / BEST.format(entry["step"])

    def tidy(self) -> None:
        """Delete the states that are the best no more."""
        kept = None if self.best is None else self.path(self.best)
        for path in self.folder.glob(BEST.format("*")):
            if path != kept:
                path.unlink()

    def learned(self) -> dict[str, Tensor]:
        """All that training has moved."""
        model = self.job.loaded.model
        learned = self.job.run.variant.learned_state(model.backbone)
        return flatten({"learned": learned, "head": dict(model.head.state_dict())})

    def restore_best(self) -> None:
        """Make the model that of the best epoch."""
        assert self.best is not None  # the last step is one
        way_on = "delete the folder to start over"
        tensors = read_tensors(self.path(self.best), way_on)[1]
        if digest(tensors) != self.best.pop("sha256"):
            raise ValueError(
                f"{self.path(self.best)} is not the state of the best epoch; {way_on}."
            )
        groups = unflatten(tensors)
        model = self.job.loaded.model
        self.job.run.variant.load_state(model.backbone, groups.get("learned", {}))
        copy_exactly(dict(model.head.state_dict()), groups.get("head", {}))


def rank(score: float) -> float:
    """The score, or less than any if it is no number."""
    return score if math.isfinite(score) else -sys.float_info.max
