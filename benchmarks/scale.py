"""Measure the reading of many runs: report, table of runs, plan and status of a study.

    python benchmarks/scale.py runs [--methods 10 --tasks 10 --seeds 40 --trials 10]
    python benchmarks/scale.py study [--methods 15 --tasks 9 --seeds 27]

Runs are copies of one published result with drawn predictions. Each measurement is a process of its
own, with its seconds of the processor and its largest memory.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.disk.files import write_record
from experiments.stored import result as stored

ROOT = Path(__file__).parents[1]
EXAMPLES = 400
TASKS = ("sst2", "cola", "mrpc", "rte", "qnli", "qqp", "mnli", "stsb", "wnli", "e2e")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=["runs", "study"])
    parser.add_argument("--methods", type=int, default=10)
    parser.add_argument("--tasks", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--keep", type=Path, help="a folder for what is made, instead of none")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        (runs if given.what == "runs" else study)(folder, given)


def runs(folder: Path, given: argparse.Namespace) -> None:
    """Report and table of many runs."""
    if not (folder / "outputs").exists():
        number = make_runs(folder / "outputs", given)
        print(f"{number:,} runs")
    measure("load", folder, "analysis.load", "outputs")
    measure("report", folder, "analysis.report", "outputs", "--out", "page.html")
    print(f"page {(folder / 'page.html').stat().st_size / 2**20:.1f} MiB")


def study(folder: Path, given: argparse.Namespace) -> None:
    """Plan and status of a large study, before there is a result and after all are there."""
    make_study(folder, given)
    measure("first status", folder, "experiments.study", "status", "large")
    number = fill_study(folder)
    print(f"{number:,} results")
    measure("status with all trials", folder, "experiments.study", "status", "large")
    number = fill_study(folder)
    print(f"{number:,} results")
    measure("status with all results", folder, "experiments.study", "status", "large")


def measure(what: str, folder: Path, *words: str) -> None:
    """Print what one command takes."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", *words], cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )
    _, code, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    busy = used.ru_utime + used.ru_stime
    print(f"{what}: {busy:.1f} s of the processor, {wall:.1f} s, {used.ru_maxrss / 1024:.0f} MiB"
          f"{'' if code == 0 else f', ended with {code}'}", flush=True)  # fmt: skip


def template() -> dict[str, Any]:
    """A published result in the terms of today."""
    path = next((ROOT / "results/minilm_glue/local/sst2").rglob("lora/s0-*/result.json"))
    return stored.read(path) | {"schema": stored.SCHEMA}


def make_runs(folder: Path, given: argparse.Namespace) -> int:
    """Methods x tasks x (seeds, and trials of one seed at several rates)."""
    known, dice = template(), np.random.default_rng(0)
    count = 0
    for task in range(given.tasks):
        for method in range(given.methods):
            own = 0.75 + 0.1 * method / given.methods
            for number in range(given.trials + given.seeds):
                test = number >= given.trials
                seed = number - given.trials if test else 1000
                rate = 1e-3 if test else 1e-5 * 10 ** (0.3 * number)
                place = folder / f"local/t{task}/minilm/m{method}/s{seed}-{number:03d}"
                write_run(place, known, f"m{method}", f"t{task}", seed, rate, own, dice, test)
                count += 1
    return count


def write_run(
    place: Path, known: dict[str, Any], method: str, task: str, seed: int, rate: float, own: float,
    dice: np.random.Generator, test: bool,
) -> None:  # fmt: skip
    """One run of this accuracy."""
    labels = np.arange(EXAMPLES) % 2
    right = dice.random(EXAMPLES) < own
    score = float(right.mean())
    place.mkdir(parents=True)
    files = {}
    if test:
        frame = pd.DataFrame(
            {"split": "dev", "id": range(EXAMPLES), "label": labels,
             "prediction": np.where(right, labels, 1 - labels)}
        )  # fmt: skip
        frame.to_parquet(place / stored.PREDICTIONS, index=False)
        files[stored.PREDICTIONS] = hashlib.sha256(
            (place / stored.PREDICTIONS).read_bytes()
        ).hexdigest()
    config = json.loads(json.dumps(known["config"]))
    config["variant"]["lr"] = rate
    config["seed"] = seed
    config["task"]["name"] = task
    config["protocol"]["stage"] = "test" if test else "select"
    config["tracker"] |= {"group": None, "tags": []}
    primary = {"metric": "accuracy", "score": score, "interval": [score - 0.02, score + 0.02],
               "examples": EXAMPLES}  # fmt: skip
    label = {"variant": method, "task": f"local/{task}", "model": "minilm"}
    changes = {"label": label, "seed": seed, "primary": primary, "config": config, "files": files,
               "scores": {"dev": {"accuracy": score}}}  # fmt: skip
    write_record(place / stored.NAME, known | changes)


def make_study(folder: Path, given: argparse.Namespace) -> None:
    """A study of many methods on the tasks of the built-in suite."""
    names = sorted(path.stem for path in (ROOT / "conf/variant").glob("*.yaml"))
    methods = {}
    for number in range(given.methods):
        again, place = divmod(number, len(names))
        decay = f"train.weight_decay={0.01 + 0.001 * again}"
        methods[f"{names[place]}{again or ''}"] = [f"variant={names[place]}", decay]
    section = {"_kind_": "study", "methods": methods,
               "tasks": {task: [] for task in TASKS[: given.tasks]}, "seeds": given.seeds,
               "axes": {"variant.lr": {"decades": 2.0, "points": 7}},
               "overrides": ["tracker.mode=disabled"]}  # fmt: skip
    content = {"format": 2, "name": "large", "study": section, "overrides": [], "folders": []}
    write_record(folder / "outputs/studies/large/study.json", content)


def fill_study(folder: Path) -> int:
    """Write a result for every cell that is known and waits; returns their number."""
    from experiments.study.command import restore_plan

    known, dice = template(), np.random.default_rng(0)
    before = Path.cwd()
    os.chdir(folder)
    try:
        plan, _ = restore_plan("large")
        waiting = [cell for cell in plan.refresh() if plan.outcome(cell).status == "waiting"]
        for cell in waiting:
            score = float(dice.random())
            primary = {"metric": "accuracy", "score": score, "interval": [score, score],
                       "examples": EXAMPLES}  # fmt: skip
            cell.folder.mkdir(parents=True)
            changes = {
                "seed": cell.seed,
                "primary": primary,
                "config": stored.with_kinds(cell.config),
            }
            write_record(cell.folder / stored.NAME, known | changes)
    finally:
        os.chdir(before)
    return len(waiting)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
