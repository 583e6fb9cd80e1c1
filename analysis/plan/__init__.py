"""Plan a study from a pilot: `python -m analysis.plan RUNS`.

Says which true difference more seeds would find, whether seeds or examples are short, and what it
would take on this machine. With `--looks 4,8,16` it also says if a study may stop at this look:
early looks spend a small part of alpha (O'Brien and Fleming's function by Lan and DeMets, 1983,
Biometrika 70, 659), and the parts of all looks sum to alpha, so looking costs nothing in error.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from analysis.decisions import Variances
from analysis.family import Family, Rule, count, parse_margins, pool
from analysis.power import detectable_range, difference_found
from analysis.report import words
from analysis.report.comparisons import Comparison, comparisons
from analysis.report.material import gather
from analysis.scales import bounds
from analysis.statistics import Outcome, Verdicts, judge

SEEDS = (8, 16, 32)
ENDLESS = 100_000  # seeds


def with_seeds(pilot: Variances, seeds: int) -> Variances:
    """The variances [1, tasks] of the same comparison with another number of seeds."""
    ratio = pilot.seeds / seeds
    return replace(
        pilot,
        between=pilot.between * ratio,
        rest=pilot.rest * ratio,
        seeds=np.full_like(pilot.seeds, seeds),
    )


def spent(share: float, alpha: float) -> float:
    """The part of alpha that may be spent when this share of the seeds is there.

    >>> round(spent(0.5, 0.05), 4), round(spent(1.0, 0.05), 4)
    (0.0056, 0.05)
    """
    return float(2 * stats.norm.sf(stats.norm.isf(alpha / 2) / np.sqrt(share)))


def level_at(looks: Sequence[int], seeds: int, alpha: float = 0.05) -> float:
    """The level of the look at this number of seeds: what it spends beyond the looks before it.

    Raises ValueError if no look was planned at that number.
    """
    if seeds not in looks:
        raise ValueError(
            f"There are {seeds} seeds, and looks were planned at {', '.join(map(str, looks))}; a "
            "look that was not planned spends what is not there."
        )
    place = list(looks).index(seeds)
    before = spent(looks[place - 1] / looks[-1], alpha) if place else 0.0
    return spent(seeds / looks[-1], alpha) - before


def describe_look(one: Comparison, looks: Sequence[int], rule: Rule) -> str:
    """Return whether a study may stop now, in words."""
    seeds = int(one.methods["seeds"].min())
    level = level_at(looks, seeds, rule.alpha)
    found = judge(one.scores, replace(rule, alpha=level))
    open_pairs = undecided_pairs(found)
    done = len(found.pairs) - len(open_pairs)
    where = f"Look at {seeds} of {looks[-1]} seeds, level {level:.4f} (--alpha {level:.4g}): "
    where += f"{done} of {count(len(found.pairs), 'pair')} decided"
    if not open_pairs:
        return f"{where}. The study may stop."
    listed = f": {words.joined(open_pairs)}" if len(open_pairs) <= words.LISTED else ""
    if seeds == looks[-1]:
        return f"{where}, {len(open_pairs)} open{listed}. That was the last look."
    more = next(number for number in looks if number > seeds)
    return f"{where}, {len(open_pairs)} open{listed}. Go on: study.seeds={more}."


def undecided_pairs(found: Verdicts) -> list[str]:
    """The pairs that are neither told apart nor the same within the margin."""
    open_ = found.pairs[found.pairs["outcome"].isin([Outcome.NOT_TOLD_APART, Outcome.UNDECIDABLE])]
    return [f"{a} and {b}" for a, b in open_[["a", "b"]].to_numpy()]


def plan_rows(one: Comparison, rule: Rule, seeds: Sequence[int]) -> Iterator[list[str]]:
    """A row for each number of seeds: detectable difference, hours; the pilot's first."""
    family = Family(parts=[one.scores], where=one.task, rule=rule)
    pilot, degrees = pool(family)
    least, most = bounds(one.metric)
    alpha, own = rule.alpha / len(family.pairs), int(pilot.seeds[0, 0])
    for number in sorted({own, *seeds}):
        ends = detectable_range(with_seeds(pilot, number), degrees, alpha, rule.power, most - least)
        yield [
            f"{number}{' (here)' if number == own else ''}",
            between(*ends, one.metric),
            f"{hours(one) * number:.1f}",
        ]
    if pilot.beyond.any():
        end = difference_found(with_seeds(pilot, ENDLESS), alpha, rule.power)
        yield ["endless", words.points(end, one.metric), words.NONE]


def between(low: float, high: float, metric: str) -> str:
    """A range of differences."""
    if np.isnan(low):
        return "not known: nothing varied"
    if np.isinf(low):
        return "none that is possible"
    if np.isinf(high):
        return f"{words.points(low, metric)} or more"
    return words.points_between(low, high, metric)


def hours(one: Comparison) -> float:
    """Processor hours of one seed of all methods; of the wall if no others are kept."""
    busy = one.runs["train_processor_seconds"].fillna(one.runs["train_seconds"])
    return float(busy.groupby(one.runs["method"]).mean().sum()) / 3600


def shortage(one: Comparison, rule: Rule) -> str:
    """Return whether seeds or examples are short."""
    pilot, _ = pool(Family(parts=[one.scores], where=one.task, rule=rule))
    seeds, examples = float(pilot.between[0, 0]), float(pilot.beyond[0, 0])
    share = words.share(seeds / (seeds + examples)) if seeds + examples else "none"
    if seeds > examples:
        return f"Seeds are short: they make up {share} of the variance of a difference."
    return (
        f"Examples are short: seeds make up {share} of the variance of a difference, so that more "
        "seeds help little. A larger test split would."
    )


def show(one: Comparison, rule: Rule, given: argparse.Namespace, rich: Console) -> None:
    """Print the plan of one comparison."""
    rich.print(f"\n{one.group}: {words.ground(one)}", highlight=False, markup=False)
    if one.verdicts is None or int(one.methods["seeds"].min()) < 2:
        rich.print("Two methods with two seeds each are needed to plan from.")
        return
    table = Table("seeds", f"found with {words.share(rule.power)} power", "processor hours")
    for row in plan_rows(one, rule, given.seeds):
        table.add_row(*row)
    rich.print(table)
    rich.print(shortage(one, rule), highlight=False)
    if given.looks:
        rich.print(
            describe_look(one, given.looks, rule), highlight=False, markup=False, soft_wrap=True
        )


def numbers(text: str) -> list[int]:
    """Numbers of seeds, as 4,8,16."""
    found = sorted({int(part) for part in text.split(",")})
    if found[0] < 3:
        raise argparse.ArgumentTypeError(f"a verdict takes three seeds, got {found[0]}")
    return found


def parser() -> argparse.ArgumentParser:
    """The command line."""
    described = argparse.ArgumentParser(
        prog="python -m analysis.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    described.add_argument("runs", help="folder of finished runs: the pilot, or the study so far")
    described.add_argument(
        "--seeds",
        type=numbers,
        default=SEEDS,
        help="numbers of seeds to plan for, as 8,16,32 (default)",
    )
    described.add_argument(
        "--looks", type=numbers, help="numbers of seeds at which you look at the results, as 4,8,16"
    )
    described.add_argument(
        "--alpha",
        type=float,
        default=0.05,
        help="chance of any false claim among the pairs of a task (0.05)",
    )
    described.add_argument(
        "--power",
        type=float,
        default=0.8,
        help="chance with which a difference is to be found (0.8)",
    )
    described.add_argument(
        "--margin",
        nargs="+",
        metavar="M",
        default=["1.0"],
        help="difference below which methods are the same, as for analysis.report",
    )
    return described


def main() -> None:
    """Print a plan for every comparison below a folder."""
    given = parser().parse_args()
    try:
        rule = Rule(alpha=given.alpha, power=given.power, margin=parse_margins(given.margin))
        for one in comparisons(gather(given.runs), rule):
            show(one, rule, given, Console())
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
