"""The progress of a run while it trains: a bar on a terminal, a live line in Jupyter, else lines.

The lines go into the run's log as well, whatever the screen shows.
"""

import math
import time
from datetime import timedelta

import torch
from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from torch import Tensor

from experiments.data.batches import Batch
from experiments.running.job import PreparedRun
from experiments.stored.history import HELD_OUT
from experiments.stored.said import EVERY, note, say
from experiments.training.loop import State, TrainingListener

FIRST = 3.0  # seconds from the start to the first line
LIVE = 0.5  # seconds between two states of a live line


class Progress(TrainingListener):
    """Shows the training of a run; the last step has a line in any case."""

    def __init__(self, job: PreparedRun, rich: RichConsole) -> None:
        self.world = job.batches.world
        self.metric = f"train_{job.run.task.training_metric}"
        self.rich = rich
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.bar = RichProgress(*columns, console=rich, disable=not rich.is_terminal)
        self.task = self.bar.add_task("training", total=job.plan.total)
        self.shown = ""  # of the live line
        self.known: dict[str, float] = {}  # the last value of each figure

    def log(self, record: dict[str, float]) -> None:
        """Take a record of the history."""
        self.known |= record
        if self.rich.is_terminal:
            told = "  ".join(self.figures(record["loss"]))
            self.bar.update(self.task, completed=record["step"], description=told)

    def begin(self, state: State, total: int) -> None:
        self.state, self.total = state, total
        self.done: int | None = None  # steps before this process
        self.began = self.told = time.monotonic()
        self.due = self.began + (LIVE if self.rich.is_jupyter else FIRST)
        self.losses: list[Tensor] = []
        self.tokens = 0

    def before(self, step: int) -> None:
        if self.done is None:
            self.done = step - 1
        self.rate = float(self.state.schedule.get_last_lr()[0])

    def seen(self, batch: Batch, outputs: Tensor) -> None:
        self.tokens += batch.tokens * self.world.size  # the others have about as many

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        self.losses.append(loss)
        now = time.monotonic()
        if step == self.total or now >= self.due:
            self.tell(self.line(step, now), last=step == self.total)
            self.told, self.tokens = now, 0
            self.losses.clear()
            self.due = now + (LIVE if self.rich.is_jupyter else EVERY)

    def line(self, step: int, now: float) -> str:
        """The state after a step, with the means since the last line."""
        loss = float(torch.stack(self.losses).mean())
        speed = self.tokens / max(now - self.told, 1e-9)
        seconds = (now - self.began) / (step - (self.done or 0)) * (self.total - step)
        return "  ".join(
            [
                f"step {step:,}/{self.total:,}",
                *self.figures(loss),
                f"{speed:,.0f} tokens/s",
                f"{timedelta(seconds=math.ceil(seconds))} left",
            ]
        )

    def figures(self, loss: float) -> list[str]:
        """Loss, training metric, what was measured on held-out rows, and the learning rate."""
        known = (
            f"{name.replace('_', ' ')} {value:.3f}"
            for name, value in self.known.items()
            if name == self.metric or name.startswith(HELD_OUT)
        )
        return [f"loss {loss:.4f}", *known, f"learning rate {self.rate:.2g}"]

    def tell(self, line: str, last: bool) -> None:
        """Print the line, or put it in the place of the one before, and log it."""
        if self.rich.is_jupyter:
            # A carriage return works in every notebook; rich's own live display needs ipywidgets.
            print(f"\r{line:{len(self.shown)}}", end="\n" if last else "", flush=True)
            self.shown = line
        elif self.rich.is_terminal:
            note(line)
        else:
            say(line)
