"""The console output of a run: its progress and its result."""

from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments.families.base import family_of
from experiments.results.result import Result
from experiments.running.job import PreparedRun
from experiments.stored.result import perplexities
from experiments.stored.shown import plain, visible
from variants.summary import summary


class Console:
    """Progress while a run trains, where somebody watches."""

    def __init__(self, job: PreparedRun, folder: Path) -> None:
        self.rich = RichConsole()
        self.job = job
        self.folder = folder
        self.metric = f"train_{job.run.task.training_metric}"
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self.progress = Progress(*columns, console=self.rich, disable=not self.rich.is_terminal)
        self.bar = self.progress.add_task("training", total=job.plan.total)

    def __enter__(self) -> Self:
        if self.rich.is_terminal:
            self.announce()
        backbone = self.job.loaded.model.backbone
        if not family_of(backbone.config).packed:  # of an unknown model it is said what was found
            print("\n".join(map(visible, str(summary(backbone)).splitlines())))
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def announce(self) -> None:
        """Say what runs, on what, and how to stop and go on."""
        job = self.job
        names = job.run.label
        variant, task, model = (escape(visible(names[k])) for k in ("variant", "task", "model"))
        self.rich.print(
            f"[bold]{variant}[/] on [bold]{task}[/] with {model}, "
            f"seed {job.run.seed}: {len(job.examples):,} of {len(job.data.train):,} examples, "
            f"{job.plan.total:,} steps, {job.device}"
        )
        if (self.folder / "checkpoint.safetensors").exists():
            self.rich.print("Continuing from the last checkpoint.")

    def log(self, record: dict[str, float]) -> None:
        """Show a record of the history."""
        parts = [f"loss {record['loss']:.4f}"]
        if self.metric in record:
            parts.append(f"{self.metric.replace('_', ' ')} {record[self.metric]:.3f}")
        self.progress.update(self.bar, completed=record["step"], description="  ".join(parts))


def show(result: Result, given: list[str]) -> None:
    """Print what came out, and how to look at it; `given` are the texts one may ask it about."""
    rich, folder, primary = RichConsole(), shown(result.folder), result.primary
    if not rich.is_terminal:
        title = f"{result.title}: {primary['metric']} {primary['score']:.4f} -> {folder}"
        print(visible(title))
        print("".join(f"{visible(text)}\n" for _, text in forgetting_rows(result)), end="")
        return
    table = Table(show_header=False, title=plain(result.title), title_justify="left")
    for name, value in rows(result):
        table.add_row(plain(name), plain(value))
    rich.print(table)
    lines = ["All results: python -m analysis.load outputs"]
    if given:
        texts = " ".join(['"..."'] * len(given))
        lines.insert(0, f"Ask it:      python -m experiments.predict {folder} --text {texts}")
    rich.print("\n".join(map(visible, lines)), highlight=False, markup=False, soft_wrap=True)


def show_samples(samples: list[tuple[str, str, str]]) -> None:
    """Print what was given, what came out, and what was expected."""
    rich = RichConsole()
    for given, found, expected in samples if rich.is_terminal else []:
        table = Table(show_header=False, box=None, padding=(0, 1))
        for name, text in (("given", given), ("generated", found), ("expected", expected)):
            table.add_row(plain(name, "dim"), plain(text))
        rich.print(table)
        rich.print()


def shown(path: Path) -> Path:
    """A path as short as it can be said."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def forgetting_rows(result: Result) -> list[tuple[str, str]]:
    """The line on general text, if the run measured any."""
    if (found := perplexities(result.forgetting)) is None or result.forgetting is None:
        return []
    measured = f"on {result.forgetting['tokens']:,} tokens of general text"
    return [("forgetting", f"perplexity {found[0]:.2f} before, {found[1]:.2f} after, {measured}")]


def rows(result: Result) -> list[tuple[str, str]]:
    """The lines of the final table."""
    primary, cost = result.primary, result.cost
    low, high = primary["interval"]
    parameters, steps, seconds = cost["parameters"], cost["steps"], cost["seconds"]
    peak = cost["peak_mib"]["train"]
    lines = [
        (
            primary["metric"],
            f"{primary['score']:.4f}   95 % interval {low:.4f} to {high:.4f}, "
            f"over {primary['examples']:,} examples",
        ),
        *(
            (f"{split} {metric}", f"{score:.4f}")
            for split, scores in result.scores.items()
            for metric, score in scores.items()
            if len(result.scores) > 1 or metric != primary["metric"]
        ),
        (
            "trained parameters",
            f"{parameters['trained']:,} + {parameters['head']:,} in the head, "
            f"of {parameters['total']:,}",
        ),
        (
            "time",
            f"{seconds['train']:.1f} s training, {seconds['evaluate']:.1f} s evaluation; "
            f"{1000 * steps['step_seconds_median']:.0f} ms a step, "
            f"{steps['tokens_per_second']:,.0f} tokens/s",
        ),
        ("peak memory", f"{peak:,.0f} MiB ({cost['memory']})" if peak else cost["memory"]),
        ("adapter", f"{cost['bytes']['adapter'] / 1024:,.0f} KiB"),
        ("result", str(shown(result.folder))),
    ]
    lines[-1:-1] = forgetting_rows(result)
    cut = result.examples["truncated"]
    if any(cut.values()):
        lines.append(("cut texts", ", ".join(f"{n:,} of {split}" for split, n in cut.items() if n)))
    return lines
