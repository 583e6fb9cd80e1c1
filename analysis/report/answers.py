"""Answer "which should I use" in one sentence, for each task and over several."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from analysis import cost
from analysis.report import words
from analysis.report.comparisons import Comparison, undecided
from analysis.report.material import Frame
from analysis.report.overall import Overall
from analysis.statistics import Outcome, Verdicts

CHEAPER = 2.0  # times fewer trained parameters that make a method a cheaper one
# Ours: of the best method's gain over the baseline, the share that a cheaper one surely keeps.
KEPT = 0.5
Seconds = Mapping[str, float]  # of training, by method, on one machine


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One sentence on one question; `method` is what it recommends, if anything."""

    title: str
    text: str
    method: str | None


@dataclass(frozen=True, kw_only=True)
class Case:
    """All that an answer rests on; the parts of a comparison that one task and several share."""

    found: Verdicts | None
    methods: Frame
    not_above_floor: list[str]
    floor: float | None
    metric: str
    seconds: Seconds


def answers(
    found: list[Comparison], overall: list[Overall], costs: Mapping[str, Frame]
) -> list[Answer]:
    """The answers, those over several tasks first; `costs` has a table for each group."""
    several = [
        make_answer(
            f"Over {len(whole.tasks)} tasks{beside(whole, overall)}", case_of_all(whole, costs)
        )
        for whole in overall
    ]
    groups = sorted(found, key=lambda one: one.verdicts is None)
    return [*several, *(make_answer(title(one, found), case_of(one, costs)) for one in groups)]


def title(one: Comparison, found: list[Comparison]) -> str:
    """The task, and the rest of the group's name if another comparison has the same task."""
    twice = sum(other.task == one.task for other in found) > 1
    return one.group if twice else one.task


def beside(whole: Overall, overall: list[Overall]) -> str:
    """Name model and protocol if there are several."""
    return f" · {whole.model} · {whole.protocol}" if len(overall) > 1 else ""


def case_of(one: Comparison, costs: Mapping[str, Frame]) -> Case:
    """One task."""
    return Case(
        found=one.verdicts,
        methods=one.methods,
        not_above_floor=one.not_above_floor,
        floor=one.floor,
        metric=one.metric,
        seconds=training_seconds([costs[one.group]]),
    )


def case_of_all(whole: Overall, costs: Mapping[str, Frame]) -> Case:
    """Several tasks."""
    return Case(
        found=whole.verdicts,
        methods=whole.methods,
        not_above_floor=whole.not_above_floor,
        floor=whole.floor,
        metric="",
        seconds=training_seconds([costs[group] for group in whole.groups]),
    )


def training_seconds(tables: Iterable[Frame]) -> dict[str, float]:
    """Seconds of training by method, summed over tasks, on the machine that ran most of them.

    Those of the processor if all runs have them, as other programs do not lengthen them. A method
    that lacks a task on its machine is left out.
    """
    totals: dict[str, float] = {}
    for number, table in enumerate(tables):
        each = on_main_stack(table)
        column = "train_processor_seconds"
        if each[column].isna().any():
            column = "train_seconds"
        own = dict(zip(each["variant"], each[column].astype(float), strict=True))
        known = (
            own
            if not number
            else {name: totals[name] + own[name] for name in totals if name in own}
        )
        totals = known
    return {name: value for name, value in totals.items() if math.isfinite(value)}


def on_main_stack(table: Frame) -> Frame:
    """The rows of the machine and stack with the most methods, then the most runs."""
    parts = [part for _, part in table.groupby(cost.STACK, sort=False, dropna=False)]
    return max(parts, key=lambda part: (len(part), part["seeds"].sum()))


def make_answer(title: str, case: Case) -> Answer:
    """The answer to one question."""
    text, method = recommend(case)
    return Answer(title=title, text=text, method=method)


def recommend(case: Case) -> tuple[str, str | None]:
    """A sentence, and the method that it recommends."""
    found, methods = case.found, case.methods
    if found is None:
        return words.say_nothing_compared(methods), None
    if undecided(found.pairs).all():
        return words.why_undecided(found), None
    learned = methods[~methods["method"].isin(case.not_above_floor)].set_index("method")
    if learned.empty:
        least = "" if case.floor is None else f" ({words.score(case.floor, case.metric)})"
        return f"None: no evidence that any method beats the majority baseline{least}.", None
    if found.rule.against is not None:
        return beside_one(case, found, learned)
    top = learned["mean"].idxmax()
    rivals = cheaper_rivals(top, found, learned)
    sure = rivals[~(rivals["loses"] > most_to_lose(top, learned, case.floor))]
    name = choose_rival(sure, found)
    if name is None:
        return best_alone(top, case, learned, unsure=len(rivals) > 0), top
    said = f"{relation(name, top, case)}{at_cost(name, top, case)}{may_lose(name, case)}"
    return f"{name}: {said}.", name


def cheaper_rivals(top: str, found: Verdicts, learned: Frame) -> Frame:
    """The methods that train clearly fewer parameters than `top` and are not shown to be worse."""
    fit = learned.loc[[name for name in words.best(found) if name in learned.index]]
    return fit[fit["trained"] * CHEAPER <= learned.loc[top, "trained"]]


def most_to_lose(top: str, learned: Frame, floor: float | None) -> float:
    """The loss at which a method keeps just enough of what `top` gains over the baseline."""
    return math.inf if floor is None else (1 - KEPT) * (learned.loc[top, "mean"] - floor)


def choose_rival(fit: Frame, found: Verdicts) -> str | None:
    """Of methods that are sure to lose no more than the margin, the cheapest.

    Else the one that is sure to lose least. The highest mean of many is partly luck, so it decides
    only where nothing is sure.
    """
    if fit.empty:
        return None
    near = fit[fit["loses"] <= (found.margin or 0.0)]
    if len(near):
        return near["trained"].idxmin()
    return fit["mean"].idxmax() if fit["loses"].isna().all() else fit["loses"].idxmin()


def best_alone(top: str, case: Case, learned: Frame, unsure: bool) -> str:
    """The sentence on a best method that no cheaper one keeps up with, or none is sure to."""
    assert case.found is not None
    beaten = [row for row in words.records(case.found) if words.winning(row) == top]
    if len(beaten) == len(case.methods) - 1:
        others = "all others" if len(beaten) > 1 else words.losing(beaten[0])
        return f"{top}: significantly better than {others}."
    chance = case.methods.set_index("method").loc[top, "chance_best"]
    likely = "" if math.isnan(chance) else f", the best with a probability of {words.share(chance)}"
    if (learned["trained"] >= learned.loc[top, "trained"]).all():
        return f"{top}: the highest mean{likely}; no other method trains fewer parameters."
    if unsure:
        return (
            f"{top}: the highest mean{likely}{may_lose(top, case)}. Methods with far fewer "
            "parameters are worse or may lose more than half of what "
            f"{top} gains over the majority baseline."
        )
    return f"{top}: the highest mean{likely}; no method with far fewer parameters keeps up."


def beside_one(case: Case, found: Verdicts, learned: Frame) -> tuple[str, str | None]:
    """The sentence if all methods are compared with one."""
    whom = found.rule.against
    assert whom is not None
    better = [words.winning(row) for row in words.records(found) if words.losing(row) == whom]
    better = [name for name in better if name in learned.index]
    if better:
        name = learned.loc[better, "mean"].idxmax()
        return f"{name}: significantly better than {whom}{at_cost(name, whom, case)}.", name
    if whom not in learned.index:
        return f"None: no method is significantly better than {whom}.", None
    worse = {words.losing(row) for row in words.records(found)}
    fit = learned[~learned.index.isin({*worse, whom})]
    fit = fit[fit["trained"] * CHEAPER <= learned.loc[whom, "trained"]]
    if fit.empty:
        return f"{whom}: no other method is significantly better.", whom
    name = fit["mean"].idxmax()
    return f"{name}: {relation(name, whom, case)}{at_cost(name, whom, case)}.", name


def relation(name: str, other: str, case: Case) -> str:
    """How a method compares with another that is not significantly different."""
    assert case.found is not None
    pairs: Frame = case.found.pairs
    row = pairs[pairs["a"].isin([name, other]) & pairs["b"].isin([name, other])].iloc[0]
    if row["within"] and row["outcome"] not in (Outcome.BETTER, Outcome.WORSE):
        return f"the same as {other} within {words.points(case.found.margin or 0.0, case.metric)}"
    return f"no significant difference from {other}"


def at_cost(name: str, other: str, case: Case) -> str:
    """A method's parameters and time beside those of another."""
    sizes = case.methods.set_index("method")["trained"]
    parts = [in_proportion(sizes[name], sizes[other], "the parameters")]
    if name in case.seconds and other in case.seconds:
        parts.append(in_proportion(case.seconds[name], case.seconds[other], "the time"))
    known = [part for part in parts if part]
    return f" at {words.joined(known)}" if known else ""


def in_proportion(value: float, whole: float, noun: str) -> str:
    """`1/306 of the parameters`, `65 % of the time`, `2.1 times the time`."""
    if not value or not whole or math.isnan(value) or math.isnan(whole):
        return ""
    ratio = value / whole
    if ratio <= 1 / 3:
        return f"1/{1 / ratio:,.0f} of {noun}"
    if abs(ratio - 1) < 0.05:
        return f"the same {noun.removeprefix('the ')}"
    if ratio < 1.5:
        return f"{words.share(ratio)} of {noun}"
    return f"{ratio:,.1f} times {noun}"


def may_lose(name: str, case: Case) -> str:
    """The most that choosing the method can lose, if that is known."""
    loses = case.methods.set_index("method").loc[name, "loses"]
    if math.isnan(loses) or not loses:
        return ""
    return f"; it may lose up to {words.points(loses, case.metric)} to the best"
