"""Methods compared in pairs as one family: by which rule, what is found, what was visible."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from analysis.crossed import Crossed, crossed, together
from analysis.outcomes import Outcomes
from analysis.paired import holm, sign_flip, wilcoxon
from analysis.power import shift
from analysis.resampling import RESAMPLES

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

    @property
    def level(self) -> str:
        """What intervals cover, in words."""
        return f"{100 - 100 * self.alpha:g} %"


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


def on_seeds_and_examples(
    family: Family, parts: Sequence[Outcomes], generator: np.random.Generator
) -> pd.DataFrame:
    """Every pair by `crossed` on one task or over several: its fields, and the floor."""
    found = [on_task(family, part, generator) for part in parts]
    whole = found[0] if len(found) == 1 else together(found, family.rule.alpha)
    return pd.DataFrame(asdict(whole)).assign(floor=0.0 if len(parts[0].seeds) > 1 else 1.0)


def on_task(family: Family, outcomes: Outcomes, generator: np.random.Generator) -> Crossed:
    """Every pair on one task."""
    first, second = np.array(family.pairs).T
    scores = outcomes.scorer.observed()
    drawn = outcomes.scorer.bootstrap(generator, family.rule.resamples)
    apart = drawn[:, first] - drawn[:, second]
    return crossed(
        scores[first] - scores[second], apart, outcomes.scorer.examples, family.rule.alpha
    )


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

    It is not known (NaN) where nothing varied, as between methods that predict one and the same,
    and for the exact tests, which see less than Student's t.
    """
    if rule.test in EXACT:
        return [np.nan if can else np.inf for can in possible(found, rule)]
    alpha = rule.alpha / len(found)
    return [
        row["error"] * shift(row["degrees"], alpha, rule.power) if can else np.inf
        for row, can in zip(
            found.replace({"error": {0.0: np.nan}}).to_dict("records"),
            possible(found, rule),
            strict=True,
        )
    ]


def count(number: int, noun: str) -> str:
    """A number and its noun."""
    return f"{number} {noun}{'' if number == 1 else 'es' if noun.endswith('ss') else 's'}"
