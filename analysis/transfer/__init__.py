"""Ask if the order of methods in one study predicts that in another.

    python -m analysis.transfer FIRST SECOND [--without METHOD ...]

FIRST and SECOND are folders of finished runs. Every comparison on a task in FIRST is held against
every one in SECOND, over the methods that both have. It says how well the order of their means
agrees (Spearman's rank correlation, with an interval for other methods), how well it could agree if
the true orders were the same (few seeds and examples blur both), and what one loses who takes the
best method of FIRST in SECOND. Methods far above or below all others make any two orders agree;
leave them out to ask about the rest.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from scipy import stats

from analysis.family import Family, Rule, count, pool
from analysis.report import words
from analysis.report.comparisons import Comparison, comparisons
from analysis.report.material import Frame, gather
from analysis.task_scores import TaskScores
from experiments.stored.shown import fail, near

FEWEST = 5  # methods; with fewer an interval says nothing


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """How the order of methods in a first comparison predicts that in a second.

    `methods` has a row for each that both have: method, first and second (mean scores), rank_first
    and rank_second (1 is the best). `reliability` is for each study the share of the variance of
    its means that is of the methods, not of seeds and examples; `ceiling`, the root of their
    product, is about the correlation that two studies show whose true orders are the same. It is
    NaN if one of them shows no difference of methods beyond noise.
    """

    methods: Frame
    correlation: float  # of ranks, Spearman's
    low: float  # its 95 % interval
    high: float
    p: float  # two-sided, of no association (Kendall's test)
    agreeing: float  # share of the pairs with the same order in both; a tie counts half
    reliability: tuple[float, float]
    ceiling: float
    lost: float  # in the second: its best mean less that of the first's best method
    lost_by_chance: float  # the same of a method drawn at random


def compare_orders(
    first: TaskScores, second: TaskScores, alpha: float = 0.05, without: Sequence[str] = ()
) -> Transfer:
    """Compare the order of the methods that both comparisons have, but those `without`.

    The interval is Bonett and Wright's (2000, Psychometrika 65, 23); it is about other methods of
    this kind. Raises ValueError if both have fewer than `FEWEST` methods in common.
    """
    both = [name for name in first.methods if name in second.methods]
    shared = [name for name in both if name not in without]
    if len(shared) < FEWEST:
        named = f" ({words.joined(shared)})" if shared else ""
        raise ValueError(
            f"{first.task} and {second.task} have {count(len(shared), 'method')} in common"
            f"{named}; a rank correlation takes {FEWEST}."
        )
    parts = [part.take([part.methods.index(name) for name in shared]) for part in (first, second)]
    means = [np.nanmean(part.scores[part.chosen], axis=1) for part in parts]
    ranks = [stats.rankdata(-mean) for mean in means]
    spearman, kendall = cast(Any, stats.spearmanr(*means)), cast(Any, stats.kendalltau(*means))
    correlation = float(spearman.statistic)
    low, high = rank_interval(correlation, len(shared), alpha)
    each = (reliability(parts[0]), reliability(parts[1]))
    table = pd.DataFrame(
        {
            "method": shared, "first": means[0], "second": means[1],
            "rank_first": ranks[0], "rank_second": ranks[1],
        }
    )  # fmt: skip
    best = means[1].max()
    return Transfer(
        methods=table.sort_values("rank_first", kind="stable", ignore_index=True),
        correlation=correlation,
        low=low,
        high=high,
        p=float(kendall.pvalue),
        agreeing=agreement(*means),
        reliability=each,
        ceiling=math.sqrt(each[0] * each[1]) if min(each) > 0 else math.nan,
        lost=float(best - means[1][np.isclose(means[0], means[0].max())].mean()),
        lost_by_chance=float(best - means[1].mean()),
    )


def rank_interval(correlation: float, methods: int, alpha: float = 0.05) -> tuple[float, float]:
    """The interval of Spearman's rank correlation.

    >>> [round(end, 2) for end in rank_interval(0.6, 12)]
    [-0.0, 0.88]
    """
    if abs(correlation) == 1:
        return correlation, correlation
    error = math.sqrt((1 + correlation**2 / 2) / (methods - 3))
    reach = float(stats.norm.isf(alpha / 2)) * error
    return math.tanh(math.atanh(correlation) - reach), math.tanh(math.atanh(correlation) + reach)


def agreement(first: np.ndarray, second: np.ndarray) -> float:
    """The share of pairs that have the same order in both; a tie counts half.

    >>> agreement(np.array([3.0, 2.0, 1.0]), np.array([3.0, 1.0, 2.0]))
    0.6666666666666666
    """
    a, b = np.triu_indices(len(first), 1)
    same = np.sign(first[a] - first[b]) * np.sign(second[a] - second[b])
    return float(np.mean((same + 1) / 2))


def reliability(scores: TaskScores) -> float:
    """The share of the variance of the methods' means that seeds and examples do not explain.

    The squared difference of two means is on average twice the variance of the methods and the
    variance of the difference, which the seeds and examples of the study tell.
    """
    family = Family(parts=[scores], where=scores.task, rule=Rule())
    noise, _ = pool(family)
    blurred = float((np.maximum(noise.between, noise.rest) + noise.beyond)[0, 0])
    a, b = np.array(family.pairs).T
    seen = float(np.mean(np.square(family.means[a] - family.means[b])))
    return max(0.0, 1 - blurred / seen) if seen else 0.0


def describe(one: Transfer, names: tuple[str, str], metric: str) -> str:
    """Say in words how well the first comparison predicts the second."""
    number = len(one.methods)
    text = (
        f"{names[0]} and {names[1]}, {number} methods: rank correlation {one.correlation:.2f} "
        f"[{one.low:.2f}, {one.high:.2f}], p = {one.p:.2g}. Of two methods the better one of the "
        f"first is the better one of the second in {words.share(one.agreeing)} of the pairs. "
    )
    if math.isnan(one.ceiling):
        place = one.reliability.index(min(one.reliability))
        text += (
            f"In {names[place]} the methods differ by no more than seeds and examples explain, so "
            "it is not known how well equal orders would agree. "
        )
    else:
        text += (
            f"Equal true orders would show about {one.ceiling:.2f}, as seeds and examples blur "
            f"both (reliability {one.reliability[0]:.2f} and {one.reliability[1]:.2f}). "
        )
    lost, chance = (words.points(value, metric) for value in (one.lost, one.lost_by_chance))
    return (
        f"{text}The first's best method is {lost} behind the best of the second, and a method at "
        f"random {chance}."
    )


def table_of(one: Transfer, names: tuple[str, str], metrics: tuple[str, str]) -> Table:
    """The methods with their means and ranks, in the first's order."""
    table = Table("method", names[0], "rank", names[1], "rank")
    for row in one.methods.to_dict("records"):
        table.add_row(
            row["method"],
            words.score(row["first"], metrics[0]),
            f"{row['rank_first']:g}",
            words.score(row["second"], metrics[1]),
            f"{row['rank_second']:g}",
        )
    return table


def show(
    first: dict[str, Comparison], second: dict[str, Comparison], without: list[str], rich: Console
) -> None:
    """Print every pair of comparisons; raise ValueError if none has methods enough.

    Also for a name of `without` that no method has.
    """
    known = {name for one in (*first.values(), *second.values()) for name in one.scores.methods}
    for name in without:
        if name not in known:
            raise ValueError(
                f"--without: there is no method '{name}'.{near(name, sorted(known))} "
                f"There are: {', '.join(sorted(known))}."
            )
    shown, refused = 0, []
    for (name, one), (other_name, other) in product(first.items(), second.items()):
        try:
            found = compare_orders(one.scores, other.scores, without=without)
        except ValueError as error:
            refused.append(str(error))
            continue
        names = (name, other_name)
        rich.print(table_of(found, names, (one.metric, other.metric)))
        text = describe(found, names, other.metric)
        rich.print(text, highlight=False, markup=False, soft_wrap=True)
        shown += 1
    if not shown:
        raise ValueError(refused[0])
    for reason in refused:
        print(f"left out: {reason}", file=sys.stderr)


def read(folder: str) -> dict[str, Comparison]:
    """The comparisons below a folder, by the folder's name and theirs."""
    found = comparisons(gather(folder), Rule())
    return {f"{Path(folder).absolute().name}: {one.group}": one for one in found}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m analysis.transfer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("first", help="folder of finished runs, of the study that came first")
    parser.add_argument("second", help="folder of finished runs that it is to predict")
    parser.add_argument(
        "--without", nargs="+", default=[], metavar="METHOD", help="methods to leave out"
    )
    given = parser.parse_args()
    try:
        show(read(given.first), read(given.second), given.without, Console())
    except (ValueError, OSError) as error:
        fail(error)
