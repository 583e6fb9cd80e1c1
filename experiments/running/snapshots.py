"""The states of an adapter that `record.snapshots` asks for."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from experiments.disk.files import write_tensors
from experiments.disk.folders import SNAPSHOTS
from experiments.running.job import PreparedRun
from experiments.training.loop import State, TrainingListener


@dataclass
class Snapshots(TrainingListener):
    """Writes what the method has learned after evenly spaced steps."""

    job: PreparedRun
    folder: Path

    def begin(self, state: State, total: int) -> None:
        self.state = state
        self.steps = snapshot_steps(self.job.run.record.snapshots, total)

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        if step in self.steps and self.job.batches.world.first:
            learned = self.state.variant.learned_state(self.state.model.backbone)
            write_tensors(self.folder / SNAPSHOTS / f"step-{step:07d}.safetensors", learned)


def snapshot_steps(count: int, total: int) -> set[int]:
    """`count` steps evenly spaced over the run, the last one its end."""
    return {round(total * k / count) for k in range(1, count + 1)} if count else set()
