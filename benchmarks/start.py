"""Seconds from a command to its first step, and what a cell of a study costs beside its phases.

    python benchmarks/start.py [--rounds N] [--json FILE] [--set OVERRIDE ...]

"first step" is read off the history, which a run opens right before its first step; processor
seconds are those of the process until then. A cell costs what lies between the ends of two cells
that follow each other in one study, less the preparation, training and evaluation that its result
lists: reading settings, data and model, writing the result, and the study's own looking on.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from common import table, write

from experiments.stored.history import NAME as HISTORY
from experiments.stored.result import NAME

RUN = Path(__file__).parents[1] / "run.py"
SMALL = ["task=sst2", "train.epochs=1", "tracker.mode=disabled", "compute.device=cpu"]
TICKS = os.sysconf("SC_CLK_TCK")
CELLS = 6  # trials of the study, beside as many final runs


def time_first_step(overrides: list[str]) -> tuple[float, float]:
    """Seconds, and processor seconds, from a command to its first step."""
    with TemporaryDirectory() as place:
        out = Path(place, "run")
        command = [sys.executable, str(RUN), *overrides, f"hydra.run.dir={out}"]
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL)
        while not (out / HISTORY).exists():
            if process.poll() is not None:
                raise SystemExit(f"The run has ended before its first step: {' '.join(command)}")
            time.sleep(0.002)
        seconds, busy = time.perf_counter() - began, processor_seconds(process.pid)
        process.wait()
    return seconds, busy


def processor_seconds(process: int) -> float:
    """Seconds of the processor that a process has used, all its threads together."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def time_cells(overrides: list[str]) -> list[float]:
    """Seconds of each cell of a study, the first left out, beside its phases."""
    study = [
        "study=first", "study.methods={lora: []}", "~study.methods.dora", "~study.methods.vera",
        "~study.tasks.cola", f"study.axes={{variant.lr: {{decades: 1.0, points: {CELLS}}}}}",
        f"study.seeds={CELLS}", "backend.max_parallel=1",
    ]  # fmt: skip
    settings = [text for text in overrides if not text.startswith(("variant=", "task="))]
    with TemporaryDirectory() as place:
        subprocess.run(
            [sys.executable, str(RUN), *study, *settings],
            cwd=place, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        ends = sorted((path.stat().st_mtime, path) for path in Path(place).rglob(NAME))
        return [after - before - phases(path) for (before, _), (after, path) in pairwise(ends)]


def phases(path: Path) -> float:
    """The seconds that a result lists."""
    return sum(json.loads(path.read_text(encoding="utf-8"))["cost"]["seconds"].values())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--set", nargs="+", default=["data.train=64", "data.dev=32"])
    given = parser.parse_args()
    overrides = ["variant=lora", *SMALL, *given.set]
    time_first_step(overrides)  # compiles, and fills the caches of files
    starts = [time_first_step(overrides) for _ in range(given.rounds)]
    cells = time_cells(overrides)
    figures: dict[str, Any] = {
        "first step, seconds": [seconds for seconds, _ in starts],
        "first step, processor seconds": [busy for _, busy in starts],
        "a cell beside its phases, seconds": cells,
    }
    lines = [
        [name, f"{median(values):.2f}", f"{min(values):.2f}", f"{max(values):.2f}"]
        for name, values in figures.items()
    ]
    table("Starting", ["", "median", "least", "most"], lines)
    write(given.json, figures)


if __name__ == "__main__":
    main()
