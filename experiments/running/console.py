"""The console output of a run while it goes on."""

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console as RichConsole

from experiments.families.base import family_of
from experiments.running.job import PreparedRun
from experiments.running.progress import Progress
from experiments.running.showing import describe_rate
from experiments.stored.said import say
from experiments.stored.shown import visible
from variants.summary import summary


class Console:
    """Shows a run before and while it trains."""

    def __init__(self, job: PreparedRun, folder: Path) -> None:
        self.rich = RichConsole()
        self.job = job
        self.folder = folder
        self.progress = Progress(job, self.rich)

    def __enter__(self) -> Self:
        self.announce()
        backbone = self.job.loaded.model.backbone
        if not family_of(backbone.config).packed:  # of an unknown model it is said what was found
            print("\n".join(map(visible, str(summary(backbone)).splitlines())))
        self.progress.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.bar.stop()

    def announce(self) -> None:
        """Say what runs, on what, at which rate, and what is known to stand against it."""
        for line in headline(self.job), self.job.run.model.doubt(self.job.run.data):
            if line is not None:
                say(line)
        if (self.folder / "checkpoint.safetensors").exists():
            say("Continuing from the last checkpoint.")


def headline(job: PreparedRun) -> str:
    """Method, task, model, sizes and rate of a run in one line."""
    run, names = job.run, job.run.label
    return (
        f"{names['variant']} on {names['task']} with {names['model']}, seed {run.seed}: "
        f"{len(job.examples):,} of {len(job.data.train):,} examples, {job.plan.total:,} steps, "
        f"{job.device}, learning rate {describe_rate(run.variant.lr, run.model.lr_scale)}"
    )
