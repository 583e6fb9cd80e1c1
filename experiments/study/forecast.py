"""Forecast the cost of a study from a few steps of every method on every task."""

import time
from dataclasses import dataclass, replace
from datetime import timedelta

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from experiments.data.splits import Data
from experiments.machine.processor import configure_products, multiplying
from experiments.running.job import PreparedRun, prepare_method, prepare_run
from experiments.settings.config import Run, read
from experiments.stored.shown import plain
from experiments.study.arms import Arm
from experiments.study.backends.base import Backend
from experiments.study.plan import Plan
from experiments.training.loop import Stepper, TrainingListener

STEPS = 3  # timed; one before them sets things up
ROWS = 32  # evaluated; texts of a language model take seconds each
START = 2.0  # seconds to begin and to end a run beside reading data and model
PREDICTION = 24  # bytes of a row of predictions, beside its outputs
TRACKED = 100_000  # bytes of the tracker's own files


@dataclass(frozen=True)
class Forecast:
    """One arm of a study."""

    trials: int
    finals: int
    steps: int
    seconds: tuple[float, float]  # of a trial and of a final run
    bytes: float  # of one run

    @property
    def runs(self) -> int:
        """Trials and final runs together."""
        return self.trials + self.finals

    @property
    def total_seconds(self) -> float:
        """The time of all runs, one after the other."""
        return self.trials * self.seconds[0] + self.finals * self.seconds[1]


def forecast(plan: Plan, backend: Backend) -> None:
    """Print runs, time and disk space; trains a few steps and evaluates a few rows for that."""
    rich = Console()
    workers = backend.workers()
    counts = track(list_expected(plan), "trying", console=rich)
    known = [
        (arm, estimate(plan, arm, trials, finals, workers.threads))
        for arm, trials, finals in counts
    ]
    columns = ("runs", "steps", "s a trial", "s a final run", "MiB a run")
    table = Table("protocol", "task", "method", *columns)
    for arm, item in known:
        table.add_row(
            arm.protocol, plain(arm.task), plain(arm.method), str(item.runs), f"{item.steps:,}",
            *(f"{seconds:,.0f}" for seconds in item.seconds), f"{item.bytes / 2**20:,.1f}",
        )  # fmt: skip
    rich.print(table)
    seconds = sum(item.total_seconds for _, item in known)
    rich.print(
        f"{sum(item.runs for _, item in known)} runs; about "
        f"{timedelta(seconds=round(seconds / workers.slots))} with {workers.slots} at once, "
        "if no other program runs; "
        f"{sum(item.runs * item.bytes for _, item in known) / 2**20:,.0f} MiB.",
        highlight=False,
    )


def list_expected(plan: Plan) -> list[tuple[Arm, int, int]]:
    """Every arm, its trials and its final runs, first the runs that others begin with.

    Further trials of a grid that grows, runs at a second best point and the time saved by stopping
    trials half-way are not included.
    """
    study = plan.study
    arms = [arm for arms in plan.groups.values() for arm in arms]
    begun = {
        arm.start: plan.arm(arm.protocol, study.start_from[arm.task], arm.method)
        for arm in arms
        if arm.start is not None
    }
    found = [(arm, 0, 1) for arm in begun.values()]
    for arm in arms:
        found.append((arm, plan.expected_trials(arm), study.seeds))
    return found


def estimate(plan: Plan, arm: Arm, trials: int, finals: int, threads: int | None) -> Forecast:
    """Estimate one arm, whose cells have so many threads each.

    Its time does not depend on the adapter that its runs begin with.
    """
    trial = plan.first_trials([arm])[arm.method][0].cells[0]
    run, final = (
        replace(read(arm.changed((*cell.settings, "start=null"))), forgetting=None)
        for cell in (trial, arm.cell("test", trial.point, 0))
    )
    stopwatch = Stopwatch(run.compute.pick_device(), 1)
    job = prepare_run(run, run.protocol.load(run.task, run.data))
    seconds = START + stopwatch.read()
    own = min(job.threads, threads or job.threads)
    with (
        configure_products(job.products, own),
        multiplying(job.device, run.train.precision),
    ):
        seconds += preparation_seconds(job, own)
        one_step = step_seconds(job, own)
        of_trial, of_final = (
            seconds + one_step * one.train.total_steps(job.batches.steps_per_epoch)
            + evaluation_seconds(job, one, data, own)
            for one, data in (
                (run, job.data), (final, final.protocol.load(final.task, final.data))
            )
        )  # fmt: skip
    return Forecast(trials, finals, job.plan.total, (of_trial, of_final), run_bytes(job))


@dataclass
class Stopwatch:
    """Seconds since it was made: on a processor those it was busy, by thread, whoever else is."""

    device: torch.device
    threads: int

    def __post_init__(self) -> None:
        self.began = self.now()

    def now(self) -> float:
        """The time on the clock of the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time() / self.threads

    def read(self) -> float:
        """The seconds so far."""
        return self.now() - self.began


def preparation_seconds(job: PreparedRun, threads: int) -> float:
    """The time that the method needs before its training."""
    stopwatch = Stopwatch(job.device, threads)
    prepare_method(job)
    return stopwatch.read()


def step_seconds(job: PreparedRun, threads: int) -> float:
    """The time of one step."""
    stepper = Stepper(job.loaded.model, job.run.variant, job.batches, job.plan)
    stepper.step(1, TrainingListener())
    stopwatch = Stopwatch(job.device, threads)
    for number in range(2, STEPS + 2):
        stepper.step(number, TrainingListener())
    return stopwatch.read() / STEPS


def evaluation_seconds(job: PreparedRun, run: Run, data: Data, threads: int) -> float:
    """The time of all evaluations of a run with this model, from a few rows of its splits."""
    times = max(1, round(run.train.epochs)) if run.protocol.best_epoch else 1
    seconds = 0.0
    for split in data.score.values():
        rows = np.arange(min(ROWS, len(split)))
        stopwatch = Stopwatch(job.device, threads)
        run.task.evaluate(job.loaded, split.take(rows), run.limits)
        seconds += stopwatch.read() * len(split) / len(rows)
    return times * seconds


def run_bytes(job: PreparedRun) -> float:
    """The size of a run's folder."""
    state = job.run.variant.learned_state(job.loaded.model.backbone)
    tensors = [*state.values(), *job.loaded.model.head.state_dict().values()]
    rows = sum(len(split) for split in job.data.score.values())
    row = PREDICTION + 4 * max(1, job.run.task.num_outputs)
    return sum(t.numel() * t.element_size() for t in tensors) + rows * row + TRACKED
