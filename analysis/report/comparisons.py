"""Every comparison on one task that the runs allow, with its verdicts, or why there are none."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.crossed import crossed
from analysis.family import Rule, count
from analysis.outcomes import Outcomes, outcomes, read_predictions
from analysis.report.material import Frame, Material, latest
from analysis.statistics import Verdicts, judge
from experiments.metrics.nlg import SCORES

# What a score can be: an interval of few seeds is wider, and says no more.
BOUNDS = {
    **dict.fromkeys(("accuracy", "f1", "BLEU", "ROUGE_L"), (0.0, 1.0)),
    **dict.fromkeys(("matthews", "pearson", "spearman"), (-1.0, 1.0)),
}
DRAWS = 0  # seeds the generator: the same runs give the same page


def bounds(metric: str) -> tuple[float, float]:
    """The lowest and the highest that a score can be."""
    return BOUNDS.get(metric, (0.0, np.inf))


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods on one task; `methods` has a row for each: method, mean, low, high, seeds, letters.

    `floor` is the score of the best single answer to all examples, and `unlearned` names the
    methods that cannot be told apart from it. `runs` are those compared, `left_out` says of the
    others why. Without verdicts there is one method alone.
    """

    group: str
    task: str
    model: str
    protocol: str
    metric: str
    examples: int
    seeds: tuple[int, ...]
    runs: Frame
    methods: Frame
    verdicts: Verdicts | None
    floor: float | None
    unlearned: list[str]
    left_out: list[str] = field(default_factory=list)


def comparisons(material: Material, rule: Rule) -> list[Comparison]:
    """Every group of runs that are compared, in the order of task, model and protocol.

    Raises ValueError where none of them has the method that all others are compared with.
    """
    found = []
    for _, runs in material.tested.groupby("group"):
        if (runs["status"] == "complete").any():
            found.append(comparison(runs, rule))
    names = {name for one in found for name in one.methods["method"]}
    if found and rule.against not in (None, *names):
        raise ValueError(
            f"against must be one of {', '.join(sorted(names))}, got '{rule.against}'."
        )
    return found


def hopeless(material: Material) -> list[str]:
    """What is to be said of groups of which no run came to its end."""
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
    done = runs[runs["status"] == "complete"]
    names, seeds = paired(done)
    kept = done[done["method"].isin(names) & done["seed"].isin(seeds)]
    known = scored(kept)
    generator = np.random.default_rng(DRAWS)
    first = kept.iloc[0]
    decided = len(names) > 1 and rule.against in (None, *names)
    verdicts = judge(known, generator, rule) if decided else None
    drawn = known.scorer.bootstrap(np.random.default_rng(DRAWS), rule.resamples)
    table = means(known, drawn, kept, rule)
    held = letters(verdicts)
    table["letters"] = [held.get(name, "") for name in table["method"]]
    return Comparison(
        **{key: first[key] for key in ("group", "task", "model", "protocol", "metric")},
        examples=known.scorer.examples,
        seeds=tuple(seeds),
        runs=kept,
        methods=table,
        verdicts=verdicts,
        floor=None if known.floor is None else float(known.floor.observed()),
        unlearned=unlearned(known, drawn, rule),
        left_out=[
            *twice(tested, runs),
            *losses(runs),
            *unpaired(done, names, seeds),
            *without(names, rule.against),
        ],
    )


def letters(verdicts: Verdicts | None) -> dict[str, str]:
    """The letters by method; none where nothing could be decided, which is not to be alike."""
    if verdicts is None or "letters" not in verdicts.methods or undecided(verdicts.pairs).all():
        return {}
    return dict(verdicts.methods[["method", "letters"]].to_numpy().tolist())


def undecided(pairs: Frame) -> Frame:
    """Of which pairs a test could not have said anything."""
    return pairs["verdict"].str.startswith("cannot be decided")


def paired(runs: Frame) -> tuple[list[str], list[int]]:
    """Methods and the seeds that all of them have.

    A method stays out where it would cost the others more than half of the seeds.
    """
    having = {m: set(group["seed"]) for m, group in runs.groupby("method")}
    order = sorted(having, key=lambda method: (-len(having[method]), method))
    least = -(-len(having[order[0]]) // 2)
    names, seeds = [], having[order[0]]
    for method in order:
        if len(seeds & having[method]) >= least:
            names, seeds = [*names, method], seeds & having[method]
    return names, sorted(int(seed) for seed in seeds)


def twice(tested: Frame, runs: Frame) -> Iterator[str]:
    """What is said where a run stands twice."""
    if more := len(tested) - len(runs):
        yield f"{count(more, 'run')} of the same settings and seed ended earlier; the last counts."


def losses(runs: Frame) -> Iterator[str]:
    """Which methods have runs that diverged: what is left of them flatters them."""
    for method, group in runs.groupby("method"):
        if lost := int((group["status"] != "complete").sum()):
            rest = "no score" if lost == len(group) else "its score is of the others, and flatters"
            yield f"{method} diverged in {lost} of {count(len(group), 'run')}: {rest}."


def unpaired(runs: Frame, names: list[str], seeds: list[int]) -> Iterator[str]:
    """Which runs have no partner with the same seed."""
    for method, group in runs.groupby("method"):
        have = count(len(group), "seed")
        if method not in names:
            yield f"{method} is left out: {have}, too few that the others have too."
        elif len(group) > len(seeds):
            yield f"{method} has {have}, of which {len(seeds)} are those of the other methods."


def without(names: list[str], against: str | None) -> Iterator[str]:
    """What is said where the method that others are to be compared with is not there."""
    if against not in (None, *names):
        yield f"{against} has no runs here, so nothing is compared with it."


def scored(runs: Frame) -> Outcomes:
    """The runs of one group as they are judged."""
    named = runs.assign(variant=runs["method"])
    metric = str(named["metric"].iloc[0])
    read = {run: comparable(frame) for run, frame in read_predictions(named).items()}
    return outcomes(named, read, SCORES.get(metric))


def comparable(frame: Frame) -> Frame:
    """Predictions that can be paired; those of texts may have been published without references.

    Runs of one group have the same bytes of data, so these are the same.
    """
    return frame if "label" in frame else frame.assign(label=0)


def unlearned(known: Outcomes, drawn: np.ndarray, rule: Rule) -> list[str]:
    """The methods that are not above the best single answer; `drawn` are scores on resamples."""
    if known.floor is None or len(known.seeds) == 1:
        return []
    # The generator begins as that of `drawn` did, so these are the same resamples.
    floor = known.floor.bootstrap(np.random.default_rng(DRAWS), rule.resamples)
    above = known.scorer.observed() - known.floor.observed()
    found = crossed(above, drawn - floor[:, None, None], known.scorer.examples, rule.alpha)
    return [name for name, low in zip(known.methods, found.low, strict=True) if low <= 0]


def means(known: Outcomes, drawn: np.ndarray, runs: Frame, rule: Rule) -> Frame:
    """Every method's mean, the highest first, with its interval over seeds and examples.

    One seed has the interval of its examples alone, as the run itself gives it.
    """
    scores = known.scorer.observed()
    found = crossed(scores, drawn, known.scorer.examples, rule.alpha)
    least, most = bounds(known.metric)
    ends = {"low": found.low.clip(min=least), "high": found.high.clip(max=most)}
    table = pd.DataFrame({"method": known.methods, "mean": scores.mean(axis=1)} | ends)
    if len(known.seeds) == 1:
        alone = runs.set_index("method").loc[list(known.methods)]
        table = table.assign(low=alone["low"].to_numpy(), high=alone["high"].to_numpy())
    table["seeds"] = len(known.seeds)
    return table.sort_values("mean", ascending=False, kind="stable", ignore_index=True)
