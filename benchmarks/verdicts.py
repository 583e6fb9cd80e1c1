"""False claims, coverage and power of the verdicts, in simulated studies of known truth.

    python benchmarks/verdicts.py [--studies N] [--more N] [--quick] [--json FILE]

A false claim is any pair told apart where all methods are alike. A cell of the grid fails if the
lower 99 % bound of its rate exceeds 6 %; where the rate of the first studies lies above 5.5 %, so
many more are drawn. Methods share seeds and examples; each has a taste for examples and luck with
seeds of its own (`analysis.simulated`), small, large, with heavy tails (Student's t with two
degrees), unequal across methods, or with 15 % of runs that give one answer to all. "before" is the
procedure of the t test with Satterthwaite's degrees of freedom and Holm.
"""

import argparse
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import table, write
from scipy import stats

from analysis import decisions
from analysis.family import Family, Rule, find_p
from analysis.power import power, smallest_difference
from analysis.simulated import SimulatedStudy
from analysis.statistics import judge

ACCURACY, PLANTED = 0.85, 0.7  # of methods that are alike, and about which two differ
BOUND, LOOK_AGAIN = 0.06, 0.055
EFFECTS: dict[str, dict[str, Any]] = {
    "small": {"chance": 0.05},
    "large": {"chance": 0.3},
    "heavy": {"chance": 0.1, "degrees": 2.0},
    "unequal": {"chance": (0.02, 0.3)},  # in turn
    "collapse": {"chance": 0.08, "collapse": 0.15},
}
SEEDS, EXAMPLES, METHODS = (3, 5, 8, 16), (277, 872, 5000), (2, 6, 12)
MARGIN = 2.0  # points, at which two methods that differ by it may not be called the same


@dataclass(frozen=True)
class Cell:
    """One setting of the grid."""

    metric: str
    methods: int
    effect: str
    seeds: int
    examples: int

    def study(self) -> SimulatedStudy:
        """Methods that are alike."""
        changes = dict(EFFECTS[self.effect])
        if self.effect == "unequal":
            changes["chance"] = (changes["chance"] * self.methods)[: self.methods]
        alike = SimulatedStudy(
            accuracies=(ACCURACY,) * self.methods, seeds=self.seeds, examples=self.examples,
            metric=self.metric, positive=0.5 if self.metric == "accuracy" else 0.7,
        )  # fmt: skip
        return replace(alike, **changes)

    def generator(self, part: int) -> np.random.Generator:
        """Its own random numbers."""
        key = [len(self.metric), self.methods, list(EFFECTS).index(self.effect), self.seeds]
        return np.random.default_rng([*key, self.examples, part])

    def __str__(self) -> str:
        return f"{self.metric}, {self.methods} methods, {self.effect}"


def grid(quick: bool) -> Iterator[Cell]:
    """The cells: everything at 872 examples, and a part of it at the other sizes and metric."""
    seeds, examples, methods = ((3, 8), (872,), (2, 6)) if quick else (SEEDS, EXAMPLES, METHODS)
    for m, effect, s, n in product(methods, EFFECTS, seeds, examples):
        # 12 methods at 5,000 examples and 16 seeds are a million draws a study.
        if n < 5000 or (m == 6 and s < 16):
            yield Cell("accuracy", m, effect, s, n)
    for m, effect, s in product(methods[:2], ("small", "large", "heavy", "collapse"), seeds):
        # With another spread of seeds the expected correlation of equal accuracies differs.
        yield Cell("matthews", m, effect, s, 872)


def draw_family(cell: Cell, generator: np.random.Generator) -> Family:
    """One study of a cell as a family."""
    return Family(parts=[cell.study().draw(generator)], where="", rule=Rule())


def count_claims(cell: Cell, studies: int, part: int) -> np.ndarray:
    """How many studies have a false claim, by the verdicts and by the procedure before."""
    generator, found = cell.generator(part), np.zeros(2, dtype=int)
    for _ in range(studies):
        family = draw_family(cell, generator)
        table = find_p(family)
        found += [
            (family.adjust(table["p"].to_numpy()) <= 0.05).any(),
            (decisions.holm(satterthwaite(family)) <= 0.05).any(),
        ]
    return found


def satterthwaite(family: Family) -> np.ndarray:
    """p-values of the pairs by the t test with Satterthwaite's degrees of freedom."""
    given = decisions.stack_pairs([views[0].variances[0] for views in family.views])
    difference = np.array([views[0].means[0] for views in family.views])
    between, among = given.between[:, 0], (given.beyond + given.rest)[:, 0]
    variance = np.maximum(between + given.beyond[:, 0], np.maximum(between, among))
    degrees = variance**2 / (
        between**2 / (given.seeds[:, 0] - 1) + among**2 / (given.examples[:, 0] - 1)
    )
    return 2 * stats.t.sf(np.abs(difference) / np.sqrt(variance), degrees)


def judge_cell(cell: Cell, studies: int, more: int) -> dict[str, Any]:
    """The rates of false claims in a cell, and whether it holds."""
    claims, drawn = count_claims(cell, studies, 0), studies
    if claims[0] > LOOK_AGAIN * studies:
        claims, drawn = claims + count_claims(cell, more, 1), studies + more
    least = stats.beta.ppf(0.01, claims[0], drawn - claims[0] + 1) if claims[0] else 0.0
    return {
        "cell": str(cell), "seeds": cell.seeds, "examples": cell.examples, "studies": drawn,
        "false": claims[0] / drawn, "before": claims[1] / drawn, "holds": bool(least <= BOUND),
    }  # fmt: skip


def cover(cell: Cell, studies: int) -> dict[str, Any]:
    """How often all intervals hold the truth at once, of methods alike and of methods that differ.

    In the second study every other method is worse by what is found with half the power, 20 points
    at most.
    """
    generator, found = cell.generator(2), np.zeros(2)
    alike = cell.study()
    shift = min(smallest_difference(alike.design(generator, 15), 0.5), 0.2)
    better = tuple(ACCURACY - shift * (place % 2) for place in range(cell.methods))
    for place, study in enumerate((alike, replace(alike, accuracies=better))):
        truth = np.array(study.accuracies)
        for _ in range(studies):
            pairs = judge(study.draw(generator)).pairs
            names = [pairs[side].str.rpartition(" ")[2].astype(int) for side in ("a", "b")]
            true = truth[names[0]] - truth[names[1]]
            inside = (pairs["low"] <= true + 1e-12) & (pairs["high"] >= true - 1e-12)
            found[place] += inside.all()
    return {
        "cell": str(cell), "seeds": cell.seeds, "examples": cell.examples,
        "alike": found[0] / studies, "different": found[1] / studies,
    }  # fmt: skip


def equivalence(cell: Cell, studies: int) -> dict[str, Any]:
    """How often two methods that differ by the margin are called the same, and equal ones are."""
    generator, found = cell.generator(3), np.zeros(2)
    study = cell.study()
    apart = replace(study, accuracies=(ACCURACY + MARGIN / 100, *study.accuracies[1:]))
    for place, one in enumerate((apart, study)):
        for _ in range(studies):
            family = Family(parts=[one.draw(generator)], where="", rule=Rule(margin=MARGIN))
            same = decisions.holm(find_p(family)["p_same"].to_numpy()) <= 0.05
            # Of many methods only the first differs.
            first = np.array([0 in pair for pair in family.pairs])
            found[place] += same[first].any() if place == 0 else same.mean()
    return {
        "cell": str(cell), "seeds": cell.seeds, "examples": cell.examples,
        "falsely": found[0] / studies, "rightly": found[1] / studies,
    }  # fmt: skip


def find_planted(cell: Cell, studies: int) -> dict[str, Any]:
    """How often two methods are told apart that differ by what is found with 80 % power.

    "found" with the other methods halfway between them, which asks the most, and "apart" with all
    others like the worse one. Then how often the printed range holds the true detectable
    difference, and the true power at its upper end, the median and the tenth percentile of studies.
    """
    generator, m = cell.generator(4), cell.methods
    study = replace(cell.study(), accuracies=(PLANTED,) * m)
    design = study.design(generator, m * (m - 1) // 2)
    truth = smallest_difference(design)
    row: dict[str, Any] = {"cell": str(cell), "seeds": cell.seeds, "truth": truth}
    ends = [judge(study.draw(generator)).detectable for _ in range(studies // 4)]
    row["range holds"] = float(np.mean([low <= truth <= high for low, high in ends]))
    powers = [power(design, min(high, 1.0)) for _, high in ends]
    row |= {"power at its end": float(np.median(powers)), "tenth": float(np.quantile(powers, 0.1))}
    if truth > 0.5:
        return row | dict.fromkeys(("found", "Holm", "before", "apart"), "no such difference")
    halfway = (PLANTED + truth / 2, PLANTED - truth / 2, *study.accuracies[2:])
    apart = (PLANTED + truth / 2, *(PLANTED - truth / 2,) * (m - 1))
    row |= dict(
        zip(("found", "Holm", "before"), find_pair(study, halfway, studies, generator), strict=True)
    )
    return row | {"apart": find_pair(study, apart, studies, generator)[0]}


def find_pair(
    study: SimulatedStudy,
    accuracies: tuple[float, ...],
    studies: int,
    generator: np.random.Generator,
) -> list[float]:
    """How often the first pair is told apart: by the verdicts, with Holm, and before."""
    better, found = replace(study, accuracies=accuracies), np.zeros(3)
    for _ in range(studies):
        family = Family(parts=[better.draw(generator)], where="", rule=Rule())
        p = find_p(family)["p"].to_numpy()
        tests = (family.adjust(p), decisions.holm(p), decisions.holm(satterthwaite(family)))
        found += [adjusted[0] <= 0.05 for adjusted in tests]
    return (found / studies).tolist()


def percent(value: Any) -> str:
    """A share in percent; other things as they are."""
    return f"{100 * value:.1f}" if isinstance(value, float) else str(value)


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """A table with a line for each cell."""
    table(title, list(rows[0]), [list(map(percent, row.values())) for row in rows])


def follow(title: str, futures: list[Future[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Results in order, each shown on the way as it comes: all of them take long."""
    for number, one in enumerate(futures, 1):
        row = one.result()
        values = [f"{key} {percent(value)}" for key, value in row.items()]
        print(f"{title}, {number} of {len(futures)}: {', '.join(values)}", file=sys.stderr)
        yield row


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=1000)
    parser.add_argument("--more", type=int, default=10_000, help="where a rate is above 5.5 %%")
    parser.add_argument("--quick", action="store_true", help="a small part of the grid")
    parser.add_argument("--parts", nargs="*", choices=["claims", "intervals", "same", "power"])
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    start, cells = perf_counter(), list(grid(given.quick))
    # Where seeds are normal, the true difference of two accuracies is known.
    some = [
        cell
        for cell in cells
        if (cell.examples, cell.metric) == (872, "accuracy")
        and cell.methods < 12
        and cell.effect in ("small", "large", "unequal")
    ]
    few = max(1, given.studies // 2)
    even = [cell for cell in some if cell.effect != "unequal"]
    parts: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
        "claims": (
            "Studies with a false claim, all methods being alike",
            [(judge_cell, cell, given.studies, given.more) for cell in cells],
        ),
        "intervals": (
            "Simultaneous intervals that all hold the truth",
            [(cover, cell, few // 2) for cell in some],
        ),
        "same": (
            f"Called the same within {MARGIN:g} points",
            [(equivalence, cell, few) for cell in some],
        ),
        "power": (
            "Two methods that differ by what is found with 80 % power",
            [(find_planted, cell, few) for cell in even],
        ),
    }
    found = {}
    with ProcessPoolExecutor(given.jobs) as pool:
        for part in given.parts or parts:
            title, calls = parts[part]
            found[title] = list(follow(title, [pool.submit(*call) for call in calls]))
            show(title, found[title])
            if part == "claims":
                fallen = [row for row in found[title] if not row["holds"]]
                print(f"{len(cells)} cells, {len(fallen)} with a lower bound above {BOUND:.0%}")
    print(f"{perf_counter() - start:.0f} seconds")
    write(given.json, found)


if __name__ == "__main__":
    main()
