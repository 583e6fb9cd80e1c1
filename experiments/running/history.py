"""history.jsonl: the means of every few steps of a run, written while it trains."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.data.batches import Batch
from experiments.disk.files import append_line, write_lines
from experiments.running import validation
from experiments.running.checkpoints import Groups, Resumable
from experiments.running.job import PreparedRun
from experiments.stored.history import NAME
from experiments.training.loop import State
from experiments.training.measure import Clock, Cost, add_time


@dataclass(frozen=True)
class Seen:
    """A part of a batch that went through the model since the last record."""

    tokens: int
    places: int  # padding included
    labels: Tensor | None
    outputs: Tensor


@dataclass
class History(Resumable):
    """Keeps a record of every `record.log_every` steps, and of the last one."""

    job: PreparedRun
    folder: Path
    clock: Clock  # counts the tokens
    scoring: Cost  # of what is measured on held-out rows
    listeners: list[Callable[[dict[str, float]], None]]  # told of every record
    records: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = self.job.batches.world

    def begin(self, state: State, total: int) -> None:
        self.state, self.total = state, total
        self.clear_window()
        if self.world.first:
            write_lines(self.folder / NAME, self.records)

    def seen(self, batch: Batch, outputs: Tensor) -> None:
        places = self.state.model.engine.count_positions(batch)
        self.window.append(Seen(batch.tokens, places, batch.labels, outputs))

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        self.losses.append(loss)
        if self.is_due(step):
            self.log(step, float(norm))

    def is_due(self, step: int) -> bool:
        """Return whether a record is made after this step."""
        return step % self.job.run.record.log_every == 0 or step == self.total

    def clear_window(self) -> None:
        self.losses: list[Tensor] = []
        self.window: list[Seen] = []

    def log(self, step: int, norm: float) -> None:
        """Write the means since the last record."""
        if self.world.size > 1:
            self.meet()
        for part in self.window:
            self.clock.count(part.tokens, part.places)
        loss = float(torch.stack(self.losses).mean())
        record = {"step": step, "loss": loss, "gradient_norm": norm}
        if math.isfinite(loss) and math.isfinite(norm):
            record |= self.details() | self.validate(step)
        self.records.append(record)
        if self.world.first:
            append_line(self.folder / NAME, record)
        self.clear_window()
        for listener in self.listeners:
            listener(record)

    def meet(self) -> None:
        """Put what all processes have seen in the place of the own share."""
        trained = [p for group in self.state.optimizer.param_groups for p in group["params"]]
        check = repr([float(p.detach().double().sum()) for p in trained])
        own = [replace(part, outputs=part.outputs.cpu()) for part in self.window]
        windows, checks = zip(*self.world.gather((own, check)), strict=True)
        assert len(set(checks)) == 1, "The models of the processes have drifted apart."
        self.window = [part for window in windows for part in window]

    def details(self) -> dict[str, float]:
        """Learning rate, metric on the batches since the last record, telemetry of the method."""
        task = self.job.run.task
        telemetry = self.state.variant.telemetry(self.state.model.backbone)
        return {
            f"train_{task.training_metric}": task.training_score(
                [part.labels for part in self.window], [part.outputs for part in self.window]
            ),
            "lr": float(self.state.schedule.get_last_lr()[0]),
            **telemetry,
        }

    def validate(self, step: int) -> dict[str, float]:
        """Loss and metric on the rows held out of the train split, ten times a run."""
        job, before = self.job, self.records[-1]["step"] if self.records else 0
        due = validation.is_due(step, int(before), self.total)
        if job.validation is None or not due or not self.world.first:
            return {}
        with add_time(self.scoring):
            return validation.measure(
                job.run.task, self.state.model, job.validation, job.run.limits.batch_size
            )

    def stored(self) -> dict[str, Any]:
        return {"history": self.records}

    def restore(self, about: dict[str, Any], groups: Groups) -> None:
        self.records[:] = about["history"]
