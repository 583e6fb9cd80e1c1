"""Carry out a study: run its cells until none is left, and print its tables."""

import time
from dataclasses import dataclass, field

from experiments.disk.folders import prepare
from experiments.disk.locks import Busy
from experiments.study import summary
from experiments.study.backends.base import LOST, Backend, Workers, explain_exit
from experiments.study.cells import Cell, last_words
from experiments.study.plan import Plan
from experiments.study.progress import Progress

PAUSE = 0.1  # seconds between two looks at the processes
LOOK = 2.0  # seconds between two looks at the folders, which others may work in too
ATTEMPTS = 3  # of a cell whose process is killed


@dataclass
class Conductor:
    """Carries out a plan's cells, a few at a time."""

    plan: Plan
    workers: Workers[Cell]
    progress: Progress
    attempts: dict[Cell, int] = field(default_factory=dict)

    def run(self) -> None:
        """Run the cells that are left, until every cell is settled by this or another process."""
        looked = -LOOK
        try:
            while True:
                changed = self.collect()
                if changed or time.monotonic() - looked >= LOOK:
                    looked = time.monotonic()
                    left = self.launch()
                    self.progress.show(self.plan)
                    if not left:
                        return
                time.sleep(PAUSE)
        finally:
            self.workers.stop()

    def collect(self) -> bool:
        """Record the outcome of the processes that have ended; return whether any has."""
        ended = list(self.workers.ended())
        for cell, exit_code in ended:
            self.judge(cell, exit_code)
        return bool(ended)

    def launch(self) -> bool:
        """Start waiting cells in the free places; return whether any cell is not settled yet."""
        cells = self.plan.refresh()
        mine = self.workers.running
        for cell in cells:
            if len(mine) >= self.workers.slots:
                break
            status = self.plan.outcome(cell).status
            if status == "stopped":
                cell.clear()
            if status in ("waiting", "interrupted") and cell not in mine:
                try:
                    prepare(cell.folder)
                except ValueError as error:
                    cell.fail(str(error))
                    continue
                self.attempts[cell] = self.attempts.get(cell, 0) + 1
                self.workers.start(cell)
                mine.add(cell)
        return any(not self.plan.outcome(cell).settled for cell in cells)

    def judge(self, cell: Cell, exit_code: int) -> None:
        """Record a failure if a process has left no result.

        A process that was killed is repeated. One that found another process in its folder is not
        counted.
        """
        outcome = cell.outcome()
        if exit_code == 0 and outcome.status == "halfway":
            self.attempts[cell] = 0
            self.progress.tell(cell, outcome, None)
            return
        killed = exit_code < 0 or exit_code == LOST
        if exit_code == Busy.exit_code and not outcome.settled:
            self.attempts[cell] -= 1
            return
        if not outcome.settled and outcome.status != "running":
            if not killed:
                cell.fail(last_words(cell.folder) or explain_exit(exit_code))
            elif self.attempts[cell] >= ATTEMPTS:
                cell.fail(f"{explain_exit(exit_code)} That happened {ATTEMPTS} times.")
        self.progress.tell(cell, cell.outcome(), explain_exit(exit_code) if killed else None)


def conduct(plan: Plan, backend: Backend) -> bool:
    """Carry out a study and print its tables; return whether no run that is needed failed."""
    progress = Progress()
    with progress.watched():
        Conductor(plan, backend.workers(), progress).run()
    return summary.conclude(plan)
