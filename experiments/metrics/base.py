"""The interface of a metric: one file beside this one, with an object for each of its metrics.

`METRICS` of a file lists them, and `find_metric` finds them by name. A metric of labels has a value
for labels and predictions; a metric of texts or of tokens has counts for each example and a value
of their sums.
Undefined cases (0 / 0) count as 0.0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Literal

import numpy as np

import experiments.metrics as package
from experiments.metrics.resampling import FromSums, Scorer, additive, by_value

RESAMPLES = 1000
BATCH = 100  # resamples held in memory at once

Words = list[str]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How well a run did on a split, as one number; higher is better."""

    name: str
    bounds: tuple[float, float] = (0.0, 1.0)  # the lowest and the highest that a score can be
    raw: bool = False  # a score is printed as it is, and not in points, 100 times as large

    @property
    def scale(self) -> float:
        """The factor from a score to what is printed."""
        return 1.0 if self.raw else 100.0


@dataclass(frozen=True, kw_only=True)
class LabelMetric(Metric):
    """A metric of labels and predictions, both class codes or both numbers."""

    of: Literal["classes", "scores"]
    # Labels and predictions with the examples on the last axis, which `axis` names too.
    value: Callable[..., np.ndarray]
    # A faster way to the same on many resamples: labels [n] and predictions [n, ...].
    resample: Callable[[np.ndarray, np.ndarray], Scorer] | None = None
    one_answer: bool = True  # one answer to all examples scores as its code does, not always zero

    def scorer(self, labels: np.ndarray, predictions: np.ndarray) -> Scorer:
        """The scores of runs [...], from labels [n] and predictions [n, ...], on any resample."""
        return (self.resample or by_value(self.value))(labels, predictions)

    def floor(self, labels: np.ndarray) -> Scorer:
        """The best single answer to all examples, as the only run."""
        codes = np.unique(labels) if self.one_answer else labels[:1]
        answers = np.tile(codes, (len(labels), 1))
        best = int(self.scorer(labels, answers).observed().argmax())
        return self.scorer(labels, answers[:, best])

    def interval(
        self, labels: np.ndarray, predictions: np.ndarray, generator: np.random.Generator
    ) -> tuple[float, float]:
        """Ends of the 95 % percentile bootstrap interval over examples; one has no width."""
        if len(labels) < 2:
            value = float(self.value(labels, predictions))
            return value, value
        from scipy import stats  # takes half a second, so only where it is used

        result = stats.bootstrap(
            (labels, predictions),
            self.value,
            paired=True,
            vectorized=True,
            axis=-1,
            n_resamples=RESAMPLES,
            batch=BATCH,
            method="percentile",
            rng=generator,
        )
        return float(result.confidence_interval.low), float(result.confidence_interval.high)


@dataclass(frozen=True, kw_only=True)
class CountedMetric(Metric):
    """A metric from rows of counts, one for each example.

    A bootstrap over examples takes these rows, and is exact.
    """

    columns: tuple[str, ...]  # of the rows
    of_sums: FromSums  # the value, from sums over examples [..., columns] and their number

    def value(self, rows: np.ndarray) -> np.ndarray:
        """The metric over examples [..., examples, columns] -> [...].

        So `rows[indices]` with indices [resamples, examples] gives a score for each resample, and
        `rows[:, None]` one for each example.
        """
        return self.of_sums(np.sum(rows, axis=-2), rows.shape[-2])

    def scorer(self, rows: np.ndarray) -> Scorer:
        """The scores of runs [...], from their counts [n, ..., columns], on any resample."""
        return additive(rows, self.of_sums)


@dataclass(frozen=True, kw_only=True)
class TextMetric(CountedMetric):
    """A metric of generated texts and their references."""

    words: Callable[[str], Words]  # what a text is counted by
    rows: Callable[[list[Words], list[list[Words]]], np.ndarray]  # of outputs and references
    missing: Callable[[], str | None] = lambda: None  # what it needs and this machine lacks


@dataclass(frozen=True, kw_only=True)
class TokenMetric(CountedMetric):
    """A metric of the tokens of reference texts, for which no text is generated.

    Its rows are the sum of the logarithms of the tokens' probabilities, and their number.
    """


@cache
def list_metrics() -> dict[str, Metric]:
    """Every metric by name."""
    modules = (one.name for one in iter_modules(package.__path__))
    lists = (
        getattr(import_module(f"{package.__name__}.{name}"), "METRICS", ()) for name in modules
    )
    return {metric.name: metric for metrics in lists for metric in metrics}


def find_metric(name: str) -> Metric:
    """The metric of this name; raises ValueError if there is none."""
    known = list_metrics()
    if name not in known:
        raise ValueError(f"metric must be one of {', '.join(sorted(known))}, got '{name}'.")
    return known[name]


def names_of(kind: type[Metric], of: str | None = None) -> list[str]:
    """The names of the metrics of a kind, of labels those for classes or for scores."""
    return [
        name
        for name, metric in list_metrics().items()
        if isinstance(metric, kind) and (of is None or getattr(metric, "of", None) == of)
    ]


def find_label_metric(name: str) -> LabelMetric:
    """The metric of labels of this name; raises ValueError if there is none."""
    metric = find_metric(name)
    if not isinstance(metric, LabelMetric):
        of = "texts" if isinstance(metric, TextMetric) else "tokens"
        raise ValueError(f"'{name}' is a metric of {of}, and these are labels.")
    return metric


def find_counted_metric(name: str) -> CountedMetric:
    """The metric with counts of this name; raises ValueError if there is none."""
    metric = find_metric(name)
    if not isinstance(metric, CountedMetric):
        raise ValueError(f"'{name}' is a metric of labels, and counts nothing in texts.")
    return metric


def value_counts(counted: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The value of each metric by name, from its counts [n, columns]."""
    return {name: float(find_counted_metric(name).value(rows)) for name, rows in counted.items()}


def find_text_metrics(names: Sequence[str]) -> list[TextMetric]:
    """The metrics of texts of these names; raises ValueError for one that is none."""
    found = []
    for name in dict.fromkeys(names):
        metric = find_metric(name)
        if not isinstance(metric, TextMetric):
            of = "labels" if isinstance(metric, LabelMetric) else "tokens"
            raise ValueError(f"'{name}' is a metric of {of}, and these are texts.")
        found.append(metric)
    return found
