"""False claims, power and coverage of the verdicts, in simulated studies of known truth.

    python benchmarks/verdicts.py [--studies N] [--examples N] [--json FILE]

Methods share seeds and examples; each has a taste for examples and luck with seeds of its own
(`analysis.simulated`). A false claim is any pair told apart where all methods are alike. The
difference that is planted for power is the one `analysis.power` says is found with power 0.8.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from common import table, write
from scipy import stats

from analysis.crossed import crossed, pigeonhole
from analysis.family import Family, Rule, on_seeds_and_examples, told_apart
from analysis.outcomes import Outcomes
from analysis.paired import holm, wilcoxon
from analysis.power import smallest_difference
from analysis.simulated import Study

SEEDS = (5, 8, 16)
METHODS = (2, 6)
ACCURACY = 0.85
RULE = Rule(resamples=400)
NESTED = 200  # resamples, of which each draws examples for every seed


def family_of(outcomes: Outcomes) -> Family:
    """All pairs of a study."""
    scores = outcomes.scorer.observed()
    return Family(methods=outcomes.methods, scores=scores, where=outcomes.task, rule=RULE)


def claims(outcomes: Outcomes, generator: np.random.Generator) -> dict[str, bool]:
    """Whether any pair is told apart, by each procedure."""
    family = family_of(outcomes)
    found = on_seeds_and_examples(family, [outcomes], generator)
    over_seeds = np.asarray(stats.ttest_1samp(family.differences, 0, axis=1)[1])
    exact = [wilcoxon(row).p for row in family.differences]
    return {
        "verdicts": bool(told_apart(found, RULE).any()),
        "without Holm": bool((found["p"] <= RULE.alpha).any()),
        "t over seeds, Holm": bool((holm(over_seeds) <= RULE.alpha).any()),
        "Wilcoxon over seeds, Holm": bool((holm(exact) <= RULE.alpha).any()),
    }


def false_claims(study: Study, studies: int, generator: np.random.Generator) -> dict[str, float]:
    """Shares of studies with any false claim."""
    found = [claims(study.draw(generator), generator) for _ in range(studies)]
    return {name: float(np.mean([one[name] for one in found])) for name in found[0]}


def planted(study: Study, studies: int, generator: np.random.Generator) -> dict[str, float]:
    """The visible difference, and how often it is found where the first method is better by it."""
    number = len(study.accuracies)
    design = study.design(generator, number * (number - 1) // 2)
    difference = smallest_difference(design, RULE.power)
    better = replace(study, accuracies=(ACCURACY + difference, *study.accuracies[1:]))
    hits = []
    for _ in range(studies):
        outcomes = better.draw(generator)
        family = family_of(outcomes)
        found = on_seeds_and_examples(family, [outcomes], generator)
        differ = told_apart(found, RULE)
        pair = next(i for i, pair in enumerate(family.pairs) if set(pair) == {0, 1})
        hits.append(bool(differ[pair]))
    return {"visible": difference, "found": float(np.mean(hits))}


def nested(right: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Differences by seeds drawn anew and, within each of them, examples drawn anew."""
    apart = right[:, 0].astype(float) - right[:, 1]
    examples, seeds = apart.shape
    picked = generator.integers(seeds, size=(NESTED, seeds, 1))
    rows = generator.integers(examples, size=(NESTED, seeds, examples))
    return apart[rows, picked].mean(axis=(1, 2))


def percentile(values: np.ndarray) -> tuple[float, float]:
    """Ends of the interval that holds all but alpha of the resamples."""
    low, high = np.quantile(values, [RULE.alpha / 2, 1 - RULE.alpha / 2])
    return low, high


def intervals(study: Study, generator: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Intervals of the first two methods' difference in one study."""
    right = study.right(generator)
    scorer = study.outcomes(right).scorer
    drawn, scores = scorer.bootstrap(generator, RULE.resamples), scorer.observed()
    apart, differences = drawn[:, 0] - drawn[:, 1], scores[0] - scores[1]
    found = crossed(differences, apart, study.examples, RULE.alpha)
    over_seeds = stats.ttest_1samp(differences, 0).confidence_interval(1 - RULE.alpha)
    return {
        "crossed": (float(found.low), float(found.high)),
        "pigeonhole": percentile(pigeonhole(apart, generator)),
        "nested": percentile(nested(right, generator)),
        "t over seeds": (over_seeds.low, over_seeds.high),
        "examples alone": percentile(apart.mean(axis=1)),
    }


def coverage(study: Study, studies: int, generator: np.random.Generator) -> dict[str, float]:
    """How often 95 % intervals hold the true difference, 0."""
    drawn = [intervals(study, generator) for _ in range(studies)]
    return {
        name: float(np.mean([one[name][0] <= 0 <= one[name][1] for one in drawn]))
        for name in drawn[0]
    }


def measured(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Every setting with its figures."""
    rows = []
    for methods in METHODS:
        for seeds in SEEDS:
            study = Study(accuracies=(ACCURACY,) * methods, seeds=seeds, examples=given.examples)
            generator = np.random.default_rng([methods, seeds])
            row: dict[str, Any] = {"methods": methods, "seeds": seeds}
            row["false claims"] = false_claims(study, given.studies, generator)
            row["planted"] = planted(study, given.studies, generator)
            if methods == 2:
                row["coverage"] = coverage(study, given.studies // 2, generator)
            rows.append(row)
    return rows


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def show(rows: list[dict[str, Any]], key: str, title: str) -> None:
    """One table of percentages, a row for each setting."""
    chosen = [row for row in rows if key in row]
    names = list(chosen[0][key])
    lines = [
        [f"{row['methods']} methods, {row['seeds']} seeds", *map(percent, row[key].values())]
        for row in chosen
    ]
    table(title, ["", *names], lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--studies", type=int, default=600)
    parser.add_argument("--examples", type=int, default=400)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    start = perf_counter()
    rows = measured(given)
    error = 100 * np.sqrt(0.05 * 0.95 / given.studies)
    print(f"{given.studies} studies of {given.examples} examples, accuracy {ACCURACY}, in percent;")
    print(f"the Monte-Carlo standard error of 5 % is {error:.1f}, that of coverage 1.4 times that.")
    show(rows, "false claims", "Studies with a false claim, all methods being alike")
    show(rows, "planted", "The smallest visible difference by formula, and how often it is found")
    show(rows, "coverage", "Coverage of 95 % intervals of a difference")
    print(f"{perf_counter() - start:.0f} seconds")
    write(given.json, {"studies": given.studies, "examples": given.examples, "rows": rows})


if __name__ == "__main__":
    main()
