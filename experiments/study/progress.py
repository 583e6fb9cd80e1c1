"""The console output of a running study.

Lines that are printed beside the live picture also go into the log of the study.
"""

import time
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from experiments.stored.said import EVERY, note, say
from experiments.stored.shown import plain
from experiments.study.cells import Cell, Outcome, steps
from experiments.study.plan import Plan

OVER = ("complete", "diverged", "failed", "stopped")
STATUSES = (*OVER, "running", "halfway", "interrupted", "waiting")


class Progress:
    """A live picture on a terminal; else a line for each cell that ends, and some in between."""

    def __init__(self) -> None:
        self.rich = Console()
        self.live = Live(console=self.rich, auto_refresh=False, transient=True)
        self.began = time.monotonic()
        self.due = self.began  # when the next line on the whole study is
        self.settled_before: int | None = None
        self.doubted: set[Cell] = set()  # whose process may be gone

    def watched(self) -> AbstractContextManager[object]:
        """Show the picture if the output is a terminal."""
        return self.live if self.rich.is_terminal else nullcontext()

    def tell(self, cell: Cell, outcome: Outcome, remark: str | None) -> None:
        """Print the outcome of one cell."""
        what = outcome.reason or ""
        if outcome.score is not None:
            what = f"{outcome.score:.4f}"
        elif outcome.halfway is not None:
            what = f"{outcome.halfway:.4f} half-way"
        said = plain(f"{outcome.status:11} {cell.title}  {remark or what}")
        self.rich.print(said, highlight=False, soft_wrap=True)
        note(said.plain)

    def show(self, plan: Plan) -> None:
        """Draw the picture again, and print a line on the whole study if one is due."""
        counts = count(plan)
        settled = sum(counts[status] for status in OVER)
        if self.settled_before is None:
            self.settled_before = settled
        for cell, known in plan.outcomes.items():
            if known.status == "running" and known.reason and cell not in self.doubted:
                self.doubted.add(cell)
                self.tell(cell, known, None)
        told = self.sentence(counts, settled, plan.expected())
        if self.rich.is_terminal:
            self.live.update(picture(plan, told, settled), refresh=True)
        if time.monotonic() >= self.due:
            self.due = time.monotonic() + EVERY
            note(told) if self.rich.is_terminal else say(told)

    def sentence(self, counts: dict[str, int], settled: int, total: int) -> str:
        """The number of finished runs, the number with each status, and the time left."""
        parts = "  ".join(f"{counts[status]} {status}" for status in STATUSES if counts[status])
        return f"{settled} of {total} runs: {parts}; {self.left(settled, total)}"

    def left(self, settled: int, total: int) -> str:
        """The time left, from the cells that have ended since the start."""
        done = settled - (self.settled_before or 0)
        if not done:
            return "time left: not known yet"
        seconds = (time.monotonic() - self.began) / done * (total - settled)
        return f"about {timedelta(seconds=round(seconds))} left"


def picture(plan: Plan, told: str, settled: int) -> Group:
    """A bar, a sentence on the whole study, and a line for each running cell."""
    running = [cell for cell, known in plan.outcomes.items() if known.status == "running"]
    bar = Table.grid()
    bar.add_row(ProgressBar(total=plan.expected(), completed=settled, width=60))
    return Group(bar, Text(told), doing(running))


def count(plan: Plan) -> dict[str, int]:
    """The number of cells with each status."""
    statuses = [known.status for known in plan.outcomes.values()]
    return {status: statuses.count(status) for status in STATUSES}


def doing(cells: list[Cell]) -> Table:
    """A line for every running cell: its last step and loss."""
    table = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for cell in cells:
        record = steps(cell.folder)
        at = f"step {record['step']}, loss {record['loss']:.4f}" if record else "starting"
        table.add_row(plain(cell.title), at)
    return table
