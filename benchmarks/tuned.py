"""False claims about methods after tuning, in studies simulated from their trials on.

    python benchmarks/tuned.py [--studies N] [--json FILE]

All methods are equally good at their best rate, which is the middle one of five. Each is tuned on
selection rows, by one trial per rate (plain), in a race (`experiments.study.race`) or in one with
halving, where scores after half the steps are further apart and decide who goes on, and the chosen
rates get their final runs on other rows. A claim that two methods differ is false: what
differs is the rate that luck chose. "better by" has one method better by so many points at its best
rate, and says how often it is told apart from another one.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from time import perf_counter
from typing import Any

import numpy as np
from common import table, write
from verdicts import satterthwaite

from analysis import decisions
from analysis.family import Family, Rule, find_p
from analysis.simulated import SimulatedStudy
from analysis.task_scores import TaskScores, of_scorer
from experiments.metrics.resampling import mean
from experiments.study import race

BEST = 2  # the place of the best rate


@dataclass(frozen=True)
class Setting:
    """A task: accuracy at its rates, selection rows, examples, and what seeds do to a method."""

    name: str
    losses: tuple[float, ...]  # by rate, of the accuracy at the best one
    behind: tuple[float, ...]  # likewise after half the steps, when low rates lag
    best: float
    rows: int
    examples: int
    chance: float


LAG = (0.14, 0.05, 0.02, 0.01, 0.06)
SETTINGS = (
    Setting("like SST-2", (0.08, 0.01, 0.0, 0.01, 0.06), LAG, 0.84, 1000, 872, 0.08),
    Setting("like SST-2, 200 rows", (0.08, 0.01, 0.0, 0.01, 0.06), LAG, 0.84, 200, 872, 0.08),
    Setting("like CoLA", (0.06, 0.03, 0.0, 0.03, 0.05), LAG, 0.75, 1000, 1043, 0.25),
)


def draw_trials(
    setting: Setting, accuracies: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """One trial's score [methods, rates] at each accuracy, all on the same selection rows."""
    one = SimulatedStudy(
        accuracies=tuple(accuracies.ravel()), seeds=1, examples=setting.rows, chance=setting.chance
    )
    return one.right(generator).mean(axis=(0, 2)).reshape(accuracies.shape)


def tune_plainly(
    setting: Setting, accuracies: np.ndarray, generator: np.random.Generator
) -> list[list[int]]:
    """The rate of each method by one trial of each."""
    return [[int(place)] for place in draw_trials(setting, accuracies, generator).argmax(axis=1)]


def tune_by_halving(
    setting: Setting, accuracies: np.ndarray, generator: np.random.Generator
) -> list[list[int]]:
    """The rate of each method by a race in which the worse half of the rates stops half-way."""
    halfway = accuracies + np.array(setting.losses) - np.array(setting.behind)
    known = draw_trials(setting, halfway, generator).tolist()
    goes_on = [race.choose_survivors(scores) for scores in known]
    return tune_in_a_race(setting, accuracies, generator, goes_on)


def tune_in_a_race(
    setting: Setting,
    accuracies: np.ndarray,
    generator: np.random.Generator,
    goes_on: list[set[int]] | None = None,
) -> list[list[int]]:
    """The rate of each method by a race, and the second one if it is as good.

    `goes_on` has the places of each method's rates that are tried to the end, if not all are.
    """
    first = draw_trials(setting, accuracies, generator)
    more = [draw_trials(setting, accuracies, generator) for _ in range(race.MORE)]
    pairs = []
    for method, scores in enumerate(first):
        ends = None if goes_on is None else goes_on[method]
        known = [s if ends is None or p in ends else None for p, s in enumerate(scores.tolist())]
        two = race.best_two(known)
        tries = {place: [scores[place], *(one[method, place] for one in more)] for place in two}
        pairs.append(sorted(tries.items(), key=lambda item: -fmean(item[1])))
    error = race.pool_error((a[1], b[1]) for a, b in pairs)
    return [[a[0], b[0]] if race.are_close(a[1], b[1], error) else [a[0]] for a, b in pairs]


TUNINGS = {"plain": tune_plainly, "race": tune_in_a_race, "halving": tune_by_halving}


def finals(
    setting: Setting,
    accuracies: np.ndarray,
    chosen: list[list[int]],
    seeds: int,
    generator: np.random.Generator,
) -> TaskScores:
    """The final runs of every method at its one rate or its two."""
    rows = [(method, place) for method, places in enumerate(chosen) for place in places]
    study = SimulatedStudy(
        accuracies=tuple(accuracies[method, place] for method, place in rows),
        seeds=seeds, examples=setting.examples, chance=setting.chance,
    )  # fmt: skip
    names = tuple(map(str, range(len(rows))))
    scorer = mean(study.right(generator))
    settings = tuple(
        tuple(row for row, (owner, _) in enumerate(rows) if owner == method)
        for method in range(len(chosen))
    )
    task = of_scorer(scorer, setting.name, "accuracy", names)
    return replace(task, methods=names[: len(chosen)], settings=settings)


def count_claims(
    setting: Setting, methods: int, seeds: int, tuning: str, better: float, studies: int
) -> dict[str, float]:
    """Shares of studies with a claim: of any pair, of the first against others, and before."""
    generator = np.random.default_rng([methods, seeds, len(setting.name), int(1000 * better)])
    accuracies = np.tile(setting.best - np.array(setting.losses), (methods, 1))
    accuracies[0] += better
    found, right, runs = np.zeros(3), 0, 0
    for _ in range(studies):
        chosen = TUNINGS[tuning](setting, accuracies, generator)
        right += sum(places[0] == BEST for places in chosen)
        runs += sum(map(len, chosen)) * seeds
        task = finals(setting, accuracies, chosen, seeds, generator)
        family = Family(parts=[task], where="", rule=Rule())
        table = find_p(family)
        apart = family.adjust(table["p"].to_numpy()) <= 0.05
        first = np.array([0 in pair for pair in family.pairs])
        found += [
            apart.any(),
            (apart & (table["difference"] > 0))[first].mean(),
            (decisions.holm(satterthwaite(family)) <= 0.05).any(),
        ]
    share = found / studies
    return {
        "any": share[0], "first": share[1], "before": share[2],
        "best rate": right / (studies * methods), "final runs": runs / studies,
    }  # fmt: skip


def measured(studies: int) -> list[dict[str, Any]]:
    """Every setting with its figures."""
    rows = []
    for setting in SETTINGS:
        for methods, seeds in ((2, 5), (2, 8), (2, 20), (6, 8)):
            row: dict[str, Any] = {"task": setting.name, "methods": methods, "seeds": seeds}
            for tuning in TUNINGS:
                found = count_claims(setting, methods, seeds, tuning, 0.0, studies)
                if tuning == "plain":
                    row["before"] = found["before"]
                row[f"{tuning}: false"] = found["any"]
                row[f"{tuning}: best rate"] = found["best rate"]
                row[f"{tuning}: final runs"] = round(found["final runs"], 1)
                planted = count_claims(setting, methods, seeds, tuning, 0.04, studies // 2)
                row[f"{tuning}: better by 4"] = planted["first"]
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    start = perf_counter()
    rows = measured(given.studies)
    lines = [
        [
            f"{100 * value:.1f}" if isinstance(value, float) and "runs" not in key else str(value)
            for key, value in row.items()
        ]
        for row in rows
    ]
    table(f"Claims after tuning, % of {given.studies} studies", list(rows[0]), lines)
    print(f"{perf_counter() - start:.0f} seconds")
    write(given.json, {"studies": given.studies, "rows": rows})


if __name__ == "__main__":
    main()
