"""Does the order of points half-way foretell the best one at the end?

    python run.py study=first study.protocols=[paper] study.tuning_seeds=3 train.epochs=4 ...
    python benchmarks/halving.py outputs [--json FILE]

Reads trials that were scored after every epoch, which `protocol=paper` does, and gives each method,
task and seed to the rule of `study.tuning=halving`. "best goes on" says how often the point that is
best at the end is among those that go on; "lost" is by how many points of the metric the best of
those is behind it. A point that is lost by a little was as good as the one that is kept.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from common import table, write

from experiments.results.result import Result, read_result
from experiments.stored.result import NAME
from experiments.stored.summary import TUNING_SEED
from experiments.study import race

Point = tuple[float, float]  # half-way and at the end


def read_trials(folder: Path) -> dict[tuple[str, str, int], list[Point]]:
    """The scores of the points by task, method and seed."""
    found: dict[tuple[str, str, int], list[Point]] = defaultdict(list)
    for path in sorted(folder.rglob(NAME)):
        result = read_result(path.parent)
        if result.epochs and result.seed >= TUNING_SEED:
            key = (result.label["task"], result.label["variant"], result.seed)
            found[key].append(halves(result))
    return found


def halves(result: Result) -> Point:
    """A run's score after half its steps, and at its end."""
    steps = result.cost["steps"]["steps"]
    middle = min(result.epochs, key=lambda epoch: abs(epoch["step"] - race.PAUSE * steps))
    return middle["score"], result.epochs[-1]["score"]


def judge(points: list[Point]) -> tuple[bool, float]:
    """Return whether the best point goes on, and what is lost by those that do."""
    survivors = race.choose_survivors([half for half, _ in points])
    ends = [end for _, end in points]
    kept = max(ends[place] for place in survivors)
    return kept == max(ends), max(ends) - kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    by_task: dict[str, list[tuple[bool, float]]] = defaultdict(list)
    for (task, _, _), points in read_trials(given.folder).items():
        by_task[task].append(judge(points))
    rows = [
        {
            "task": task,
            "choices": len(known),
            "best goes on": fmean(kept for kept, _ in known),
            "lost, mean": 100 * fmean(lost for _, lost in known),
            "lost, most": 100 * max(lost for _, lost in known),
        }
        for task, known in by_task.items()
    ]
    lines = [
        [f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values()]
        for row in rows
    ]
    table("The rule of halving on trials that ran to their end", list(rows[0]), lines)
    write(given.json, {"rows": rows})


if __name__ == "__main__":
    main()
