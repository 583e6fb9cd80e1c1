"""Comparisons over several tasks, on the methods that the tasks share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import decisions
from analysis.aggregate import Profile, Statistic, improvement, iqm, standardise, stratified
from analysis.family import Rule
from analysis.report.comparisons import Comparison, letters
from analysis.report.material import Frame
from analysis.scales import bounds
from analysis.statistics import Claims, Verdicts, across, claims_without
from analysis.task_scores import TaskScores

DRAWS = 0  # seeds the generator: the same runs give the same page
THRESHOLDS = 101  # of a performance profile, which starts just below the lowest score
MARGIN = 1e-6


@dataclass(frozen=True, kw_only=True)
class Overall:
    """Methods over several tasks.

    `methods` has a row for each: method, letters, mean with its low and high over other seeds and
    examples, chance_best, loses, trained, and iqm (interquartile mean of standardised scores) with
    its own interval over other seeds. `by_seed` has each method's weighted means, one for each of
    the seeds, and `floor` is the weighted mean of the tasks' baselines. `improvement` has a row for
    each pair: a, b, and the chance that a run of a beats one of b. `profile` has the share of each
    method's runs above each threshold of standardised scores. Both have low and high too.
    `not_above_floor` names methods that are not shown to be above the floor on any task. `without`
    has the claims with each task left out, and `left_out` says what does not count, and why.
    """

    model: str
    protocol: str
    tasks: tuple[str, ...]
    groups: tuple[str, ...]
    metrics: tuple[str, ...]
    seeds: tuple[int, ...]
    methods: Frame
    by_seed: Mapping[str, list[float]]
    floor: float
    verdicts: Verdicts
    improvement: Frame
    profile: Frame
    not_above_floor: list[str]
    without: Mapping[str, Claims]
    left_out: list[str]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each task in the mean."""
        return dict(zip(self.tasks, self.verdicts.weights.tolist(), strict=True))


def overall(found: list[Comparison], rule: Rule) -> list[Overall]:
    """The verdicts over all tasks of one model and protocol, where two methods share two tasks."""
    sets: dict[tuple[str, str], list[Comparison]] = {}
    for one in found:
        if one.verdicts is not None:
            sets.setdefault((one.model, one.protocol), []).append(one)
    return [whole for parts in sets.values() if (whole := over_tasks(parts, rule)) is not None]


def over_tasks(candidates: list[Comparison], rule: Rule) -> Overall | None:
    """The verdicts over the tasks that can be taken together, if there are two."""
    parts, names = alike(candidates)
    if len(parts) < 2 or rule.against not in (None, *names):
        return None
    parts = sorted(parts, key=lambda part: part.task)
    known = [with_methods(part.scores, names) for part in parts]
    verdicts = across(known, rule)
    held = letters(verdicts)
    methods: Frame = verdicts.methods.merge(means(known, verdicts, rule), on="method")
    methods["letters"] = [held.get(name, "") for name in methods["method"]]
    sizes = {name: [one.methods.set_index("method").loc[name, "trained"] for one in parts]
             for name in names}  # fmt: skip
    methods["trained"] = [float(np.mean(sizes[name])) for name in methods["method"]]
    cube, seeds = shared_runs(known)
    scores = dict(zip(known[0].methods, standardise(cube), strict=True))
    floors = np.array([part.baseline for part in parts])
    sums = cube @ verdicts.weights
    return Overall(
        model=parts[0].model,
        protocol=parts[0].protocol,
        tasks=tuple(part.task for part in parts),
        groups=tuple(part.group for part in parts),
        metrics=tuple(sorted({part.metric for part in parts})),
        seeds=seeds,
        methods=methods.merge(middle(scores, rule), on="method", how="left"),
        by_seed=dict(zip(known[0].methods, sums.tolist(), strict=True)),
        floor=float(verdicts.weights @ floors),
        verdicts=verdicts,
        improvement=chances(scores, verdicts.pairs, rule),
        profile=shares(scores, rule),
        not_above_floor=sorted(
            set.intersection(*(set(part.not_above_floor) for part in parts)) & names
        ),
        without=claims_without(known, rule),
        left_out=list(absent(candidates, parts, names)),
    )


def alike(parts: list[Comparison]) -> tuple[list[Comparison], set[str]]:
    """The tasks that share methods, and these; the largest comparison is the first.

    A task stays out if it would leave fewer than half of the methods, or one method.
    """
    order = sorted(parts, key=lambda part: -len(part.methods) * len(part.seeds))
    names = set(order[0].methods["method"])
    most, found = len(names), []
    for part in order:
        left = names & set(part.methods["method"])
        new = part.task not in [one.task for one in found]
        if new and len(left) >= max(2, most / 2):
            found, names = [*found, part], left
    return found, names


def absent(candidates: list[Comparison], parts: list[Comparison], names: set[str]) -> Iterator[str]:
    """Yield messages on what does not count over all tasks, and what each task had left out."""
    for one in candidates:
        if not any(one is part for part in parts):
            twice = one.task in [part.task for part in parts]
            why = (
                "there is another of this task"
                if twice
                else "it shares too few methods with the other tasks"
            )
            yield f"{one.group} is left out: {why}."
            continue
        for method in sorted(set(one.methods["method"]) - names):
            yield f"{method} is left out: it has {one.task}, and not all of the tasks."
        yield from (f"{one.task}: {said}" for said in one.left_out)


def with_methods(scores: TaskScores, names: set[str]) -> TaskScores:
    """The scores of some methods."""
    return scores.take([i for i, name in enumerate(scores.methods) if name in names])


def shared_runs(known: list[TaskScores]) -> tuple[np.ndarray, tuple[int, ...]]:
    """The scores [methods, seeds, tasks] on the seeds that all methods have, and these seeds."""
    common = set.intersection(*(complete_seeds(part) for part in known))
    seeds = tuple(sorted(common))
    cube = np.stack(
        [part.scores[part.chosen][:, [part.seeds.index(seed) for seed in seeds]] for part in known],
        axis=-1,
    )
    return cube, seeds


def complete_seeds(part: TaskScores) -> set[int]:
    """The seeds with which every method came to a score."""
    chosen = part.scores[part.chosen]
    return {seed for place, seed in enumerate(part.seeds) if not np.isnan(chosen[:, place]).any()}


def means(known: list[TaskScores], verdicts: Verdicts, rule: Rule) -> Frame:
    """The ends of every method's weighted mean over the tasks, over other seeds and examples."""
    weights, rows = verdicts.weights, []
    for method in range(len(known[0].methods)):
        parts, mean = [], 0.0
        for part, weight in zip(known, weights, strict=True):
            row = part.chosen[method]
            there = ~np.isnan(part.scores[row])
            values, scores = part.values[:, row][:, there], part.scores[row, there]
            parts.append(decisions.estimate_variances(values, scores))
            mean += weight * scores.mean()
        half = decisions.half_width(rule.alpha / 2, decisions.mean_over_tasks(parts, weights))[0]
        rows.append((known[0].methods[method], mean - half, mean + half))
    least, most = weights @ np.array([bounds(part.metric) for part in known])
    table = pd.DataFrame(rows, columns=["method", "low", "high"])
    return table.assign(low=table["low"].clip(lower=least), high=table["high"].clip(upper=most))


def middle(scores: Mapping[str, np.ndarray], rule: Rule) -> Frame:
    """Interquartile means of scores [seeds, tasks] with their ends."""
    cube = np.stack(list(scores.values()))
    if not cube.size:
        return pd.DataFrame(columns=["method", "iqm", "iqm_low", "iqm_high"])
    low, high = interval(cube, iqm, rule)
    columns = {"iqm": iqm(cube), "iqm_low": low, "iqm_high": high}
    return pd.DataFrame({"method": list(scores)} | columns)


def chances(scores: Mapping[str, np.ndarray], pairs: Frame, rule: Rule) -> Frame:
    """Of each pair the chance that a run of the first beats one of the second on the same task."""
    found = []
    for a, b in pairs[["a", "b"]].to_numpy().tolist():
        both = np.stack([scores[a], scores[b]])
        if not both.size:
            continue
        low, high = np.clip(interval(both, improvement, rule), 0.0, 1.0).tolist()
        if low == high:  # all runs of one beat all of the other: that says little of further ones
            low = high = np.nan
        found.append({"a": a, "b": b, "chance": float(improvement(both)), "low": low, "high": high})
    return pd.DataFrame(found, columns=["a", "b", "chance", "low", "high"])


def shares(scores: Mapping[str, np.ndarray], rule: Rule) -> Frame:
    """The performance profile: the share of each method's runs above each threshold."""
    cube = np.stack(list(scores.values()))
    if not cube.size:
        return pd.DataFrame(columns=["threshold", "method", "share", "low", "high"])
    thresholds = np.linspace(cube.min() - MARGIN, cube.max(), THRESHOLDS)
    statistic = Profile(thresholds)
    low, high = np.clip(interval(cube, statistic, rule), 0.0, 1.0)
    columns = {"share": statistic(cube), "low": low, "high": high}
    index = pd.MultiIndex.from_product((thresholds, scores), names=("threshold", "method"))
    return pd.DataFrame({k: v.ravel() for k, v in columns.items()}, index=index).reset_index()


def interval(scores: np.ndarray, statistic: Statistic, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """The ends over other seeds; every statistic sees the same draws."""
    generator = np.random.default_rng(DRAWS)
    return stratified(scores, statistic, generator, alpha=rule.alpha)
