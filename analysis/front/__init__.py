"""The analysis in three calls: `load_results`, `compare` and `judge`."""

import html
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import cost, figures, statistics
from analysis.family import Rule
from analysis.load import results, row
from analysis.report import costs, sections, words
from analysis.report.answers import beside, title
from analysis.report.comparisons import Comparison
from analysis.report.html_tables import Table
from analysis.report.leaderboard import name_baseline
from analysis.report.learning import Histories
from analysis.report.material import Frame, Record, flatten, gather, telling_settings
from analysis.report.overall import Overall
from analysis.report.page import Report
from analysis.statistics import Verdicts
from analysis.task_scores import TaskScores
from experiments.stored.shown import spell

KEYS = ("task", "model", "protocol", "metric")
# Tables of the report, by the names that `Comparisons.as_read` takes.
TABLES: dict[str, Callable[[Report], Table]] = {
    "scores": lambda report: sections.scores(report.found),
    "pairs": lambda report: sections.pairs(report.found),
    "costs": lambda report: costs.costs(costs.joined(frame for _, frame in report.costs)),
    "budgets": lambda report: costs.budgets(report.one_by_one),
    "tuning": lambda report: sections.tuned(report.material),
    "tuning costs": lambda report: costs.tuning_costs(report.material),
}
SHOWN = ("mean", "low", "high", "baseline", "letters", "seeds", "trained", "train_seconds",
         "effective_lr")  # fmt: skip


def load_results(folder: str | Path) -> Frame:
    """One row per finished run below a folder, or of a study, with the settings that differ.

    The columns are those of `analysis.load.load`, and behind them one for each setting of which
    not all runs have the same value, by its dotted name as on the command line (`variant.lr`).
    Numbers are numbers, and lists texts as they are typed. A run that cannot be read is left out
    and named on the standard error stream. Raises ValueError if there is none that can.
    """
    found = results(folder)
    return pd.DataFrame([row(run) for run in found]).join(differing_settings(found))


def differing_settings(runs: list[Record]) -> Frame:
    """A column for each setting of which not all runs have the same value; a row for each run.

    What follows from the name of a run's task, model or method is left out.
    """
    names = telling_settings(runs, flatten(runs))
    columns = {name: [cell_at(run["config"], name) for run in runs] for name in names}
    return pd.DataFrame(columns, index=range(len(runs)))


def cell_at(config: Record, name: str) -> Any:
    """The value of a setting as a cell by which rows can be grouped: lists are texts."""
    value = value_at(config, name)
    return spell(value) if isinstance(value, list | dict) else value


def value_at(config: Record, name: str) -> Any:
    """The value of a setting by its dotted name; None if there is none."""
    for key in name.split("."):
        config = config.get(key) if isinstance(config, dict) else None  # pyright: ignore[reportAssignmentType]
    return config


def compare(
    *folders: str | Path,
    test: str = "crossed",
    alpha: float = 0.05,
    against: str | None = None,
    margin: float | Mapping[str, float] | None = 1.0,
) -> "Comparisons":
    """Compare the methods whose runs lie below some folders, or in a study (outputs/studies/NAME).

    `test`, `alpha`, `against` and `margin` are those of `analysis.family.Rule`; the margin is in
    points. Raises ValueError if there is no finished run.

        found = analysis.compare("outputs/studies/first")
        found                 # which method to use, and the table of means
        found.verdicts        # every pair
        found.plot_scores("mini/sst2")
        found.report("page.html")
    """
    rule = Rule(test=test, alpha=alpha, against=against, margin=margin)
    return Comparisons(Report(gather(*folders), rule))


class Comparisons:
    """The methods of a folder of runs or of a study, compared on each task and over several."""

    def __init__(self, source: Report) -> None:
        self.source = source

    @property
    def answers(self) -> dict[str, str]:
        """Return which method to use, in a sentence for each task and over several."""
        return {answer.title: answer.text for answer in self.source.answers}

    @property
    def sentences(self) -> dict[str, list[str]]:
        """The verdicts in words, by task, and over several tasks (`all tasks`)."""
        found = self.source.found
        said = {
            title(one, found): [words.ground(one), *words.describe_comparison(one)] for one in found
        }
        for whole in self.source.overall:
            name = f"all tasks{beside(whole, self.source.overall)}"
            said[name] = [words.ground_of_all(whole), *describe_all(whole)]
        return said

    @property
    def machines(self) -> list[str]:
        """The machines and stacks of software that the compared runs ran on."""
        return self.source.stacks

    def as_read(self, table: str) -> Frame:
        """A table of the report as it is read there: numbers are texts, with their units.

        `table` is one of `TABLES`; raises ValueError for any other.
        """
        if table not in TABLES:
            raise ValueError(f"The table must be one of {', '.join(TABLES)}, got '{table}'.")
        return TABLES[table](self.source).frame()

    @cached_property
    def verdicts(self) -> Frame:
        """Every pair on each task, and over several tasks (`all tasks`): see `Verdicts.pairs`."""
        parts = [
            one.verdicts.pairs.assign(**named(one))
            for one in self.source.found
            if one.verdicts is not None
        ]
        parts += [
            whole.verdicts.pairs.assign(
                task="all tasks", model=whole.model, protocol=whole.protocol, metric=""
            )
            for whole in self.source.overall
        ]
        if not parts:
            return pd.DataFrame(columns=[*KEYS, *statistics.COLUMNS])
        return pd.concat(parts, ignore_index=True)[[*KEYS, *statistics.COLUMNS]]

    @cached_property
    def table(self) -> Frame:
        """A row for each method on each task: numbers, and a column per setting that differs.

        Scores are as they are stored (0.84, not 84.0); `baseline` is that of one answer to all
        examples. Settings that differ between seeds of a method are None.
        """
        parts = [self.rows_of(one) for one in self.source.found]
        if not parts:
            return pd.DataFrame(columns=[*KEYS, "method", *SHOWN])
        table: Frame = pd.concat(parts, ignore_index=True)
        return table.drop(columns=[c for c in table if table[c].isna().all() and c not in SHOWN])

    def rows_of(self, one: Comparison) -> Frame:
        """The rows of one comparison."""
        table: Frame = one.methods.assign(**named(one), baseline=one.baseline)
        runs = one.runs.groupby("method")
        for column in ("train_seconds", "effective_lr"):
            table[column] = table["method"].map(runs[column].mean())
        own = self.settings.loc[one.runs.index].groupby(one.runs["method"]).agg(single)
        ordered = table[[*KEYS, "method", *SHOWN]]
        return ordered.join(own, on="method")

    @cached_property
    def settings(self) -> Frame:
        """The settings that differ between the compared runs, by their rows."""
        rows = [row for one in self.source.found for row in one.runs.index]
        found = differing_settings([self.source.material.results[row] for row in rows])
        return found.set_axis(pd.Index(rows), axis=0)

    def plot_scores(self, task: str | None = None) -> Axes:
        """Means with their intervals, letters and the baseline, on one task."""
        one = self.one(task)
        axes = figures.scores(one.methods, floor=one.baseline)
        axes.set_xlabel(one.metric)
        axes.set_title(one.task)
        return axes

    def plot_costs(self, cost_name: str = "trained", task: str | None = None) -> Axes:
        """Scores over one of the costs of `analysis.cost.COSTS`, with the Pareto front."""
        one = self.one(task)
        if cost_name not in cost.COSTS:
            raise ValueError(f"The cost must be one of {', '.join(cost.COSTS)}, got '{cost_name}'.")
        parts = self.source.counted if cost_name in cost.COUNTED else self.source.one_by_one
        tables = [table for other, table in parts if other is one]
        if len(tables) > 1:
            cost.one_stack(pd.concat(tables))
        table = tables[0].assign(front=cost.front(tables[0], cost_name))
        axes = figures.pareto(table, cost_name)
        axes.set_title(one.task)
        return axes

    def plot_trade_offs(self, *cost_names: str, task: str | None = None) -> list[Axes]:
        """Scores over several costs side by side, a figure for each machine and stack."""
        one, drawn = self.one(task), []
        for table in [part for other, part in self.source.one_by_one if other is one]:
            known = table.assign(order=table["variant"].map(self.source.methods.index))
            fronts = {name: known.assign(front=cost.front(known, name)) for name in cost_names}
            drawn.append(figures.trade_offs(fronts)[0])
            figures.root(drawn[-1]).suptitle(one.task)
        return drawn

    def plot_profiles(self) -> Axes:
        """Of each method the share of runs above a score, over several tasks."""
        if not self.source.overall:
            raise ValueError("There are no two tasks with the same methods.")
        return figures.profiles(self.source.overall[0].profile)

    def plot_curves(self, quantity: str = "loss", task: str | None = None) -> Axes:
        """Means over the seeds of what the runs logged, by step."""
        one, records = self.one(task), Histories(self.source.material).records
        rows = [
            {"method": method, **record}
            for row, method in one.runs["method"].items()
            for record in records.get(row, [])
        ]
        table = pd.DataFrame(rows)
        if quantity not in table:
            known = ", ".join(column for column in table if column not in ("method", "step"))
            raise ValueError(f"The runs on {one.task} log {known or 'nothing'}, got '{quantity}'.")
        axes = figures.curves(table, quantity)
        axes.set_title(one.task)
        return axes

    def one(self, task: str | None) -> Comparison:
        """The comparison on a task, by its name or its group's; the only one without a name."""
        found = [one for one in self.source.found if task in (None, one.task, one.group)]
        if len(found) != 1:
            names = ", ".join(f"'{one.group}'" for one in self.source.found)
            raise ValueError(f"Name one task of {names}; got {task!r}.")
        return found[0]

    def report(self, path: str | Path = "report.html") -> Path:
        """Write the report on all of it as one page; return its path."""
        path = Path(path)
        folder = os.path.relpath(self.source.material.folder, path.parent)
        path.write_text(self.source.html(Path(folder).as_posix()), encoding="utf-8")
        return path

    @property
    def overall(self) -> list[Overall]:
        """The comparisons over several tasks."""
        return self.source.overall

    def shown(self) -> Frame:
        """Methods by tasks as they are read, scores in points, with the baseline last."""
        columns: dict[str, dict[str, str]] = {}
        last = name_baseline(self.source.found) if self.source.found else ""
        for one in self.source.found:
            cells = {r["method"]: cell(r, one.metric) for r in one.methods.to_dict("records")}
            cells[last] = words.score(one.baseline, one.metric)
            columns[f"{title(one, self.source.found)}, {one.metric}"] = cells
        for whole in self.source.overall[:1]:
            cells = {r["method"]: cell(r, "") for r in whole.methods.to_dict("records")}
            columns = {"all tasks": {**cells, last: words.score(whole.floor, "")}, **columns}
        table = pd.DataFrame(columns).fillna(words.NONE)
        return table.loc[sorted(table.index, key=lambda name: name == last)]

    def __repr__(self) -> str:
        lines = [f"{title}: {text}" for title, text in self.answers.items()]
        return "\n".join([*lines, "", self.shown().to_string()])

    def _repr_html_(self) -> str:
        lines = [
            f"<p><b>{html.escape(title)}</b>: {html.escape(text)}</p>"
            for title, text in self.answers.items()
        ]
        return "".join(lines) + self.shown().to_html(escape=True)


def describe_all(whole: Overall) -> list[str]:
    """All that is said of several tasks together."""
    first = words.advice(whole.verdicts, whole.methods, whole.not_above_floor, "")
    return [*first, *words.sentences(whole.verdicts, ""), *words.tasks_left_out(whole)]


def named(one: Comparison) -> dict[str, str]:
    """Where the methods of a comparison were compared."""
    return {key: getattr(one, key) for key in KEYS}


def cell(row: Record, metric: str) -> str:
    """A mean with its letters."""
    return f"{words.score(row['mean'], metric)} {words.span(row['letters'])}".strip()


def single(values: Frame) -> Any:
    """The one value of a column, None if there are several."""
    return values.iloc[0] if values.map(repr).nunique() == 1 else None


def judge(
    outcomes: TaskScores | Mapping[str, Any], rule: Rule | None = None, metric: str = "mean"
) -> Verdicts:
    """Return which methods differ, from the outcomes of each method's runs on each example.

    `outcomes` has for each method an array [seeds, examples] of scores whose mean is the score of
    a run, such as 1 for a right answer and 0 for a wrong one; a row of NaN is a run that is not
    there. All methods have the same seeds and the same examples in the same order. `metric` names
    the score. What a folder of runs holds is compared by `compare`. Raises ValueError for arrays
    that do not fit each other.
    """
    if isinstance(outcomes, TaskScores):
        return statistics.judge(outcomes, rule)
    arrays = {name: np.asarray(values, dtype=float) for name, values in outcomes.items()}
    shapes = {name: values.shape for name, values in arrays.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 2 for shape in shapes.values()):
        said = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"Every method needs an array [seeds, examples] of one shape, got {said}.")
    values = np.stack([arrays[name] for name in arrays])  # [methods, seeds, examples]
    lacking = np.asarray(np.isnan(values).any(axis=2))
    scores = np.where(lacking, np.nan, values.mean(axis=2))
    return statistics.judge(
        TaskScores(
            task="given",
            metric=metric,
            methods=tuple(arrays),
            seeds=tuple(range(values.shape[1])),
            scores=scores,
            values=np.where(lacking[..., None], np.nan, values).transpose(2, 0, 1),
            lost=np.zeros(scores.shape, dtype=bool),
            settings=tuple((place,) for place in range(len(arrays))),
        ),
        rule,
    )
