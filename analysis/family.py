"""Methods compared in pairs as one family: by which rule, and what is found in each pair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product

import numpy as np
import pandas as pd

from analysis import decisions
from analysis.decisions import MIN_SEEDS, Variances
from analysis.paired import sign_flip, wilcoxon
from analysis.scales import is_raw, scale
from analysis.task_scores import Frame, TaskScores

POINTS = "points"  # the key of a margin for all metrics that are printed in points
EXACT = ("sign_flip", "wilcoxon")
TESTS = ("crossed", *EXACT)
DRAWS = 0  # seeds the generator of what is drawn: the same runs give the same verdicts


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How verdicts are reached.

    `crossed` asks about other seeds and other examples (`analysis.decisions`). `sign_flip` and
    `wilcoxon` are exact and ask about other seeds alone, on these very examples. `margin` is the
    difference below which two methods count as the same, in points (1.0 is 1 % of accuracy), or by
    metric in the unit in which it is printed; None claims of no pair that it is the same.
    """

    test: str = "crossed"
    alpha: float = 0.05
    power: float = 0.8  # with which the detectable difference is found
    against: str | None = None  # compare every method with this one only
    margin: float | Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if self.test not in TESTS:
            raise ValueError(f"test must be one of {', '.join(TESTS)}, got '{self.test}'.")
        if not 0 < self.alpha < self.power < 1:
            raise ValueError(
                f"alpha and power must be 0 < alpha < power < 1, got {self.alpha} and {self.power}."
            )
        for value in self.margins.values():
            if not value > 0:
                raise ValueError(f"margin must be positive, got {value}.")

    @property
    def margins(self) -> Mapping[str, float]:
        """The margins by metric; that of POINTS is for every metric that is printed in points."""
        if self.margin is None:
            return {}
        return self.margin if isinstance(self.margin, Mapping) else {POINTS: self.margin}

    def margin_on(self, metrics: Sequence[str]) -> float | None:
        """The margin of a mean over tasks with these metrics, as a difference of scores."""
        known = {metric: self.margins.get(metric) for metric in metrics}
        if len(set(metrics)) == 1 and known[metrics[0]] is not None:
            return self.margins[metrics[0]] / scale(metrics[0])
        if POINTS in self.margins and not any(is_raw(metric) for metric in metrics):
            return self.margins[POINTS] / 100
        return None

    @property
    def level(self) -> str:
        """The coverage of intervals in words."""
        return f"{100 - 100 * self.alpha:g} %"


def parse_margins(given: Sequence[str]) -> dict[str, float] | None:
    """The margins on a command line by metric; raises ValueError for a text that is none."""
    found = {}
    for text in given:
        metric, _, value = text.rpartition("=")
        try:
            found[metric or POINTS] = float(value)
        except ValueError:
            raise ValueError(f"--margin takes points or METRIC=POINTS, got '{text}'.") from None
    return found or None


@dataclass(frozen=True, kw_only=True)
class View:
    """A pair in one setting of each method: its differences by task and seed, and their variances.

    `by_seed` has an array [seeds] for each task; `variances` are [1, tasks].
    """

    means: np.ndarray
    by_seed: tuple[np.ndarray, ...]
    variances: tuple[Variances, ...]

    @property
    def seeds(self) -> int:
        """The seeds that both methods have, of the task with the fewest."""
        return min(map(len, self.by_seed))


@dataclass(frozen=True, kw_only=True)
class Family:
    """Methods on one task or on several; what is compared are means over tasks."""

    parts: Sequence[TaskScores]
    where: str
    rule: Rule

    def __post_init__(self) -> None:
        if len(self.methods) < 2:
            raise ValueError(f"Two methods are needed at least, got {', '.join(self.methods)}.")
        if self.rule.against not in (None, *self.methods):
            raise ValueError(
                f"against must be one of {', '.join(self.methods)}, got '{self.rule.against}'."
            )

    @property
    def margin(self) -> float | None:
        """The difference of scores below which two methods are the same, if any."""
        return self.rule.margin_on([part.metric for part in self.parts])

    @property
    def methods(self) -> tuple[str, ...]:
        """The names of the methods."""
        return self.parts[0].methods

    @cached_property
    def means(self) -> np.ndarray:
        """Each method's mean [k] over its seeds, in its chosen setting, and over tasks."""
        each = [np.nanmean(part.scores[part.chosen], axis=1) for part in self.parts]
        return self.weights @ np.array(each)

    @cached_property
    def order(self) -> list[int]:
        """The methods by mean, the highest first."""
        return np.argsort(-self.means, kind="stable").tolist()

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """The pairs that are compared, in the order of the methods."""
        return [
            pair
            for pair in combinations(range(len(self.methods)), 2)
            if self.rule.against is None or self.rule.against in [self.methods[i] for i in pair]
        ]

    @cached_property
    def views(self) -> list[list[View]]:
        """Every pair in each combination of settings, the chosen ones first.

        Over several tasks there may be many; only the one that speaks least for the difference is
        kept beside the chosen one.
        """
        found = []
        for pair in self.pairs:
            each = [views_on_task(part, pair) for part in self.parts]
            if len(each) == 1:
                found.append(each[0])
                continue
            first = together([options[0] for options in each])
            sign = np.sign(first.means @ self.weights) or 1.0
            least = [min(options, key=lambda view: sign * view.means[0]) for options in each]
            several = any(len(options) > 1 for options in each)
            found.append([first, together(least)] if several else [first])
        return found

    @cached_property
    def weights(self) -> np.ndarray:
        """The weight [tasks] of each task in the mean; they sum to 1.

        A task weighs the less, the noisier a difference on it is, so that the verdict over tasks is
        not that of the noisiest one: the weighted differences have the same standard error on
        average over pairs. A task on which nothing varies weighs nothing.
        """
        if len(self.parts) == 1:
            return np.ones(1)
        noise = np.array([average_error(part, self.pairs) for part in self.parts])
        if not np.isfinite(noise).all() or not noise.any():
            return np.full(len(noise), 1 / len(noise))
        weights = np.divide(1.0, noise, out=np.zeros_like(noise), where=noise > 0)
        return weights / weights.sum()

    def __str__(self) -> str:
        whom = f" with {self.rule.against}" if self.rule.against else ""
        return (
            f"{count(len(self.pairs), 'comparison')} of {len(self.methods)} methods{whom} on "
            f"{self.where}, {self.rule.test}, {self.procedure} at {self.rule.alpha}"
        )

    @property
    def procedure(self) -> str:
        """The name of the procedure that keeps the chance of any false claim below alpha."""
        if self.rule.against is not None:
            return "Holm"
        many = len(self.methods) > decisions.EXHAUSTIVE
        return "Shaffer" if many else "Bergmann and Hommel"

    def adjust(self, p: np.ndarray) -> np.ndarray:
        """The p-values of the pairs, adjusted for all of them."""
        if self.rule.against is not None:
            return decisions.holm(p)
        return decisions.adjust_all_pairs(p, len(self.methods))


def views_on_task(part: TaskScores, pair: tuple[int, int]) -> list[View]:
    """A pair on one task in every combination of its settings, the chosen ones first."""
    first, second = (part.settings[method] for method in pair)
    return [view_of(part, rows) for rows in product(first, second)]


def view_of(part: TaskScores, rows: tuple[int, int]) -> View:
    """Two rows of a task on the seeds that both have; computed once for each task."""
    if rows not in part.views:
        part.views[rows] = compare_rows(part, rows)
    return part.views[rows]


def compare_rows(part: TaskScores, rows: tuple[int, int]) -> View:
    """Compute the view of two rows."""
    first, second = rows
    both = ~np.isnan(part.scores[first]) & ~np.isnan(part.scores[second])
    scores = part.scores[first, both] - part.scores[second, both]
    if not both.any():
        nothing = np.full((1, 1), np.inf)
        none = Variances(
            between=nothing, beyond=0 * np.ones((1, 1)), rest=np.zeros((1, 1)),
            seeds=np.zeros((1, 1), int), examples=np.full((1, 1), part.examples),
        )  # fmt: skip
        apart = np.nanmean(part.scores[first]) - np.nanmean(part.scores[second])
        return View(means=np.array([apart]), by_seed=(scores,), variances=(none,))
    values = part.values[:, first][:, both] - part.values[:, second][:, both]
    found = decisions.estimate_variances(values, scores)
    return View(means=np.array([scores.mean()]), by_seed=(scores,), variances=(found,))


def together(views: Sequence[View]) -> View:
    """The same pair on several tasks."""
    return View(
        means=np.concatenate([view.means for view in views]),
        by_seed=tuple(scores for view in views for scores in view.by_seed),
        variances=tuple(one for view in views for one in view.variances),
    )


def average_error(part: TaskScores, pairs: Sequence[tuple[int, int]]) -> float:
    """The standard error of a difference on a task, its square averaged over pairs."""
    chosen = [view_of(part, (part.chosen[a], part.chosen[b])) for a, b in pairs]
    return float(np.sqrt(np.mean([view.variances[0].total for view in chosen])))


def compare_pairs(family: Family) -> Frame:
    """Every pair: `find_p`, and the ends of its interval and of the one beside the best."""
    if family.rule.test in EXACT:
        return over_settings(exact_tests(family))
    table, variances = crossed_tests(family)
    difference, never = table["difference"].to_numpy(), table["floor"] == 1
    alpha = family.rule.alpha
    for name, level in (
        ("", alpha / (2 * len(family.pairs))), ("best_", alpha / (len(family.methods) - 1))
    ):  # fmt: skip
        half = np.where(never, np.inf, decisions.half_width(level, variances))
        table[f"{name}low"], table[f"{name}high"] = difference - half, difference + half
    return over_settings(table)


def find_p(family: Family) -> Frame:
    """Every pair: difference, p, floor (the least that p can be), and p_same if there is a margin.

    A claim has to hold in every setting, so p is the largest over settings, 1 where they disagree
    about the sign.
    """
    exact = family.rule.test in EXACT
    return over_settings(exact_tests(family) if exact else crossed_tests(family)[0])


def crossed_tests(family: Family) -> tuple[Frame, Variances]:
    """Every view by the test of `analysis.decisions`, and its variances."""
    flat = [(place, view) for place, views in enumerate(family.views) for view in views]
    weights, margin = family.weights, family.margin
    difference = np.array([view.means @ weights for _, view in flat])
    variances = decisions.stack_pairs(
        [decisions.mean_over_tasks(view.variances, weights) for _, view in flat]
    )
    can = np.array([view.seeds >= MIN_SEEDS for _, view in flat])
    table = pd.DataFrame({"pair": [place for place, _ in flat], "difference": difference})
    table["p"] = np.where(can, decisions.two_sided(difference, variances), 1.0)
    table["floor"] = np.where(can, 0.0, 1.0)
    if margin is not None:
        reached = decisions.same_within(margin, difference, variances)
        table["p_same"] = np.where(can, reached, 1.0)
    return table, variances


def exact_tests(family: Family) -> Frame:
    """Every view by an exact test over seeds, or over tasks and seeds."""
    generator, rows = np.random.default_rng(DRAWS), []
    scale = family.weights * len(family.weights)
    alpha = family.rule.alpha / len(family.pairs)
    for pair, views in enumerate(family.views):
        for view in views:
            differences = np.concatenate(
                [weight * scores for weight, scores in zip(scale, view.by_seed, strict=True)]
            )
            rows.append(
                {"pair": pair, **exact_test(family.rule.test, differences, alpha, generator)}
            )
    return pd.DataFrame(rows)


def exact_test(
    test: str, differences: np.ndarray, alpha: float, generator: np.random.Generator
) -> dict[str, float]:
    """One exact test by the names of the table's columns."""
    if not len(differences):
        return {"difference": 0.0, "p": 1.0, "floor": 1.0, "low": -np.inf, "high": np.inf}
    if test == "wilcoxon":
        found = wilcoxon(differences, alpha)
    else:
        found = sign_flip(differences, generator, alpha=alpha)
    return {key: getattr(found, key) for key in ("difference", "p", "floor", "low", "high")}


def over_settings(table: Frame) -> Frame:
    """One row for each pair, of one for each of its settings."""
    first = table.drop_duplicates("pair").set_index("pair")
    sign = np.sign(first["difference"]).reindex(table["pair"]).to_numpy()
    agree = np.sign(table["difference"].to_numpy()) == sign
    table = table.assign(p=np.where(agree, table["p"], 1.0))
    ends = {"low": "min", "best_low": "min"}
    rules = {
        column: ends.get(column, "first" if column == "difference" else "max")
        for column in table.columns
        if column != "pair"
    }
    return table.groupby("pair").agg(rules).reset_index(drop=True)


def pool(family: Family) -> tuple[Variances, np.ndarray]:
    """Variances [1, tasks] averaged over pairs, and the degrees of freedom of each `between`.

    Averaged are the pairs with the usual number of seeds, in their chosen settings. All k methods
    share what is estimated, so there are (k - 1) (S - 1) degrees.
    """
    usual = int(np.median([views[0].seeds for views in family.views]))
    views = [views[0] for views in family.views]
    views = [view for view in views if view.seeds == usual] or views
    found = decisions.stack_pairs(
        [decisions.mean_over_tasks(view.variances, family.weights) for view in views]
    )
    mean = Variances(**{k: v.mean(axis=0, keepdims=True) for k, v in vars(found).items()})
    return mean, (len(family.methods) - 1) * (mean.seeds[0] - 1)


def count(number: int, noun: str) -> str:
    """A number and its noun.

    >>> count(1, "study"), count(3, "study"), count(2, "loss"), count(2, "seed")
    ('1 study', '3 studies', '2 losses', '2 seeds')
    """
    if number != 1:
        ending = "es" if noun.endswith("ss") else "s"
        noun = f"{noun[:-1]}ies" if noun.endswith("dy") else f"{noun}{ending}"
    return f"{number} {noun}"
