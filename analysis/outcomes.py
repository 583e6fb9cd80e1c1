"""Runs of several methods with the same seeds on the same examples of one task, made comparable."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.resampling import METRICS, FromSums, Scorer, additive
from experiments.stored import result

UNUSED = ("outputs",)  # columns of predictions that no score is made of
Run = tuple[str, int]  # variant and seed
TOLERANCE = 1e-5  # between a stored score and that of the stored predictions


@dataclass(frozen=True, kw_only=True)
class Outcomes:
    """What methods reach on one task; `scorer` gives scores [methods, seeds].

    `floor` gives the score of the best single answer to all examples, where answers are labels.
    """

    task: str
    metric: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    scorer: Scorer
    floor: Scorer | None = None


def read_predictions(runs: pd.DataFrame) -> dict[Run, pd.DataFrame]:
    """The predictions of every run of a table of `analysis.load`, by variant and seed."""
    found = {}
    for run in runs.to_dict("records"):
        path = Path(run["folder"]) / result.PREDICTIONS
        if not path.exists():
            raise ValueError(f"{path} is absent, and a run is compared by its predictions.")
        sha256 = run.get("predictions")
        found[run["variant"], run["seed"]] = result.read_predictions(path, sha256, UNUSED)
    return found


def outcomes(
    runs: pd.DataFrame, predictions: Mapping[Run, pd.DataFrame], score: FromSums | None = None
) -> Outcomes:
    """Every method with every seed, from a table of runs and what they predicted.

    With `score`, predictions hold a column of counts per example under the metric's name, and
    `score` makes the metric of their sums and the number of examples, as for BLEU. Raises
    ValueError where runs cannot be compared or are not those of the table.
    """
    task, _, metric = (only(runs, column) for column in ("task", "model", "metric"))
    table = score_table(runs).droplevel("task", axis=1)
    frames = {
        (str(method), int(seed)): labelled(predictions, (method, seed))
        for method in table.index
        for seed in table.columns
    }
    check_examples(frames)
    scorer = from_labels(metric, frames) if score is None else from_counts(metric, frames, score)
    found = Outcomes(
        task=task,
        metric=metric,
        methods=tuple(map(str, table.index)),
        seeds=tuple(map(int, table.columns)),
        scorer=shaped(scorer, table.shape),
        floor=single(metric, frames) if score is None else None,
    )
    check_scores(table, found.scorer.observed())
    return found


def only(runs: pd.DataFrame, column: str) -> str:
    """The one value of a column."""
    values = sorted(map(str, runs[column].unique()))
    if len(values) != 1:
        raise ValueError(f"One {column} is compared at a time, got {', '.join(values)}.")
    return values[0]


def score_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Scores by method (rows), task and seed (columns), none lacking and none twice."""
    keys = ["task", "seed", "variant"]
    for task, seed, variant in runs.loc[runs.duplicated(keys), keys].itertuples(index=False):
        raise ValueError(f"{variant} has two runs on {task} with seed {seed}; keep one of them.")
    table = runs.pivot(index="variant", columns=["task", "seed"], values="score")
    table = table.astype(float).sort_index().sort_index(axis=1)
    for row, column in np.argwhere(table.isna().to_numpy()):
        task, seed = table.columns[column]
        raise ValueError(f"{table.index[row]} has no score on {task} with seed {seed}.")
    return table


def labelled(predictions: Mapping[Run, pd.DataFrame], run: Run) -> pd.DataFrame:
    """A run's examples that have labels, in one order."""
    if run not in predictions:
        raise ValueError(f"There are no predictions of {run[0]} with seed {run[1]}.")
    frame = predictions[run]
    if frame["label"].hasnans:
        frame = frame.loc[frame["label"].notna()]
    # As they are written: sorting what is sorted takes longer than all else that is done with it.
    if frame["id"].is_monotonic_increasing and frame["split"].is_monotonic_increasing:
        return frame.reset_index(drop=True)
    return frame.sort_values(by=["split", "id"], ignore_index=True)


def check_examples(frames: Mapping[Run, pd.DataFrame]) -> None:
    """Raise unless all runs were scored on the same examples, with the same labels."""
    (first, frame), *others = frames.items()
    if len(frame) < 2:
        raise ValueError(f"Two examples with labels are needed at least, got {len(frame)}.")
    for run, other in others:
        if not all(same(frame, other, column) for column in ("split", "id", "label")):
            raise ValueError(
                f"{run[0]} with seed {run[1]} was not scored on the examples of {first[0]} with "
                f"seed {first[1]}."
            )


def same(first: pd.DataFrame, second: pd.DataFrame, column: str) -> bool:
    """Whether two frames hold the same values in a column, which may be lists."""
    pair = first[column].to_numpy(), second[column].to_numpy()
    lists = pair[0].dtype == object and len(first) and not isinstance(pair[0][0], str)
    if lists and len(first) == len(second):
        return all(map(np.array_equal, *pair))
    return np.array_equal(*pair)


def from_labels(metric: str, frames: Mapping[Run, pd.DataFrame]) -> Scorer:
    """A metric of labels and predictions."""
    if metric not in METRICS:
        raise ValueError(
            f"metric must be one of {', '.join(METRICS)} unless a score of counts is given, "
            f"got '{metric}'."
        )
    labels = next(iter(frames.values()))["label"].to_numpy()
    told = np.stack([frame["prediction"].to_numpy() for frame in frames.values()], axis=1)
    return METRICS[metric](labels, told)


def single(metric: str, frames: Mapping[Run, pd.DataFrame]) -> Scorer:
    """The score of the best single answer to all examples."""
    labels = next(iter(frames.values()))["label"].to_numpy()
    # To a correlation any single answer is as good as any other.
    codes = np.unique(labels) if metric in ("accuracy", "f1") else labels[:1]
    scorer = METRICS[metric](labels, np.tile(codes, (len(labels), 1)))
    best = int(scorer.observed().argmax())
    return Scorer(len(labels), lambda weights: scorer.scores(weights)[:, best])


def from_counts(metric: str, frames: Mapping[Run, pd.DataFrame], score: FromSums) -> Scorer:
    """A metric of sums of what was counted in each example."""
    rows = [np.stack(frame[metric].tolist()) for frame in frames.values()]
    return additive(np.stack(rows, axis=1), score)


def shaped(scorer: Scorer, shape: tuple[int, ...]) -> Scorer:
    """The scorer with its runs laid out as methods and seeds."""
    return Scorer(scorer.examples, lambda weights: scorer.scores(weights).reshape(-1, *shape))


def check_scores(table: pd.DataFrame, found: np.ndarray) -> None:
    """Raise unless the predictions give the scores of the table."""
    for row, column in np.argwhere(np.abs(table.to_numpy() - found) > TOLERANCE):
        stored, given = table.to_numpy()[row, column], found[row, column]
        raise ValueError(
            f"The predictions of {table.index[row]} with seed {table.columns[column]} give "
            f"{given:.5f}, and the table of runs has {stored:.5f}."
        )
