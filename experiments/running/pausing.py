"""The pause of a run after a part of its steps, at which a study decides whether it goes on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.models.inference import Evaluated
from experiments.results.result import Diverged, Paused
from experiments.running import evaluation
from experiments.running.checkpoints import Checkpoints
from experiments.running.job import PreparedRun
from experiments.running.meter import Meter
from experiments.stored import halfway
from experiments.stored.said import say
from experiments.training.loop import State, TrainingListener
from experiments.training.measure import add_time


@dataclass
class Pause(TrainingListener):
    """Scores a run once on its way, saves it, and raises Paused; started again, it goes on.

    A run is saved at records alone, so it pauses at the first one behind its share of the steps.
    """

    job: PreparedRun
    folder: Path
    key: dict[str, Any]  # the run's fingerprint
    meter: Meter
    checkpoints: Checkpoints

    def begin(self, state: State, total: int) -> None:
        """Find the step to pause after; raises ValueError for the pause of another run."""
        share, every = self.job.run.record.pause, self.job.run.record.log_every
        self.total = total
        self.step = None if share is None else -(-share * total // every) * every
        if (known := halfway.read(self.folder)) is not None:
            if known["key"] != self.key:
                raise ValueError(
                    f"{self.folder / halfway.NAME} is of another configuration or other data; "
                    "delete it, or choose another folder."
                )
            self.step = None
        if self.step is not None and self.step >= total:
            say(
                f"It does not pause after {share:g} of its {total:,} steps, as no record lies "
                f"there: there is one every {every} steps (record.log_every)."
            )

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        """Pause if it is time; raises Diverged for a state whose outputs are no numbers."""
        if step != self.step or step == self.total:
            return
        world = self.job.batches.world
        items = {}
        with add_time(self.meter.scoring):
            if world.first:
                items = evaluation.evaluate_on_the_way(self.job)
        if failure := world.share(evaluation.not_finite(items)):
            raise Diverged(failure)
        if world.first:
            self.write(step, items)
        self.checkpoints.save(step)
        raise Paused(
            f"Paused after step {step} of {self.total}; the same command goes on from there."
        )

    def write(self, step: int, items: dict[str, Evaluated]) -> None:
        """Write how good the run is by now, and what it has cost."""
        task = self.job.run.task
        training, all_phases = self.meter.so_far()
        content = halfway.Halfway(
            step=step,
            steps=self.total,
            metric=task.primary,
            score=evaluation.join_splits(task, items),
            seconds=all_phases,
            training_seconds=training,
            key=self.key,
        )
        halfway.write(self.folder, content)
