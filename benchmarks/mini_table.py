"""Test scores of the built-in tasks by method, between what words alone reach and the ceiling.

    python benchmarks/mini_table.py [--seeds N] [--tasks NAME ...] [--variants NAME ...] [OVERRIDES]

Every run is `experiments.api.run`; one that is done is not repeated. Rates are `model.lr_scale`
times those of conf/variant, save for RATES, of few tried on MNLI's dev splits of seed 0. The
methods are not tuned alike: the table shows that the tasks work, and ranks no method.
"""

import argparse
import sys

import numpy as np
from mini_bag_of_words import TASKS, score
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.api import run
from experiments.mini.tasks import SPLITS, ceiling
from experiments.results.result import Result
from experiments.settings.compose import compose_config
from experiments.settings.config import read

VARIANTS = ["head_only", "lora", "dora", "full"]
RATES = {"full": 6e-5}


def outcome(variant: str, task: str, seed: int, overrides: list[str]) -> Result:
    """One run, scored on every test split."""
    splits = [split for split in SPLITS[task] if split.startswith("test")]
    settings = [f"variant={variant}", f"task={task}", f"seed={seed}", f"data.seed={seed}"]
    settings += [f"task.score_on=[{','.join(splits)}]", "tracker.mode=disabled"]
    if variant in RATES:
        settings.append(f"variant.lr={RATES[variant]}")
    return run(*settings, *overrides)


def words_alone(task: str, split: str, seed: int, overrides: list[str]) -> float:
    """The bag of words on the same rows."""
    data = read(compose_config(f"task={task}", f"data.seed={seed}", *overrides)).data
    return score(task, split, seed, data.noise, data.train)  # pyright: ignore[reportAttributeAccessIssue]


def shown(values: list[float]) -> str:
    """Mean and spread over the seeds, in percent."""
    spread = f" ±{100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    given, overrides = parser.parse_known_args()
    noise = read(compose_config(*overrides)).data.noise  # pyright: ignore[reportAttributeAccessIssue]
    table = Table(box=box.SIMPLE_HEAD)
    for name in ["task", "bag of words", *given.variants, "ceiling", "seconds"]:
        table.add_column(name, justify="left" if name == "task" else "right")
    for task in given.tasks:
        results = {
            variant: [outcome(variant, task, seed, overrides) for seed in range(given.seeds)]
            for variant in given.variants
        }
        for split in [split for split in SPLITS[task] if split.startswith("test")]:
            plain = [words_alone(task, split, seed, overrides) for seed in range(given.seeds)]
            cells = [
                shown([result.scores[split][result.primary["metric"]] for result in found])
                for found in results.values()
            ]
            seconds = np.mean([r.cost["seconds"]["train"] for f in results.values() for r in f])
            best = f"{100 * ceiling(task, noise):.1f}"
            table.add_row(f"{task} {split}", shown(plain), *cells, best, f"{seconds:.0f}")
        Console(file=sys.stderr).print(f"{task} done")
    Console(width=max(Console().width, 110)).print(table)  # as whole lines in a file


if __name__ == "__main__":
    main()
