"""The cells of a study: runs, described by their overrides, with their outcome so far."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from experiments.disk.files import read_object, read_text, write_record
from experiments.disk.folders import check_place
from experiments.disk.locks import holder
from experiments.results.result import LEFTOVERS, Result, read_result, tidy
from experiments.stored import halfway
from experiments.stored.history import NAME as HISTORY
from experiments.stored.result import NAME
from experiments.stored.typed import fit
from experiments.study.backends.base import BEGIN, OUTPUT
from experiments.study.settings import Settings, differing

FAILURE = "failure.json"

Point = tuple[str, ...]  # overrides, one per tuned setting; () is every setting as it stands


@dataclass(frozen=True)
class Outcome:
    """The state of a cell: waiting, running, interrupted, halfway, or over.

    Over are cells that are complete, diverged, failed, or stopped half-way for a low score.
    """

    status: str
    reason: str | None = None
    score: float | None = None
    seconds: float = 0.0  # that the run has cost, all its phases together
    halfway: float | None = None  # the score at its pause, if it has paused
    metric: str | None = None  # of the score
    saved: float = 0.0  # seconds that training to the end would have taken after the pause, about

    @property
    def settled(self) -> bool:
        """Return whether its state will not change any more by itself."""
        return self.status in ("complete", "diverged", "failed", "stopped")


@dataclass(frozen=True)
class Cell:
    """One run of a study."""

    protocol: str
    task: str
    method: str
    stage: str  # start (under paper alone), select or test
    point: Point
    seed: int
    settings: tuple[str, ...]  # overrides beside those of its arm
    overrides: tuple[str, ...]  # of the command that is this run
    folder: Path
    config: Settings = field(default_factory=dict, compare=False, repr=False)  # resolved

    @property
    def title(self) -> str:
        """Name the cell in a few words."""
        words = [self.task, self.method, self.protocol, self.stage, short(" ".join(self.point))]
        return " ".join([*filter(None, words), f"s{self.seed}"])

    def outcome(self) -> Outcome:
        """Read the outcome in the folder; an unreadable file in it is a failure with its reason."""
        try:
            check_place(self.folder)
            if (self.folder / NAME).exists():
                return self.finished()
            if (self.folder / FAILURE).exists():
                return Outcome("failed", read_failure(self.folder / FAILURE))
            paused = halfway.read(self.folder)
        except ValueError as error:
            return Outcome("failed", str(error))
        score = None if paused is None else paused["score"]
        if (held := holder(self.folder)) is not None:
            doubt = f"{held.who}.{held.doubt}" if held.doubt else None
            return Outcome("running", doubt, halfway=score)
        if paused is not None:
            left = paused["steps"] / paused["step"] - 1
            return Outcome(
                "halfway",
                seconds=paused["seconds"],
                halfway=score,
                saved=left * paused["training_seconds"],
            )
        return Outcome("interrupted" if (self.folder / "UNFINISHED").exists() else "waiting")

    def finished(self) -> Outcome:
        """Read the outcome in the folder's result, if the result is that of this cell."""
        result = read_result(self.folder)
        other = differing(self.config, result.config)
        if other:
            return Outcome(
                "failed",
                f"{self.folder / NAME} is of another run ({', '.join(other)}); delete it, and "
                "resume the study.",
            )
        known, paused = result.primary, halfway.read(self.folder)
        half = None if paused is None else paused["score"]
        return Outcome(
            result.status, result.failure, known.get("score"), spent(result), half,
            metric=known.get("metric"),
        )  # fmt: skip

    def fail(self, reason: str) -> None:
        """Record that the run failed, and why."""
        write_record(self.folder / FAILURE, {"reason": reason, "overrides": list(self.overrides)})

    def clear(self) -> None:
        """Delete the files that only an unfinished run needs: this one was stopped half-way."""
        tidy(self.folder, LEFTOVERS)

    def forget(self) -> None:
        """Delete the record of a failure or a divergence, so that the run is tried again."""
        (self.folder / FAILURE).unlink(missing_ok=True)
        if self.outcome().status == "diverged":
            (self.folder / NAME).unlink()


@dataclass(frozen=True)
class Trial:
    """One point of an arm, with the mean score over its tuning seeds."""

    point: Point
    cells: tuple[Cell, ...]
    score: float | None  # none: a run failed or diverged, or is not done
    scores: tuple[float, ...] = ()  # of its cells, once all of them have one


def short(point: str) -> str:
    """Overrides without the sections of their settings."""
    parts = (part.partition("=") for part in point.split())
    return " ".join(f"{key.rpartition('.')[2]}{equals}{value}" for key, equals, value in parts)


def spent(result: Result) -> float:
    """Seconds of all phases: of the GPU, or of the processor, where others may work meanwhile."""
    cost = result.cost
    on_gpu = cost.get("memory") == "GPU allocator"
    phases = cost["seconds"] if on_gpu else cost.get("processor_seconds", cost["seconds"])
    return sum(phases.values())


def read_failure(path: Path) -> str:
    """The reason why a run failed; raises ValueError for a file without one."""
    try:
        return fit(read_object(path).get("reason"), str, "reason")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def last_words(folder: Path) -> str:
    """The last line that the last process of a cell printed, or nothing."""
    path = folder / OUTPUT
    lines = read_text(path, errors="replace").splitlines() if path.exists() else []
    spoken = [line.strip() for line in lines if line.strip()]
    if spoken and spoken[-1].startswith("Set the environment variable HYDRA_FULL_ERROR"):
        spoken.pop()
    return spoken[-1] if spoken and not spoken[-1].startswith(BEGIN) else ""


def steps(folder: Path) -> dict[str, float]:
    """The last record of a run's history, or an empty one."""
    path = folder / HISTORY
    lines = read_text(path, errors="replace").splitlines() if path.exists() else []
    for line in reversed(lines):
        try:
            return fit(json.loads(line), dict[str, float], "history")
        except ValueError:
            continue  # the last line is being written
    return {}
