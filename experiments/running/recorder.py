"""Record a training run while it goes: the listeners that a run has, as one."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.data.batches import Batch
from experiments.running.checkpoints import Checkpoints
from experiments.running.divergence import Divergence
from experiments.running.epochs import Epochs
from experiments.running.history import History
from experiments.running.job import PreparedRun
from experiments.running.meter import Meter
from experiments.running.pausing import Pause
from experiments.running.snapshots import Snapshots
from experiments.training.loop import State, TrainingListener


class Recorder(TrainingListener):
    """Passes the events of training on to each of a run's listeners, in one order.

    `key` is the run's fingerprint, `listeners` are functions that take every record, and `watchers`
    hear of the events when all others have.
    """

    def __init__(
        self,
        job: PreparedRun,
        folder: Path,
        key: dict[str, Any],
        listeners: list[Callable[[dict[str, float]], None]],
        watchers: Sequence[TrainingListener] = (),
    ) -> None:
        self.job, self.folder, self.key = job, folder, key
        self.meter = Meter(job.device)
        self.epochs = Epochs(job, folder, self.meter.scoring)
        self.history = History(job, folder, self.meter.clock, self.meter.scoring, listeners)
        resumable = [self.meter, self.epochs, self.history]
        self.checkpoints = Checkpoints(job, folder, key, resumable)
        self.parts: list[TrainingListener] = [
            self.meter,
            self.epochs,
            Snapshots(job, folder),  # before the checkpoint, behind which a resumed run begins
            self.history,
            Divergence(self.history, job.run.train.divergence_ratio),
            self.checkpoints,
            *watchers,
            Pause(job, folder, key, self.meter, self.checkpoints),  # when all others have heard
        ]

    def resume(self, state: State) -> int:
        return self.checkpoints.resume(state)

    def begin(self, state: State, total: int) -> None:
        for part in self.parts:
            part.begin(state, total)

    def before(self, step: int) -> None:
        for part in self.parts:
            part.before(step)

    def seen(self, batch: Batch, outputs: Tensor) -> None:
        for part in self.parts:
            part.seen(batch, outputs)

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        for part in self.parts:
            part.after(step, loss, norm)
