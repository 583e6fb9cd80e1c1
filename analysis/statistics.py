"""Verdicts on a task, or on the mean over several: which methods differ, and which are the same.

A verdict is about groups of methods and never a ranking of points. `analysis.decisions` has the
theory; this module puts what it finds into tables.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

import numpy as np
import pandas as pd

from analysis import decisions
from analysis.decisions import MIN_SEEDS
from analysis.effects import cohen, superiority
from analysis.family import DRAWS, EXACT, Family, Rule, compare_pairs, count, find_p, pool
from analysis.letters import letters
from analysis.power import detectable_range
from analysis.scales import bounds
from analysis.task_scores import Frame, Run, TaskScores, read_scores

Claims = set[tuple[str, str]]  # pairs of a better method and a worse one


class Outcome(StrEnum):
    """The outcome for the first method of a pair, compared with the second."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same within margin"
    NOT_TOLD_APART = "not told apart"
    UNDECIDABLE = "undecidable"


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """The verdict on one family of comparisons.

    `pairs` has a row for each: a (the higher mean) and b, difference, its interval low and high
    (all intervals hold at once), p, p_adjusted, p_same and within (whether they are the same within
    the rule's margin, if there is one), d with d_low and d_high (from three seeds on), superiority
    with its own, seeds (that both have, of the task with the fewest), outcome, and note, which says
    why nothing is claimed if that is not plain. `methods` has a row for each method, by mean:
    mean, its letters and its chance to be the best if all pairs were compared, and loses, the
    most that choosing it can lose to the best one (for all methods at once). `detectable` is the
    range of the true difference that would have been found with the rule's power, as far as the
    noise is known; NaN if nothing varied. `margin` is the rule's, as a difference of scores;
    None claims of no pair that it is the same. `weights` are those of the tasks. `at_floor` is the
    second verdict, in which lost runs count as one answer to all; None if none was lost.
    """

    family: str
    rule: Rule
    pairs: Frame
    methods: Frame
    detectable: tuple[float, float]
    margin: float | None
    weights: np.ndarray
    at_floor: "Verdicts | None" = None


def verdicts(
    runs: Frame,
    predictions: Mapping[Run, Frame],
    rule: Rule | None = None,
) -> Verdicts:
    """The verdicts on one task, from a table of runs and what each of them predicted."""
    return judge(read_scores(runs, predictions), rule)


def judge(task: TaskScores, rule: Rule | None = None) -> Verdicts:
    """The verdicts on one task."""
    return on_tasks([task], f"{task.task} ({task.metric})", rule or Rule())


def across(parts: Sequence[TaskScores], rule: Rule | None = None) -> Verdicts:
    """The verdicts on the weighted mean over several tasks, with the same methods on each.

    The claim is about other seeds on these tasks, and other examples of them; the exact tests take
    every task and seed as one pair of runs. `analysis.family.Family.weights` says how tasks weigh.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.methods != first.methods:
            raise ValueError(
                f"{part.task} has other methods than {first.task}; keep what both have."
            )
    return on_tasks(parts, count(len(parts), "task"), rule or Rule())


def on_tasks(parts: Sequence[TaskScores], where: str, rule: Rule) -> Verdicts:
    """The verdicts on one task or on the mean over several."""
    family = Family(parts=parts, where=where, rule=rule)
    found = compare_pairs(family)
    second = with_losses_at_floor(family)
    if second is None:
        return judged(family, found)
    at_floor = compare_pairs(second)
    return judged(family, guarded(family, found, at_floor), at_floor=judged(second, at_floor))


def with_losses_at_floor(family: Family) -> Family | None:
    """The family with its lost runs scored as one answer to all; None if none was lost."""
    if not any(part.lost.any() for part in family.parts):
        return None
    return replace(family, parts=[part.with_losses_at_floor() for part in family.parts])


def losing_methods(part: TaskScores) -> np.ndarray:
    """Return which methods [k] lost runs, in any of their settings."""
    return np.array([part.lost[list(rows)].any() for rows in part.settings])


def guarded(family: Family, found: Frame, at_floor: Frame) -> Frame:
    """The pairs with p-values by which a method that lost runs wins both ways or not at all."""
    lost: np.ndarray = np.any([losing_methods(part) for part in family.parts], axis=0)
    sign = np.sign(found["difference"].to_numpy())
    first, second = np.array(family.pairs).T
    favoured = np.where(sign > 0, lost[first], lost[second])
    agree = np.sign(at_floor["difference"].to_numpy()) == sign
    other = np.where(agree, at_floor["p"], 1.0)
    both = found.assign(p=np.where(favoured, np.maximum(found["p"], other), found["p"]))
    if "p_same" in found:
        either = lost[first] | lost[second]
        larger = np.maximum(found["p_same"], at_floor["p_same"])
        both["p_same"] = np.where(either, larger, found["p_same"])
    return both.assign(held_back=favoured & (both["p"] > found["p"]))


def judged(family: Family, found: Frame, at_floor: Verdicts | None = None) -> Verdicts:
    """Return the verdicts on all pairs, adjusted for the whole family."""
    rule = family.rule
    table = found.assign(
        seeds=[views[0].seeds for views in family.views],
        p_adjusted=family.adjust(found["p"].to_numpy()),
    )
    can, apart = tell_apart(family, found)
    if family.margin is not None and rule.test not in EXACT:
        table["within"] = decisions.holm(found["p_same"].to_numpy()) <= rule.alpha
    else:
        table = table.assign(p_same=np.nan, within=False)
    table = clipped(table, apart)
    table["outcome"] = [
        outcome(*row) for row in zip(can, apart, table["difference"], table["within"], strict=True)
    ]
    table["note"] = [note(row, family) for row in table.to_dict("records")]
    return Verdicts(
        family=str(family),
        rule=rule,
        pairs=in_order(table, family),
        methods=methods_table(family, table, apart),
        detectable=detectable(family),
        margin=family.margin,
        weights=family.weights,
        at_floor=at_floor,
    )


def tell_apart(family: Family, found: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Return which pairs can be decided, and which of them are different."""
    can = family.adjust(found["floor"].to_numpy()) <= family.rule.alpha
    return can, can & (family.adjust(found["p"].to_numpy()) <= family.rule.alpha)


def detectable(family: Family) -> tuple[float, float]:
    """The range of the true difference between two methods that the family would have found.

    It is not known (NaN) for the exact tests, which find less than Student's t.
    """
    if family.rule.test in EXACT:
        return np.nan, np.nan
    ends = np.array([bounds(part.metric) for part in family.parts])
    limit = float(family.weights @ (ends[:, 1] - ends[:, 0]))
    alpha = family.rule.alpha / len(family.pairs)
    return detectable_range(*pool(family), alpha, family.rule.power, limit)


def clipped(table: Frame, apart: np.ndarray) -> Frame:
    """Intervals that end at 0 if the pair is told apart by a sharper procedure than theirs."""
    positive = table["difference"] > 0
    return table.assign(
        low=np.where(apart & positive, table["low"].clip(lower=0), table["low"]),
        high=np.where(apart & ~positive, table["high"].clip(upper=0), table["high"]),
    )


def outcome(decidable: bool, apart: bool, difference: float, within: bool) -> Outcome:
    """The outcome of a pair."""
    if not decidable:
        return Outcome.UNDECIDABLE
    if apart:
        return Outcome.BETTER if difference > 0 else Outcome.WORSE
    return Outcome.SAME if within else Outcome.NOT_TOLD_APART


def note(row: Mapping, family: Family) -> str:
    """Why nothing is claimed of a pair."""
    if row["outcome"] == Outcome.UNDECIDABLE:
        pairs = count(row["seeds"], "common seed")
        if family.rule.test in EXACT:
            return f"{pairs}: the exact test cannot reach {family.rule.alpha} with so few"
        return f"{pairs}, and a verdict takes {MIN_SEEDS}"
    if row.get("held_back") and row["outcome"] not in (Outcome.BETTER, Outcome.WORSE):
        return "not claimed: it would rest on leaving out lost runs"
    return ""


def in_order(table: Frame, family: Family) -> Frame:
    """The pairs by the methods' means, the higher one of each first."""
    place = {method: rank for rank, method in enumerate(family.order)}
    rows = []
    for row, pair, views in zip(table.to_dict("records"), family.pairs, family.views, strict=True):
        swapped = place[pair[0]] > place[pair[1]]
        a, b = pair[::-1] if swapped else pair
        sign = -1 if swapped else 1
        rows.append(
            {
                "a": family.methods[a],
                "b": family.methods[b],
                "rank": (place[a], place[b]),
                **{key: row[key] for key in ("p", "p_adjusted", "p_same", "within", "seeds")},
                **(turned(row) if swapped else {k: row[k] for k in TURNED}),
                **effect_sizes(sign * np.concatenate(views[0].by_seed), family.rule.alpha),
                "note": row["note"],
            }
        )
    ordered = pd.DataFrame(rows).sort_values("rank", ignore_index=True)
    return ordered.drop(columns="rank")[list(COLUMNS)]


TURNED = ("difference", "low", "high", "outcome")
OTHER_WAY = {Outcome.BETTER: Outcome.WORSE, Outcome.WORSE: Outcome.BETTER}


def turned(row: Mapping) -> dict:
    """A pair as seen by its second method."""
    return {
        "difference": -row["difference"],
        "low": -row["high"],
        "high": -row["low"],
        "outcome": OTHER_WAY.get(row["outcome"], row["outcome"]),
    }


def methods_table(family: Family, table: Frame, apart: np.ndarray) -> Frame:
    """Every method by mean; letters and comparisons with the best if all pairs were compared."""
    k = len(family.methods)
    found = pd.DataFrame({"method": family.methods, "mean": family.means})
    if family.rule.against is None:
        different = symmetric(k, family.pairs, apart, apart).astype(bool)
        found["letters"] = letters(family.means, different)
        found = found.assign(**beside_the_best(family, table))
    return found.iloc[family.order].reset_index(drop=True)


def beside_the_best(family: Family, table: Frame) -> dict[str, np.ndarray]:
    """Each method's chance [k] to be the best, and the most that choosing it loses.

    NaN for a method with too few seeds, of which nothing is known, and for the exact tests.
    """
    k = len(family.methods)
    chance, loses = np.full(k, np.nan), np.full(k, np.nan)
    seeds = [(~np.isnan(part.scores[part.chosen])).sum(axis=1) for part in family.parts]
    known = np.flatnonzero(np.min(seeds, axis=0) >= MIN_SEEDS)
    common = symmetric(k, family.pairs, table["seeds"], table["seeds"])[np.ix_(known, known)]
    few = (common + MIN_SEEDS * np.eye(len(known)) < MIN_SEEDS).any()
    if family.rule.test not in EXACT and len(known) > 1 and not few:
        low = symmetric(k, family.pairs, table["best_low"], -table["best_high"])
        high = symmetric(k, family.pairs, table["best_high"], -table["best_low"])
        below, _ = decisions.with_the_best(low[np.ix_(known, known)], high[np.ix_(known, known)])
        chance[known], loses[known] = chance_best(family, known), 0.0 - below
    return {"chance_best": chance, "loses": loses}


def symmetric(
    k: int, pairs: Sequence[tuple[int, int]], forward: np.ndarray, backward: np.ndarray
) -> np.ndarray:
    """A table [k, k] of row beside column, from values of pairs and of pairs turned around."""
    found = np.zeros((k, k))
    first, second = np.array(pairs).T
    found[first, second], found[second, first] = forward, backward
    return found


def chance_best(family: Family, methods: np.ndarray) -> np.ndarray:
    """The chance that the true mean of each of these methods, as tuned, is the highest of them."""
    generator, drawn = np.random.default_rng(DRAWS), np.zeros((1, len(methods)))
    for weight, part in zip(family.weights, family.parts, strict=True):
        rows = np.array(part.chosen)[methods]
        drawn = drawn + weight * decisions.draw_means(
            part.scores[rows], part.values[:, rows], generator
        )
    return np.bincount(np.argmax(drawn, axis=1), minlength=len(methods)) / len(drawn)


def effect_sizes(differences: np.ndarray, alpha: float) -> dict[str, float]:
    """Both sizes of an effect and their intervals, by the names of the table's columns."""
    d = asdict(cohen(differences, alpha)) if len(differences) > 2 else {}
    wins = asdict(superiority(differences, alpha)) if len(differences) else {}
    return {
        **{name: d.get(key, np.nan) for name, key in named("d").items()},
        **{name: wins.get(key, np.nan) for name, key in named("superiority").items()},
    }


def named(size: str) -> dict[str, str]:
    """Columns of an effect's size and its interval."""
    return {size: "value", f"{size}_low": "low", f"{size}_high": "high"}


COLUMNS = (
    "a", "b", "difference", "low", "high", "p", "p_adjusted", "p_same", "within", "d", "d_low",
    "d_high", "superiority", "superiority_low", "superiority_high", "seeds", "outcome", "note",
)  # fmt: skip


def find_claims(found: Verdicts) -> Claims:
    """The pairs of a better method and a worse one."""
    pairs: Frame = found.pairs
    rows = pairs[["a", "b", "outcome"]].to_numpy().tolist()
    better = {(a, b) for a, b, outcome in rows if outcome == Outcome.BETTER}
    return better | {(b, a) for a, b, outcome in rows if outcome == Outcome.WORSE}


def claims_without(parts: Sequence[TaskScores], rule: Rule) -> dict[str, Claims]:
    """The claims over tasks with each task left out in turn, by the task; none of two tasks."""
    if len(parts) < 3:
        return {}
    rest = {part.task: [other for other in parts if other is not part] for part in parts}
    return {task: claims_over(others, rule) for task, others in rest.items()}


def claims_over(parts: Sequence[TaskScores], rule: Rule) -> Claims:
    """The claims of `across`, without intervals and all else that takes time."""
    family = Family(parts=parts, where="", rule=rule)
    found, second = find_p(family), with_losses_at_floor(family)
    if second is not None:
        found = guarded(family, found, find_p(second))
    _, apart = tell_apart(family, found)
    pairs = np.array(family.pairs)[apart]
    signs = np.sign(found["difference"].to_numpy())[apart]
    ordered = np.where(signs[:, None] > 0, pairs, pairs[:, ::-1])
    return {(family.methods[a], family.methods[b]) for a, b in ordered.tolist()}
