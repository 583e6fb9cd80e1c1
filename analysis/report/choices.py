"""How settings were chosen, as far as luck goes: the best of n trials, and choosing again."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from analysis import tuning
from analysis.report.material import SEPARATOR, Frame, Material, Record
from analysis.report.tuning import Curve, rows
from experiments.metrics.base import CountedMetric, LabelMetric, Metric, list_metrics
from experiments.stored import result
from experiments.study.race import MORE

WIDTH = 2 * 1.96  # standard errors in a 95 % interval


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One method's choice of a setting on one task.

    `repeated` is the chance that the same trials would choose it again, None if too little is
    kept to say; `exact` says whether the trials' predictions were there, or their intervals only.
    """

    study: str
    task: str
    protocol: str
    method: str
    repeated: float | None
    exact: bool


def budget_curves(material: Material) -> list[Curve]:
    """Every method's expected best selection score over the number of trials."""
    found = []
    several = len(material.studies) > 1
    for row in rows(material):
        scores = [score for _, score in row["curve"] if score is not None]
        if len(scores) < 2:
            continue
        best = tuning.expected_best(scores)
        names = [row["task"], row["protocol"], *([row["study"]] if several else [])]
        found.append(
            Curve(
                place=SEPARATOR.join(names),
                method=row["method"],
                setting="trials",
                metric=row["tuned_by"] or "",
                points=tuple((float(n), float(y)) for n, y in enumerate(best, start=1)),
                chosen=None,
            )
        )
    return found


def chosen_again(material: Material) -> list[Chosen]:
    """Of every choice of a study the chance that it would be made again."""
    kinds = {study["study"]: study.get("tuning", "plain") for study in material.studies}
    found = []
    for row in rows(material):
        names = {key: row[key] for key in ("study", "task", "protocol", "method")}
        choice, exact = choice_of(row, material)
        if choice is None:
            found.append(Chosen(**names, repeated=None, exact=False))
            continue
        trials = max(len(scores) for _, scores in row["tries"]) if row.get("tries") else 1
        chance = (
            tuning.repeat_race(choice, MORE)
            if kinds[row["study"]] != "plain"
            else tuning.repeat_plain(choice, trials)
        )
        found.append(Chosen(**names, repeated=chance, exact=exact))
    return found


def choice_of(row: Record, material: Material) -> tuple[tuning.Choice | None, bool]:
    """A row's trials as they could come out again, and whether their predictions are kept."""
    points, sd_seeds = [point for point, _ in row["curve"]], spread_of_seeds(row)
    if not row["chosen"] or " ".join(row["chosen"]) not in points or sd_seeds is None:
        return None, False
    trials = first_trials(row, points, material)
    if len(trials) < len(points):
        return None, False
    known = [trials[point] for point in points]
    by_rows, exact = row_covariance(known, row["tuned_by"])
    means = [np.nan if score is None else score for _, score in row["curve"]]
    return (
        tuning.Choice(
            means=np.array(means, dtype=float),
            sd_seeds=sd_seeds,
            by_rows=by_rows,
            chosen=points.index(" ".join(row["chosen"])),
        ),
        exact,
    )


def spread_of_seeds(row: Record) -> float | None:
    """The standard deviation of one point's scores over seeds; None if three are not known.

    It is that of the final runs, or if these have another metric, that of the trials of a race.
    """
    if row["tuned_by"] == row["metric"]:
        known = [row["scores"]]
    else:
        known = [scores for _, scores in row.get("tries") or ()]
    variances = [np.var(scores, ddof=1) for scores in known if len(scores) > 2]
    return float(np.sqrt(np.mean(variances))) if variances else None


def first_trials(row: Record, points: list[str], material: Material) -> dict[str, Record]:
    """The run of each point with the first tuning seed, by the point."""
    trials: Frame = material.trials
    keys = trials[["base", "protocol", "task"]].to_numpy()
    wanted = (row["method"], row["protocol"], row["task"])
    same = [(base, protocol, task.rpartition("/")[2]) == wanted for base, protocol, task in keys]
    own = trials[np.array(same, dtype=bool)]
    found: dict[str, Record] = {}
    for index, run in own.sort_values("seed").to_dict("index").items():
        config = material.results[index]["config"]
        for point in points:
            if point not in found and all(has_setting(config, one) for one in point.split()):
                found[point] = run
    return found


def has_setting(config: Record, setting: str) -> bool:
    """Return whether a run has a setting as a study types it, `variant.lr=0.001`."""
    path, _, text = setting.partition("=")
    value: Any = config
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    try:
        return abs(float(text) - float(value)) <= 1e-9 * abs(float(text))
    except (TypeError, ValueError):
        return str(value) == text


def row_covariance(runs: list[Record], metric: str) -> tuple[np.ndarray, bool]:
    """The covariance [P, P] of the trials' scores over other selection rows, and if it is exact.

    Without predictions that the metric can be taken of, only each score's interval is known, and
    rows are taken as other for each point, which makes a choice look less sure than it is.
    """
    known = list_metrics().get(metric)
    needed = {metric} if isinstance(known, CountedMetric) else {"label", "prediction"}
    paths = [Path(run["folder"]) / result.PREDICTIONS for run in runs]
    frames = [result.read_predictions(path) if path.exists() else None for path in paths]
    frames = [
        f if known is not None and f is not None and needed <= set(f) else None for f in frames
    ]
    if any(frame is None for frame in frames):
        errors = [0.0 if run["low"] is None else (run["high"] - run["low"]) / WIDTH for run in runs]
        return np.diag(np.nan_to_num(np.array(errors, dtype=float)) ** 2), False
    values = np.stack(list(pseudo_values(frames, known)), axis=1)
    return np.atleast_2d(np.cov(values.T)) / len(values), True


def pseudo_values(frames: list[Frame], metric: Metric | None) -> Iterator[np.ndarray]:
    """The pseudo-values [n] of each trial's selection rows."""
    for frame in frames:
        frame = frame.sort_values(["split", "id"], ignore_index=True)
        if isinstance(metric, CountedMetric):
            yield metric.scorer(np.stack(frame[metric.name].tolist())).pseudo_values()
        elif isinstance(metric, LabelMetric):
            labels, told = frame["label"].to_numpy(), frame["prediction"].to_numpy()
            yield metric.scorer(labels, told).pseudo_values()
