"""Compare our results with the numbers that papers print: `python -m analysis.ledger outputs`."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import stats

from analysis.family import count
from analysis.load import load, parse_runs_folder
from analysis.papers import Cell, published
from experiments.stored.shown import fail, plain

SEEDS = 3  # fewer are no ground for a verdict
MARGIN = 0.02  # of the published number: where ours is known less well, agreement says nothing
# Of the standard error of a median to that of a mean, of numbers with a normal distribution.
OF_MEDIANS = math.sqrt(math.pi / 2)
REPRODUCED, NOT_REPRODUCED, OPEN = "reproduced", "not reproduced", "cannot be judged"
PROTOCOLS = {"best epoch": "paper", "last step": "clean"}  # of ours, by what a paper scores
Run = dict[Any, Any]  # a row of what `load` gives
# Which runs to keep, and why none is left of those that came so far.
Condition = tuple[Callable[[Run], bool], Callable[[list[Run]], str]]


def compare(published: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The published numbers with, beside each, ours and a verdict.

    `ours` (over seeds the mean, or the median where the paper gives one), `difference` (ours less
    the published one), `our_spread` (standard deviation over seeds) and `our_seeds` are of runs in
    the paper's own setting alone; `verdict` has its `reason`. `runs` is as `analysis.load.load`
    gives it.
    """
    records = runs.to_dict("records")
    ours = [beside(cell, records) for cell in published.to_dict("records")]
    return pd.concat([published.reset_index(drop=True), pd.DataFrame(ours)], axis=1)


def beside(cell: Cell, runs: list[Run]) -> dict[str, Any]:
    """Return our results for one published number."""
    kept, reason = comparable(cell, runs)
    done = [run for run in kept if run["status"] == "complete"]
    scores = seed_scores(cell, done)
    reason = reason or too_few(scores)
    verdict, reason = (OPEN, reason) if reason else judge(cell, scores)
    if lost := len(kept) - len(done):
        reason += f" Beside them {count(lost, 'run')} diverged."
    ours = center(cell, scores)
    return {
        "ours": ours,
        "difference": ours - cell["score"],
        "our_spread": float(scores.std(ddof=1)) if len(scores) > 1 else math.nan,
        "our_seeds": len(scores),
        "verdict": verdict,
        "reason": reason,
    }


def comparable(cell: Cell, runs: list[Run]) -> tuple[list[Run], str]:
    """Our runs of what a number is of, in the paper's setting, or why there are none.

    Those that diverged are among them.
    """
    if cell["not_ours"]:
        return [], f"There is no {' and no '.join(cell['not_ours'])} here."
    for keep, reason in conditions(cell):
        kept = [run for run in runs if keep(run)]
        if not kept:
            return [], reason(runs)
        runs = kept
    if all(run["status"] != "complete" for run in runs):
        return [], "No run of it came to its end."
    return runs, ""


def conditions(cell: Cell) -> list[Condition]:
    """The conditions on a run for a number, in order, each with a message if no run meets it."""
    variant, task, model = cell["variant"], cell["task"], cell["model"]
    protocol = PROTOCOLS.get(cell["selection"])  # None: either will do
    return [
        (
            lambda run: run["variant"] == variant and source_and_task(run)[1] == task,
            lambda runs: f"There is no run of {variant} on {task}.",
        ),
        (
            lambda run: source_and_task(run)[0] != "mini",
            lambda runs: f"All runs of {variant} on {task} are on built-in data.",
        ),
        (
            lambda run: run["model"] == model,
            lambda runs: f"Another model: {', '.join(sorted({r['model'] for r in runs}))}.",
        ),
        (
            lambda run: not cell["copied"],
            lambda runs: f"The paper copied the number from {cell['copied']}.",
        ),
        (
            lambda run: run["paper"] in cell["settings"],
            lambda runs: "The setting differs from the paper's.",
        ),
        (
            lambda run: protocol in (None, run["protocol"]),
            lambda runs: f"The paper scores the {cell['selection']} of a run; these do not.",
        ),
        (
            lambda run: run["status"] != "complete" or measured(cell, run) is not None,
            lambda runs: f"These runs have no such {cell['metric']}.",
        ),
    ]


def source_and_task(run: Run) -> tuple[str, str]:
    """Where the data of a run is from, and the task: a result lists both as one."""
    source, _, task = run["task"].rpartition("/")
    return source, task


def measured(cell: Cell, run: Run) -> float | None:
    """A run's score by the metric, and on the split, of a published number."""
    metric, split, scores = cell["metric"], cell["split"], run["scores"]
    if not split and metric == run["metric"]:
        return run["score"]
    if not split and len(scores) == 1:
        (split,) = scores
    return scores.get(split, {}).get(metric)


def seed_scores(cell: Cell, runs: list[Run]) -> np.ndarray:
    """One score a seed; several runs of one seed count as their mean."""
    found: dict[int, list[float | None]] = {}
    for run in runs:
        found.setdefault(run["seed"], []).append(measured(cell, run))
    return np.array([np.mean(np.array(scores, float)) for scores in found.values()])


def too_few(scores: np.ndarray) -> str:
    """Why there is no verdict, where it is for the number of seeds."""
    if len(scores) >= SEEDS:
        return ""
    return f"Too few seeds: {len(scores)}, and a verdict takes {SEEDS}."


def center(cell: Cell, scores: np.ndarray) -> float:
    """Our scores [seeds] as one number, of the kind that is published; NaN if there are none."""
    if not len(scores):
        return math.nan
    return float(np.median(scores) if cell["statistic"] == "median" else scores.mean())


def judge(cell: Cell, scores: np.ndarray) -> tuple[str, str]:
    """The verdict, by the 95 % t-interval of the difference of ours [seeds] and the paper's.

    The paper's number has luck of its own: that of its runs, of one if it does not say how many.
    """
    reach = float(stats.t.ppf(0.975, len(scores) - 1))
    reach *= OF_MEDIANS if cell["statistic"] == "median" else 1.0
    own = reach * float(stats.sem(scores))
    half = math.hypot(own, reach * theirs(cell, float(scores.std(ddof=1))))
    ours = center(cell, scores)
    low, high = ours - half, ours + half
    if not low <= cell["score"] <= high:
        return NOT_REPRODUCED, f"{cell['score']:.4g} lies outside [{low:.4g}, {high:.4g}]."
    if own > MARGIN * abs(cell["score"]):
        return OPEN, f"Ours is known to ±{own:.2g} only: more than {MARGIN:.0%} of the number."
    return REPRODUCED, f"{cell['score']:.4g} lies within [{low:.4g}, {high:.4g}]."


def theirs(cell: Cell, our_spread: float) -> float:
    """The standard error of the paper's number, if its runs vary as ours do or as it prints.

    What follows a ± and is not said to be a standard deviation may be smaller than one, so ours
    counts if it is larger.
    """
    printed = cell["spread"]
    if math.isnan(printed):
        spread = our_spread
    elif "standard deviation" in cell["spread_is"]:
        spread = printed
    else:
        spread = max(printed, our_spread)
    runs = 1 if pd.isna(cell["seeds"]) else int(cell["seeds"])
    return spread / math.sqrt(runs)


def main() -> None:
    """Print the ledger of all runs below a folder."""
    try:
        runs = load(
            parse_runs_folder("python -m analysis.ledger", "Compare runs with published numbers.")
        )
        ledger = compare(published(), pd.DataFrame(runs[runs["stage"] != "select"]))
    except (ValueError, OSError) as error:
        fail(error)
    Console().print(shown(ledger))


def shown(ledger: pd.DataFrame) -> Table:
    """The ledger as it fits on a screen; what is of no method, model or task here is left out."""
    screen = Table("published", "score", "ours", "seeds", "verdict", "reason")
    for cell in ledger.to_dict("records"):
        if cell["not_ours"]:
            continue
        name = "/".join(cell[key] for key in ("paper", "table", "label", "model", "column"))
        ours = "" if math.isnan(cell["ours"]) else f"{cell['ours']:.4f}"
        score, seeds = f"{cell['score']:.4f}", str(cell["our_seeds"])
        screen.add_row(plain(name), score, ours, seeds, cell["verdict"], plain(cell["reason"]))
    return screen


if __name__ == "__main__":
    main()
