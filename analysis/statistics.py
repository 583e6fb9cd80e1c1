"""Which methods differ on a task, which cannot be told apart, and what could have been seen.

A verdict is about groups of methods and never a ranking of points. All pairs of one call are one
family, in which Holm's procedure keeps the chance of any false claim below alpha.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.crossed import crossed
from analysis.effects import cohen, superiority
from analysis.letters import letters
from analysis.outcomes import Outcomes, Run, only, outcomes, score_table
from analysis.paired import holm, sign_flip, wilcoxon
from analysis.power import shift
from analysis.resampling import RESAMPLES, FromSums

EXACT = ("sign_flip", "wilcoxon")
TESTS = ("crossed", *EXACT)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How verdicts are reached.

    `crossed` asks about other seeds and other examples (`analysis.crossed`). `sign_flip` and
    `wilcoxon` are exact and ask about other seeds alone, on these very examples.
    """

    test: str = "crossed"
    alpha: float = 0.05
    power: float = 0.8  # with which the smallest visible difference is seen
    resamples: int = RESAMPLES  # of the examples
    against: str | None = None  # compare every method with this one only

    def __post_init__(self) -> None:
        if self.test not in TESTS:
            raise ValueError(f"test must be one of {', '.join(TESTS)}, got '{self.test}'.")
        if not 0 < self.alpha < self.power < 1:
            raise ValueError(
                f"alpha and power must be 0 < alpha < power < 1, got {self.alpha} and {self.power}."
            )


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What may be said of one family of comparisons.

    `pairs` has a row for each: a (the higher mean) and b, difference, its interval low and high
    (of this pair alone), p, p_holm, d with d_low and d_high, superiority with its own, visible
    (the smallest difference that the family would have shown) and the verdict in words. `methods`
    has a row for each method, by mean, with its letters where all pairs were compared.
    """

    family: str
    rule: Rule
    pairs: pd.DataFrame
    methods: pd.DataFrame

    @property
    def visible(self) -> float:
        """The difference from which on any two methods would have been told apart."""
        return float(self.pairs["visible"].to_numpy().max())


@dataclass(frozen=True, kw_only=True)
class Family:
    """Methods [k] with scores [k, n], of which a column is what two methods are paired on."""

    methods: tuple[str, ...]
    scores: np.ndarray
    where: str
    rule: Rule

    def __post_init__(self) -> None:
        if len(self.methods) < 2:
            raise ValueError(f"Two methods are needed at least, got {', '.join(self.methods)}.")
        if self.rule.against not in (None, *self.methods):
            raise ValueError(
                f"against must be one of {', '.join(self.methods)}, got '{self.rule.against}'."
            )

    @cached_property
    def order(self) -> list[int]:
        """The methods by mean, the highest first."""
        return np.argsort(-self.scores.mean(axis=1), kind="stable").tolist()

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """What is compared, the one of the higher mean first."""
        return [
            pair
            for pair in combinations(self.order, 2)
            if self.rule.against is None or self.rule.against in [self.methods[i] for i in pair]
        ]

    @cached_property
    def differences(self) -> np.ndarray:
        """Differences [pairs, n] of every pair."""
        first, second = np.array(self.pairs).T
        return self.scores[first] - self.scores[second]

    def __str__(self) -> str:
        whom = f" with {self.rule.against}" if self.rule.against else ""
        return (
            f"{count(len(self.pairs), 'comparison')} of {len(self.methods)} methods{whom} on "
            f"{self.where}, {self.rule.test}, Holm at {self.rule.alpha}"
        )


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
    family = Family(
        methods=outcomes.methods,
        scores=outcomes.scorer.observed(),
        where=f"{outcomes.task} ({outcomes.metric})",
        rule=rule,
    )
    if rule.test == "crossed":
        return judged(family, on_seeds_and_examples(family, outcomes, generator))
    return judged(family, on_pairs(family, generator))


def across(
    runs: pd.DataFrame, generator: np.random.Generator, rule: Rule | None = None
) -> Verdicts:
    """The verdicts over several tasks at once, of which every task and seed is one pair of runs.

    The claim is about other seeds on these tasks. Scores should share a scale: a task on which
    methods lie further apart weighs more.
    """
    rule = rule or Rule(test="sign_flip")
    if rule.test not in EXACT:
        raise ValueError(f"test must be one of {', '.join(EXACT)} across tasks, got '{rule.test}'.")
    only(runs, "model")
    table = score_table(runs)
    family = Family(
        methods=tuple(map(str, table.index)),
        scores=table.to_numpy(),
        where=count(len(runs["task"].unique()), "task"),
        rule=rule,
    )
    return judged(family, on_pairs(family, generator))


def on_seeds_and_examples(
    family: Family, outcomes: Outcomes, generator: np.random.Generator
) -> pd.DataFrame:
    """Every pair by `crossed`: its fields, and the floor."""
    first, second = np.array(family.pairs).T
    drawn = outcomes.scorer.bootstrap(generator, family.rule.resamples)
    apart = drawn[:, first] - drawn[:, second]
    found = crossed(family.differences, apart, outcomes.scorer.examples, family.rule.alpha)
    return pd.DataFrame(asdict(found)).assign(floor=0.0 if len(outcomes.seeds) > 1 else 1.0)


def on_pairs(family: Family, generator: np.random.Generator) -> pd.DataFrame:
    """Every pair by an exact test, in the same columns; error and degrees are the t test's."""
    alpha, number = family.rule.alpha, family.differences.shape[1]
    if family.rule.test == "wilcoxon":
        found = [wilcoxon(row, alpha) for row in family.differences]
    else:
        found = [sign_flip(row, generator, alpha=alpha) for row in family.differences]
    table = pd.DataFrame([asdict(one) for one in found]).drop(columns=["test", "pairs"])
    spread = family.differences.std(axis=1, ddof=1) if number > 1 else np.inf
    return table.assign(error=spread / np.sqrt(number), degrees=number - 1)


def possible(found: pd.DataFrame, rule: Rule) -> np.ndarray:
    """Which differences the family could have shown, had all been as clear as can be."""
    return holm(found["floor"].to_numpy()) <= rule.alpha


def told_apart(found: pd.DataFrame, rule: Rule) -> np.ndarray:
    """Which pairs differ, the whole family considered."""
    return possible(found, rule) & (holm(found["p"].to_numpy()) <= rule.alpha)


def visible(found: pd.DataFrame, rule: Rule) -> list[float]:
    """The smallest difference of each pair that is found with the rule's power, as the first.

    It is not known (NaN) where nothing varied, as between methods that predict one and the same.
    """
    alpha = rule.alpha / len(found)
    return [
        row["error"] * shift(row["degrees"], alpha, rule.power) if can else np.inf
        for row, can in zip(
            found.replace({"error": {0.0: np.nan}}).to_dict("records"),
            possible(found, rule),
            strict=True,
        )
    ]


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


def count(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
