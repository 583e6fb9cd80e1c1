"""Do the methods that choose where to put parameters choose where the truth is?

    python benchmarks/planted.py [--seeds N] [--targets "query, value" value] [OVERRIDES]

The truth (task=planted): updates of rank 4 in the value matrices of the two top layers, and nothing
else. AdaLoRA may keep as many triplets as are true, LoRA-drop the layers that its threshold asks
for. Precision is the share of what is kept that lies in planted matrices, recall the share of the
truth that is kept; `chance` is the precision of keeping without looking. The figure is written to
outputs/planted.png.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from analysis.allocation import Allocation, matrix_figures
from analysis.names import place
from experiments.api import run
from experiments.results.result import Result
from experiments.settings.compose import compose_config
from experiments.settings.config import read

FIGURE = Path("outputs/planted.png")
# For each choice of targets: AdaLoRA's mean rank at the end, so that its budget is the true rank.
TARGETS = {"query, value": ("[query,value]", 1), "value": ("[value]", 2)}
METHODS = {"adalora": "rank", "lora_drop": "own"}
COMMON = (
    "task=planted", "task.score_on=[test]", "train.epochs=12", "data.train=1024",
    "tracker.mode=disabled",
)  # fmt: skip


def outcome(variant: str, targets: str, rank: int, seed: int, overrides: list[str]) -> Result:
    """One run; the change, the texts and the run have a seed in common."""
    settings = [f"variant={variant}", *COMMON, f"seed={seed}", f"data.seed={seed}"]
    settings += [f"task.seed={seed}"]
    if variant != "head_only":
        settings.append(f"variant.targets={targets}")
    if variant == "adalora":
        settings += [f"variant.target_rank={rank}", "variant.rank=4", "variant.alpha=8"]
    return run(*settings, *overrides)


def allocation(variant: str, result: Result, planted: set[str]) -> Allocation:
    """Return the amounts of the run's telemetry for each matrix."""
    kept = matrix_figures(result.telemetry, METHODS[variant])
    return Allocation(kept, planted, 4.0 if variant == "adalora" else 1.0)


def planted_names(overrides: list[str]) -> set[str]:
    """The matrices that hold the truth."""
    task = read(compose_config(*COMMON, *overrides)).task
    return set(task.teacher().weights)  # pyright: ignore[reportAttributeAccessIssue]


def draw(found: dict[str, list[Allocation]]) -> None:
    """One panel for each method and choice of targets: what every matrix kept, seed by seed."""
    figure, axes = plt.subplots(1, len(found), figsize=(3.2 * len(found), 3.4), squeeze=False)
    for axis, (title, allocations) in zip(axes[0], found.items(), strict=True):
        names = list(allocations[0].kept)
        values = np.array([[a.kept[name] for name in names] for a in allocations])
        colours = ["C1" if name in allocations[0].planted else "C0" for name in names]
        axis.barh(range(len(names)), values.mean(axis=0), color=colours, alpha=0.6)
        for row in values:
            axis.plot(row, range(len(names)), "k.", markersize=3)
        axis.set_yticks(range(len(names)), list(map(short, names)))
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("triplets kept" if "adalora" in title else "has its own pair")
    figure.suptitle("orange: planted; bars: mean over seeds; dots: seeds", fontsize=9)
    figure.tight_layout()
    FIGURE.parent.mkdir(exist_ok=True)
    figure.savefig(FIGURE, dpi=150)


def short(name: str) -> str:
    """The block and the type of a matrix."""
    return "{layer} {matrix}".format(**place(name))


def rows(given: argparse.Namespace, overrides: list[str]) -> Iterator[tuple[str, list, list]]:
    """Each method and choice of targets with its results and allocations over the seeds."""
    planted = planted_names(overrides)
    for label in given.targets:
        targets, rank = TARGETS[label]
        for variant in METHODS:
            results = [
                outcome(variant, targets, rank, seed, overrides) for seed in range(given.seeds)
            ]
            found = [allocation(variant, result, planted) for result in results]
            yield f"{variant}, {label}", results, found
    if "value" not in given.targets:
        return
    for variant in ("lora", "head_only"):  # no choice: what there is to gain
        results = [outcome(variant, "[value]", 0, seed, overrides) for seed in range(given.seeds)]
        yield f"{variant}, value" if variant == "lora" else variant, results, []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    given, overrides = parser.parse_known_args()
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("method, targets", "pearson", "precision", "recall", "chance", "kept"):
        table.add_column(name, justify="left" if "," in name else "right", no_wrap=True)
    panels = {}
    for title, results, found in rows(given, overrides):
        scores = [result.primary["score"] for result in results]
        cells = [spread(scores)]
        if found:
            panels[title] = found
            cells += [spread([a.precision for a in found]), spread([a.recall for a in found])]
            cells += [f"{found[0].chance:.2f}"]
            cells += [spread([sum(a.kept.values()) for a in found], 1)]
        table.add_row(title, *cells)
    draw(panels)
    Console(width=max(Console().width, 110)).print(table)  # as whole lines in a file
    print(f"Figure: {FIGURE}")


def spread(values: list[float], digits: int = 2) -> str:
    """Mean and standard deviation over the seeds."""
    error = f" ±{np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{error}"


if __name__ == "__main__":
    main()
