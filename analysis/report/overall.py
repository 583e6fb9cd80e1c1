"""Comparisons over several tasks, on the methods and seeds that the tasks share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.aggregate import Statistic, improvement, iqm, profile, stratified
from analysis.crossed import crossed, together
from analysis.family import Rule, count
from analysis.outcomes import Outcomes
from analysis.report.comparisons import DRAWS, Comparison, bounds, letters, scored
from analysis.report.material import Frame
from analysis.statistics import Verdicts, across

THRESHOLDS = 101  # of a performance profile, which starts just below the lowest score
MARGIN = 1e-6


@dataclass(frozen=True, kw_only=True)
class Overall:
    """Methods over several tasks.

    `methods` has a row for each: method, letters, mean with its low and high over other seeds and
    examples, and iqm (interquartile mean) with its own over other seeds. `improvement` has a row
    for each pair: a, b, and the chance that a run of a beats one of b. `profile` has the share of
    each method's runs above each threshold. Both have low and high too. `left_out` says what does
    not count, and why.
    """

    model: str
    protocol: str
    tasks: tuple[str, ...]
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: Frame
    verdicts: Verdicts
    improvement: Frame
    profile: Frame
    left_out: list[str]


def overall(found: list[Comparison], rule: Rule) -> list[Overall]:
    """The verdicts over all tasks of one model and protocol, where two methods share two tasks."""
    sets: dict[tuple[str, str], list[Comparison]] = {}
    for one in found:
        if one.verdicts is not None:
            sets.setdefault((one.model, one.protocol), []).append(one)
    return [whole for parts in sets.values() if (whole := over_tasks(parts, rule)) is not None]


def over_tasks(candidates: list[Comparison], rule: Rule) -> Overall | None:
    """The verdicts over the tasks that can be taken together, if there are two and two seeds."""
    parts, names, seeds = alike(candidates)
    if len(parts) < 2 or len(seeds) < 2 or rule.against not in (None, *names):
        return None
    known = [scored(shared(part, names, seeds)) for part in parts]
    verdicts = across(known, np.random.default_rng(DRAWS), rule)
    held = letters(verdicts)
    methods: Frame = verdicts.methods.merge(means(known, rule), on="method")
    methods["letters"] = [held.get(name, "") for name in methods["method"]]
    cube = np.stack([one.scorer.observed() for one in known], axis=-1)  # [methods, seeds, tasks]
    scores = dict(zip(known[0].methods, cube, strict=True))
    return Overall(
        model=parts[0].model,
        protocol=parts[0].protocol,
        tasks=tuple(sorted(part.task for part in parts)),
        metrics=tuple(sorted({part.metric for part in parts})),
        seeds=tuple(sorted(seeds)),
        methods=methods.merge(middle(scores, known, rule), on="method"),
        verdicts=verdicts,
        improvement=chances(scores, verdicts.pairs, rule),
        profile=shares(scores, rule),
        left_out=list(absent(candidates, parts, names, seeds)),
    )


def alike(parts: list[Comparison]) -> tuple[list[Comparison], set[str], set[int]]:
    """The tasks that share methods and seeds, and these; the largest comparison is the first.

    A task stays out where it would leave fewer than half of the methods or of the seeds, or one
    method.
    """
    order = sorted(parts, key=lambda part: -len(part.methods) * len(part.seeds))
    names, seeds = set(order[0].methods["method"]), set(order[0].seeds)
    most, least, found = len(names), -(-len(seeds) // 2), []
    for part in order:
        left, both = names & set(part.methods["method"]), seeds & set(part.seeds)
        new = part.task not in [one.task for one in found]
        if new and len(left) >= max(2, most / 2) and len(both) >= least:
            found, names, seeds = [*found, part], left, both
    return found, names, seeds


def absent(
    candidates: list[Comparison], parts: list[Comparison], names: set[str], seeds: set[int]
) -> Iterator[str]:
    """What does not count over all tasks, and what had been left out on each."""
    for one in candidates:
        if not any(one is part for part in parts):
            twice = one.task in [part.task for part in parts]
            why = (
                "there is another of this task"
                if twice
                else "it shares too little with the other tasks"
            )
            yield f"{one.group} is left out: {why}."
            continue
        for method in sorted(set(one.methods["method"]) - names):
            yield f"{method} is left out: it has {one.task}, and not all of the tasks."
        if more := len(set(one.seeds) - seeds):
            yield f"Of {one.task} {count(more, 'seed')} of {len(one.seeds)} are left out."
        yield from (f"{one.task}: {said}" for said in one.left_out)


def shared(part: Comparison, names: set[str], seeds: set[int]) -> Frame:
    """The runs of some methods and seeds."""
    return part.runs[part.runs["method"].isin(names) & part.runs["seed"].isin(seeds)]


def means(known: list[Outcomes], rule: Rule) -> Frame:
    """The ends of every method's mean over the tasks, over other seeds and examples."""
    generator, found = np.random.default_rng(DRAWS), []
    for one in known:
        drawn = one.scorer.bootstrap(generator, rule.resamples)
        found.append(crossed(one.scorer.observed(), drawn, one.scorer.examples, rule.alpha))
    whole = together(found, rule.alpha)
    least, most = np.mean([bounds(one.metric) for one in known], axis=0)
    ends = {"low": whole.low.clip(min=least), "high": whole.high.clip(max=most)}
    return pd.DataFrame({"method": known[0].methods} | ends)


def middle(scores: Mapping[str, np.ndarray], known: list[Outcomes], rule: Rule) -> Frame:
    """Interquartile means of scores [seeds, tasks] with their ends."""
    cube = np.stack(list(scores.values()))
    least, most = np.array([bounds(one.metric) for one in known]).T
    low, high = np.clip(interval(cube, iqm, rule), least.min(), most.max())
    columns = {"iqm": iqm(cube), "iqm_low": low, "iqm_high": high}
    return pd.DataFrame({"method": list(scores)} | columns)


def chances(scores: Mapping[str, np.ndarray], pairs: Frame, rule: Rule) -> Frame:
    """Of each pair the chance that a run of the first beats one of the second on the same task."""
    found = []
    for a, b in pairs[["a", "b"]].to_numpy().tolist():
        both = np.stack([scores[a], scores[b]])
        low, high = np.clip(interval(both, improvement, rule), 0.0, 1.0).tolist()
        if low == high:  # all runs of one beat all of the other: that says little of further ones
            low = high = np.nan
        found.append({"a": a, "b": b, "chance": float(improvement(both)), "low": low, "high": high})
    return pd.DataFrame(found)


def shares(scores: Mapping[str, np.ndarray], rule: Rule) -> Frame:
    """The performance profile: the share of each method's runs above each threshold."""
    cube = np.stack(list(scores.values()))
    thresholds = np.linspace(cube.min() - MARGIN, cube.max(), THRESHOLDS)
    ends = interval(cube, lambda drawn: profile(drawn, thresholds), rule)
    low, high = np.clip(ends, 0.0, 1.0)
    columns = {"share": profile(cube, thresholds), "low": low, "high": high}
    index = pd.MultiIndex.from_product((thresholds, scores), names=("threshold", "method"))
    return pd.DataFrame({k: v.ravel() for k, v in columns.items()}, index=index).reset_index()


def interval(scores: np.ndarray, statistic: Statistic, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """The ends over other seeds; every statistic sees the same draws."""
    generator = np.random.default_rng(DRAWS)
    return stratified(scores, statistic, generator, rule.resamples, rule.alpha)
