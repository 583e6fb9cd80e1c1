"""Every comparison on one task that the runs allow, with its verdicts, or why there are none."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from analysis import decisions
from analysis.family import Rule, count
from analysis.report.material import Frame, Material, latest
from analysis.scales import bounds
from analysis.statistics import Outcome, Verdicts, judge
from analysis.task_scores import TaskScores, read_predictions, read_scores
from experiments.metrics.baseline import baseline_of
from experiments.stored.shown import visible

DECILE = 0.1
CHANGED = "setting 2 of "  # how a table of runs names a method in the setting that came second


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods on one task.

    `methods` has a row for each: method, mean, low, high, seeds, lost (runs that diverged), decile
    (the score that nine runs of ten exceed), fallen (runs at or below the floor, lost ones among
    them), fallen_most (the share of such runs that is still likely, one-sided 95 %), letters,
    chance_best, loses (see `analysis.statistics.Verdicts`) and trained (parameters). `floor` is the
    score of the best single answer to all examples, and `not_above_floor` names the methods that
    are not shown to be above it. `runs` are those compared, `left_out` says of the others why.
    Without verdicts there is one method alone.
    """

    group: str
    task: str
    model: str
    protocol: str
    metric: str
    scores: TaskScores
    runs: Frame
    methods: Frame
    verdicts: Verdicts | None
    not_above_floor: list[str]
    left_out: list[str] = field(default_factory=list)

    @property
    def examples(self) -> int:
        """The number of examples."""
        return self.scores.examples

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds that any method has."""
        return self.scores.seeds

    @property
    def floor(self) -> float | None:
        """The score of the best single answer to all examples, if answers are labels."""
        return self.scores.floor

    @property
    def baseline(self) -> float:
        """The floor; of a metric of texts the least that it can be."""
        return baseline_of(self.metric, self.floor).score

    @property
    def baseline_name(self) -> str:
        """The name of the baseline."""
        return baseline_of(self.metric, self.floor).name

    @property
    def by_seed(self) -> dict[str, list[float]]:
        """Every method's scores, one for each of its seeds."""
        rows = self.scores.scores[self.scores.chosen]
        return {
            name: row[~np.isnan(row)].tolist()
            for name, row in zip(self.scores.methods, rows, strict=True)
        }


def comparisons(material: Material, rule: Rule) -> list[Comparison]:
    """Every group of runs that are compared, in the order of task, model and protocol.

    A group whose runs do not fit each other is left out, and named on the standard error stream.
    Raises ValueError if all are, or if none has the method that all others are compared with.
    """
    found, left_out = [], []
    for group, runs in material.tested.groupby("group"):
        if (runs["status"] == "complete").any():
            try:
                found.append(comparison(runs, rule))
            except ValueError as error:
                left_out.append(f"{group}: {error}")
    if left_out and not found:
        raise ValueError(left_out[0])
    for reason in left_out:
        if reason not in material.left_out:
            material.left_out.append(reason)
            print(f"left out: {visible(reason)}", file=sys.stderr)
    names = {name for one in found for name in one.methods["method"]}
    if found and rule.against not in (None, *names):
        raise ValueError(
            f"against must be one of {', '.join(sorted(names))}, got '{rule.against}'."
        )
    return found


def groups_without_results(material: Material) -> list[str]:
    """Return a message for each group in which no run completed."""
    return [
        f"{group}: {ended(runs)}."
        for group, runs in material.tested.groupby("group")
        if not (runs["status"] == "complete").any()
    ]


def ended(runs: Frame) -> str:
    """How many runs diverged."""
    return f"{count(len(runs), 'run')} diverged, none came to its end"


def comparison(tested: Frame, rule: Rule) -> Comparison:
    """The comparison of one group."""
    runs = latest(tested)
    known = scored(runs)
    decided = len(known.methods) > 1 and rule.against in (None, *known.methods)
    verdicts = judge(known, rule) if decided else None
    first = runs[runs["status"] == "complete"].iloc[0]
    return Comparison(
        **{key: first[key] for key in ("group", "task", "model", "protocol", "metric")},
        scores=known,
        runs=runs[(runs["status"] == "complete") & (runs["choice"] == 0)],
        methods=method_rows(known, verdicts, runs, rule),
        verdicts=verdicts,
        not_above_floor=not_above_floor(known, rule),
        left_out=[
            *twice(tested, runs),
            *losses(runs),
            *unpaired(known),
            *without(known.methods, rule.against),
        ],
    )


def letters(verdicts: Verdicts | None) -> dict[str, str]:
    """The letters by method; none if nothing could be decided, which is not to be alike."""
    if verdicts is None or "letters" not in verdicts.methods or undecided(verdicts.pairs).all():
        return {}
    return dict(verdicts.methods[["method", "letters"]].to_numpy().tolist())


def undecided(pairs: Frame) -> Frame:
    """Mark the pairs of which a test could not have said anything."""
    return pairs["outcome"] == Outcome.UNDECIDABLE


def twice(tested: Frame, runs: Frame) -> Iterator[str]:
    """Yield a message if runs have the same settings and seed."""
    if more := len(tested) - len(runs):
        yield f"{count(more, 'run')} of the same settings and seed ended earlier; the last counts."


def losses(runs: Frame) -> Iterator[str]:
    """Return which methods have runs that diverged: what is left of them flatters them."""
    for method, group in runs.groupby("method"):
        if lost := int((group["status"] != "complete").sum()):
            rest = (
                "no score"
                if lost == len(group)
                else "its score is the mean of the others, which is too high; it is called better "
                "only if it is so with its lost runs scored as the majority baseline, too"
            )
            yield f"{method} diverged in {lost} of {count(len(group), 'run')}: {rest}."


def unpaired(known: TaskScores) -> Iterator[str]:
    """Name methods with fewer seeds than others; a pair is judged by those that both have."""
    there = ~np.isnan(known.scores[known.chosen]) | known.lost[known.chosen]
    numbers = there.sum(axis=1)
    for method, number in zip(known.methods, numbers, strict=True):
        if number < numbers.max():
            yield (
                f"{method} has {count(int(number), 'seed')} of {numbers.max()}: its pairs are "
                "judged by these."
            )


def without(names: tuple[str, ...], against: str | None) -> Iterator[str]:
    """Yield a message if the method that others are to be compared with has no runs."""
    if against not in (None, *names):
        yield f"{against} has no runs here, so nothing is compared with it."


def scored(runs: Frame) -> TaskScores:
    """The runs of one group as they are judged: those of methods that came to any score."""
    done = runs.loc[runs["status"] == "complete", "method"]
    kept = runs[runs["method"].isin(set(done))]
    second = kept["choice"] > 0
    named = kept.assign(variant=kept["method"].where(~second, CHANGED + kept["method"]))
    read = {run: comparable(frame) for run, frame in read_predictions(named).items()}
    return read_scores(named, read)


def comparable(frame: Frame) -> Frame:
    """Predictions that can be paired; those of texts may have been published without references.

    Runs of one group have the same bytes of data, so these are the same.
    """
    return frame if "label" in frame else frame.assign(label=0)


def not_above_floor(known: TaskScores, rule: Rule) -> list[str]:
    """The methods that are not shown to be above the best single answer."""
    if known.floor is None or known.floor_values is None or len(known.seeds) == 1:
        return []
    values = known.values - known.floor_values[:, None, None]
    low, _ = intervals(known, values, known.scores - known.floor, rule)
    return [name for name, end in zip(known.methods, low, strict=True) if end <= 0]


def intervals(
    known: TaskScores, values: np.ndarray, scores: np.ndarray, rule: Rule
) -> tuple[np.ndarray, np.ndarray]:
    """Ends [k] of the interval of each method's mean alone, over seeds and examples."""
    parts, means = [], []
    for row in known.chosen:
        there = ~np.isnan(scores[row])
        parts.append(decisions.estimate_variances(values[:, row][:, there], scores[row, there]))
        means.append(scores[row, there].mean())
    half = decisions.half_width(rule.alpha / 2, decisions.stack_pairs(parts))
    return np.array(means) - half, np.array(means) + half


def method_rows(known: TaskScores, verdicts: Verdicts | None, runs: Frame, rule: Rule) -> Frame:
    """The table of methods, the highest mean first.

    One seed has the interval of its examples alone, as the run itself gives it.
    """
    low, high = intervals(known, known.values, known.scores, rule)
    least, most = bounds(known.metric)
    chosen = known.scores[known.chosen]
    table = pd.DataFrame(
        {
            "method": known.methods,
            "mean": np.nanmean(chosen, axis=1),
            "low": low.clip(min=least),
            "high": high.clip(max=most),
            "seeds": (~np.isnan(chosen)).sum(axis=1),
            "lost": known.lost[known.chosen].sum(axis=1),
            "decile": np.nanquantile(chosen, DECILE, axis=1),
        }
    )
    done = runs[(runs["status"] == "complete") & (runs["choice"] == 0)].set_index("method")
    table["trained"] = [float(done.loc[[name], "trained"].mean()) for name in table["method"]]
    single = table["seeds"] == 1
    for end in ("low", "high"):
        own = [done.loc[[name], end].iloc[0] for name in table["method"]]
        table[end] = table[end].where(~single, pd.Series(own))
    table = table.assign(**collapse(known))
    held = letters(verdicts)
    table["letters"] = [held.get(name, "") for name in table["method"]]
    table = table.sort_values("mean", ascending=False, kind="stable", ignore_index=True)
    columns = ["chance_best", "loses"]
    if verdicts is None or "loses" not in verdicts.methods:
        return table.assign(**dict.fromkeys(columns, np.nan))
    return table.merge(verdicts.methods[["method", *columns]], on="method", how="left")


def collapse(known: TaskScores) -> dict[str, np.ndarray]:
    """How many runs are at or below the floor, and the share that is still likely.

    Clopper and Pearson's upper bound, one-sided at 95 %: of none in 8 runs, 31 %.
    """
    chosen, lost = known.scores[known.chosen], known.lost[known.chosen]
    runs = (~np.isnan(chosen) | lost).sum(axis=1)
    if known.floor is None:
        fallen = lost.sum(axis=1)
    else:
        fallen = (lost | (chosen <= known.floor)).sum(axis=1)
    most = stats.beta.ppf(0.95, fallen + 1, np.maximum(runs - fallen, 1e-9))
    return {"fallen": fallen, "fallen_most": np.where(fallen == runs, 1.0, most)}
