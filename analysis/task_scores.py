"""Runs of several methods on the same examples of one task, made comparable."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from experiments.metrics.base import CountedMetric, LabelMetric, find_metric
from experiments.metrics.resampling import Scorer
from experiments.stored import result

Frame = Any  # a pandas.DataFrame, of whose columns a type checker knows nothing
Run = tuple[str, int]  # variant and seed
TOLERANCE = 1e-5  # between a stored score and that of the stored predictions
LOST = ("diverged",)  # statuses of runs that came to no score


@dataclass(frozen=True, kw_only=True)
class TaskScores:
    """Scores of methods on one task.

    A row is a method in one setting. `scores` [rows, seeds] is NaN if there is no run with a
    score, and `lost` [rows, seeds] says where there is one without: it diverged. `values`
    [n, rows, seeds] are the pseudo-values of the examples (of an accuracy: 1 for right, 0 for
    wrong). `settings` lists the rows of each method, the one that tuning chose first; a claim has
    to hold in all of them. `floor` is the score of the best single answer to all examples, and
    `floor_values` [n] its pseudo-values; None if answers are no labels.
    """

    task: str
    metric: str
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    scores: np.ndarray
    values: np.ndarray
    lost: np.ndarray
    settings: tuple[tuple[int, ...], ...]
    floor: float | None = None
    floor_values: np.ndarray | None = None

    @property
    def examples(self) -> int:
        """The number n of examples."""
        return len(self.values)

    @cached_property
    def views(self) -> dict[tuple[int, int], Any]:
        """Pairs of rows that `analysis.family` has compared, kept for further families."""
        return {}

    @cached_property
    def chosen(self) -> list[int]:
        """The row of each method that tuning chose."""
        return [rows[0] for rows in self.settings]

    def take(self, methods: list[int]) -> "TaskScores":
        """The task with some of its methods."""
        rows = [row for method in methods for row in self.settings[method]]
        places = {row: place for place, row in enumerate(rows)}
        return replace(
            self,
            methods=tuple(self.methods[method] for method in methods),
            scores=self.scores[rows],
            values=self.values[:, rows],
            lost=self.lost[rows],
            settings=tuple(
                tuple(places[row] for row in self.settings[method]) for method in methods
            ),
        )

    def with_losses_at_floor(self) -> "TaskScores":
        """The task with every lost run scored as the best single answer to all examples.

        If answers are no labels, it scores 0, which no text scores less than.
        """
        score = 0.0 if self.floor is None else self.floor
        values = np.zeros(self.examples) if self.floor_values is None else self.floor_values
        return replace(
            self,
            scores=np.where(self.lost, score, self.scores),
            values=np.where(self.lost, values[:, None, None], self.values),
            lost=np.zeros_like(self.lost),
        )


def of_scorer(scorer: Scorer, task: str, metric: str, methods: tuple[str, ...]) -> TaskScores:
    """Scores of methods whose seeds all came to a score, in one setting each."""
    scores = scorer.observed()
    return TaskScores(
        task=task,
        metric=metric,
        methods=methods,
        seeds=tuple(range(scores.shape[1])),
        scores=scores,
        values=scorer.pseudo_values(),
        lost=np.zeros(scores.shape, dtype=bool),
        settings=tuple((row,) for row in range(len(methods))),
    )


def read_predictions(runs: Frame) -> dict[Run, Frame]:
    """The predictions of every scored run of a table of `analysis.load`, by variant and seed."""
    found = {}
    for run in scored_runs(runs).to_dict("records"):
        path = Path(run["folder"]) / result.PREDICTIONS
        if not path.exists():
            raise ValueError(f"{path} is absent, and a run is compared by its predictions.")
        found[run["variant"], run["seed"]] = result.read_predictions(path, run.get("predictions"))
    return found


def read_scores(runs: Frame, predictions: Mapping[Run, Frame]) -> TaskScores:
    """Every method with every seed, from a table of runs and what they predicted.

    `runs` has the columns of `analysis.load`; of several variants that are one method in several
    settings, the column `method` names it and `choice` numbers them, 0 for what tuning chose.
    Raises ValueError if runs cannot be compared or are not those of the table.
    """
    task, _ = (only(runs, column) for column in ("task", "model"))
    done = scored_runs(runs)
    metric = only(done, "metric")
    table = score_table(done).droplevel("task", axis=1)
    table = table.reindex(columns=sorted(set(runs["seed"])))
    where = np.argwhere(table.notna().to_numpy())
    frames = {
        (str(table.index[row]), int(table.columns[column])): labelled(
            predictions, (str(table.index[row]), int(table.columns[column]))
        )
        for row, column in where
    }
    check_examples(frames)
    scorer, floor = scorers(metric, frames)
    check_scores(table, where, scorer.observed())
    methods, settings = methods_of(runs, list(table.index))
    return TaskScores(
        task=task,
        metric=metric,
        methods=methods,
        seeds=tuple(map(int, table.columns)),
        scores=spread_out(scorer.observed(), where, table.shape),
        values=spread_out(scorer.pseudo_values(), where, table.shape),
        lost=losses(runs, table),
        settings=settings,
        floor=None if floor is None else float(floor.observed()),
        floor_values=None if floor is None else floor.pseudo_values(),
    )


def scored_runs(runs: Frame) -> Frame:
    """The runs that came to a score; all of them if the table does not say."""
    return runs[~runs["status"].isin(LOST)] if "status" in runs else runs


def methods_of(runs: Frame, rows: list[str]) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
    """The methods in order, and the rows of each, the chosen setting first."""
    if "method" not in runs:
        return tuple(rows), tuple((row,) for row in range(len(rows)))
    known = runs.drop_duplicates("variant").set_index("variant")
    found: dict[str, list[int]] = {}
    for row in sorted(range(len(rows)), key=lambda row: (known.loc[rows[row], "choice"], row)):
        found.setdefault(str(known.loc[rows[row], "method"]), []).append(row)
    names = sorted(found)
    return tuple(names), tuple(tuple(found[name]) for name in names)


def losses(runs: Frame, table: Frame) -> np.ndarray:
    """Return which runs [rows, seeds] of the table's variants and seeds diverged."""
    found = np.zeros(table.shape, dtype=bool)
    if "status" in runs:
        for run in runs[runs["status"].isin(LOST)].to_dict("records"):
            if run["variant"] in table.index:
                place = table.index.get_loc(run["variant"]), table.columns.get_loc(run["seed"])
                found[place] = np.isnan(table.to_numpy()[place])
    return found


def spread_out(found: np.ndarray, where: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Spread values of runs [..., runs] over a table [..., rows, seeds]; NaN if there is no run."""
    table = np.full((*found.shape[:-1], *shape), np.nan)
    table[..., where[:, 0], where[:, 1]] = found
    return table


def only(runs: Frame, column: str) -> str:
    """The one value of a column."""
    values = sorted(map(str, runs[column].unique()))
    if len(values) != 1:
        raise ValueError(f"One {column} is compared at a time, got {', '.join(values)}.")
    return values[0]


def score_table(runs: Frame) -> Frame:
    """Scores by variant (rows), task and seed (columns), none twice; NaN if there is no run."""
    keys = ["task", "seed", "variant"]
    for task, seed, variant in runs.loc[runs.duplicated(keys), keys].itertuples(index=False):
        raise ValueError(f"{variant} has two runs on {task} with seed {seed}; keep one of them.")
    table = runs.pivot(index="variant", columns=["task", "seed"], values="score")
    return table.astype(float).sort_index().sort_index(axis=1)


def labelled(predictions: Mapping[Run, Frame], run: Run) -> Frame:
    """A run's examples that have labels, in one order."""
    if run not in predictions:
        raise ValueError(f"There are no predictions of {run[0]} with seed {run[1]}.")
    frame = predictions[run]
    there = frame["label"].notna().to_numpy()
    frame = frame if there.all() else frame.loc[there]
    if in_order(frame):
        return frame.reset_index(drop=True)
    return frame.sort_values(by=["split", "id"], ignore_index=True)


def in_order(frame: Frame) -> bool:
    """Return whether a frame is of one split and sorted by id, as most are."""
    split = frame["split"].to_numpy()
    return bool(len(split) and (split == split[0]).all() and frame["id"].is_monotonic_increasing)


def check_examples(frames: Mapping[Run, Frame]) -> None:
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


def same(first: Frame, second: Frame, column: str) -> bool:
    """Return whether two frames hold the same values in a column, which may be lists."""
    if first[column].dtype == second[column].dtype != object:
        return first[column].equals(second[column])
    pair = first[column].to_numpy(), second[column].to_numpy()
    if len(first) == len(second) and isinstance(pair[0][0], list | np.ndarray):
        return all(map(np.array_equal, *pair))
    return np.array_equal(*pair)


def scorers(metric: str, frames: Mapping[Run, Frame]) -> tuple[Scorer, Scorer | None]:
    """The scores of all runs, and those of the best single answer if answers are labels.

    Of a metric of texts, predictions hold a column of counts per example under its name.
    """
    known = find_metric(metric)
    first = next(iter(frames.values()))
    if isinstance(known, LabelMetric):
        labels = first["label"].to_numpy()
        told = np.stack([frame["prediction"].to_numpy() for frame in frames.values()], axis=1)
        return known.scorer(labels, told), known.floor(labels)
    assert isinstance(known, CountedMetric)
    if metric not in first:
        raise ValueError(f"The predictions have no column '{metric}', by which they are compared.")
    rows = [np.stack(frame[metric].tolist()) for frame in frames.values()]
    return known.scorer(np.stack(rows, axis=1)), None


def check_scores(table: Frame, where: np.ndarray, found: np.ndarray) -> None:
    """Raise unless the predictions give the scores of the table."""
    for (row, column), given in zip(where, found, strict=True):
        stored = table.to_numpy()[row, column]
        if abs(stored - given) > TOLERANCE:
            raise ValueError(
                f"The predictions of {table.index[row]} with seed {table.columns[column]} give "
                f"{given:.5f}, and the table of runs has {stored:.5f}."
            )
