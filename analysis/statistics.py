"""Which methods differ on a task, which cannot be told apart, and what could have been seen.

A verdict is about groups of methods and never a ranking of points. All pairs of one call are one
family, in which Holm's procedure keeps the chance of any false claim below alpha.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from analysis.effects import cohen, superiority
from analysis.family import (
    Family,
    Rule,
    count,
    on_pairs,
    on_seeds_and_examples,
    possible,
    told_apart,
    visible,
)
from analysis.letters import letters
from analysis.outcomes import Outcomes, Run, outcomes
from analysis.paired import holm
from analysis.resampling import FromSums


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What may be said of one family of comparisons.

    `pairs` has a row for each: a (the higher mean) and b, difference, its interval low and high
    (of this pair alone), p, p_holm, d with d_low and d_high (from three pairs on), superiority
    with its own, visible (the smallest difference that the family would have shown) and the
    verdict in words. `methods` has a row for each method, by mean, with its letters where all
    pairs were compared.
    """

    family: str
    rule: Rule
    pairs: pd.DataFrame
    methods: pd.DataFrame

    @property
    def visible(self) -> float:
        """The difference from which on any two methods would have been told apart."""
        return float(self.pairs["visible"].to_numpy().max())


def verdicts(
    runs: pd.DataFrame,
    predictions: Mapping[Run, pd.DataFrame],
    generator: np.random.Generator,
    rule: Rule | None = None,
    score: FromSums | None = None,
) -> Verdicts:
    """The verdicts on one task, from a table of runs and what each of them predicted.

    `score` is for metrics of counts, as `analysis.outcomes.outcomes` says.
    """
    return judge(outcomes(runs, predictions, score), generator, rule or Rule())


def judge(outcomes: Outcomes, generator: np.random.Generator, rule: Rule) -> Verdicts:
    """The verdicts on one task."""
    return on_tasks([outcomes], f"{outcomes.task} ({outcomes.metric})", generator, rule)


def across(
    parts: Sequence[Outcomes], generator: np.random.Generator, rule: Rule | None = None
) -> Verdicts:
    """The verdicts on the mean over several tasks, with the same methods and seeds on each.

    The claim is about other seeds on these tasks, and other examples of them; the exact tests
    take every task and seed as one pair of runs. Scores should share a scale: a task on which
    methods lie further apart weighs more.
    """
    first = parts[0]
    for part in parts[1:]:
        if (part.methods, part.seeds) != (first.methods, first.seeds):
            raise ValueError(
                f"{part.task} has other methods or seeds than {first.task}; keep what both have."
            )
    return on_tasks(parts, count(len(parts), "task"), generator, rule or Rule())


def on_tasks(
    parts: Sequence[Outcomes], where: str, generator: np.random.Generator, rule: Rule
) -> Verdicts:
    """The verdicts on one task or on the mean over several."""
    family = Family(
        methods=parts[0].methods,
        scores=np.concatenate([part.scorer.observed() for part in parts], axis=1),
        where=where,
        rule=rule,
    )
    if rule.test == "crossed":
        return judged(family, on_seeds_and_examples(family, parts, generator))
    return judged(family, on_pairs(family, generator))


def judged(family: Family, found: pd.DataFrame) -> Verdicts:
    """What was found in every pair, adjusted for the whole family and put into words."""
    rule, differ = family.rule, told_apart(found, family.rule)
    names = np.array(family.methods)[np.array(family.pairs)]
    sizes = pd.DataFrame([effect_sizes(row, rule.alpha) for row in family.differences])
    table = pd.concat(
        [
            pd.DataFrame(names, columns=["a", "b"]),
            found[["difference", "low", "high", "p"]],
            pd.DataFrame({"p_holm": holm(found["p"].to_numpy())}),
            sizes,
            pd.DataFrame({"visible": visible(found, rule)}),
        ],
        axis=1,
    )
    few = f"cannot be decided: {count(family.differences.shape[1], 'pair')}"
    table["verdict"] = [
        few if not can else words(row) if apart else "cannot be told apart"
        for row, can, apart in zip(
            table.to_dict("records"), possible(found, rule), differ, strict=True
        )
    ]
    return Verdicts(
        family=str(family), rule=rule, pairs=table, methods=methods_table(family, differ)
    )


def words(row: Mapping) -> str:
    """Which of two methods is better."""
    better, worse = (row["a"], row["b"]) if row["difference"] > 0 else (row["b"], row["a"])
    return f"{better} is better than {worse}"


def methods_table(family: Family, differ: np.ndarray) -> pd.DataFrame:
    """Every method by mean, with its letters where all pairs were compared."""
    means = family.scores.mean(axis=1)
    table = pd.DataFrame({"method": family.methods, "mean": means})
    if family.rule.against is None:
        apart = np.zeros((len(means), len(means)), dtype=bool)
        for pair, different in zip(family.pairs, differ, strict=True):
            apart[pair] = different
        table["letters"] = letters(means, apart | apart.T)
    return table.iloc[family.order].reset_index(drop=True)


def effect_sizes(differences: np.ndarray, alpha: float) -> dict[str, float]:
    """Both sizes of an effect and their intervals, by the names of the table's columns."""
    d = asdict(cohen(differences, alpha)) if len(differences) > 2 else {}
    wins = asdict(superiority(differences, alpha))
    return {
        **{name: d.get(key, np.nan) for name, key in named("d").items()},
        **{name: wins[key] for name, key in named("superiority").items()},
    }


def named(size: str) -> dict[str, str]:
    """Columns of an effect's size and its interval."""
    return {size: "value", f"{size}_low": "low", f"{size}_high": "high"}
