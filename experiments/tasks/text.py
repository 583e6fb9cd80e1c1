"""Classes or a score for one text or a pair: all of GLUE, and a task of your own.

Wang et al., 2018, arXiv:1804.07461, Table 1 for GLUE's tasks and metrics.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data.sources import Source
from experiments.data.splits import Data, Limits, Split
from experiments.data.tables import HubFiles, Part, Table, check_unicode
from experiments.metrics.base import LabelMetric, find_label_metric, names_of
from experiments.stored.shown import near
from experiments.tasks.labelled import LabelledTask

if TYPE_CHECKING:  # settings do not wait for torch
    from experiments.models.model import Loaded


@dataclass(frozen=True, kw_only=True)
class TextTask(LabelledTask):
    """A task on a table: the columns with the texts and the label, and what is scored."""

    files: dict[str, str]  # split -> file below data.dir
    header: dict[str, list[str]] | None  # split -> column names, where its file has no header line
    hub: HubFiles | None  # null: the task is only local
    text: list[str]  # one or two columns
    label: str  # column with the label
    labels: list[str] | None  # values as they stand in the data, in code order; null: a score
    metrics: list[str]  # the primary one first
    score_on: list[str]  # splits that are scored
    predict_on: list[str]  # splits that are predicted, whether they have labels or not
    skip_malformed: bool  # leave out rows with a wrong number of fields, and count them
    allow_empty: bool  # let a text be empty

    def __post_init__(self) -> None:
        if len(self.text) not in (1, 2):
            raise ValueError(f"text must name one or two columns, got {len(self.text)}.")
        check_metrics(self.metrics, self.labels)
        check_classes(self.labels, self.names)
        for split in {*self.score_on} & {*self.predict_on}:
            raise ValueError(
                f"Split '{split}' is in score_on, and so needs no place in predict_on."
            )
        on_hub = self.hub.files if self.hub else {}
        known = sorted(self.files | on_hub)
        for split in ["train", *self.score_on, *self.predict_on]:
            if split not in known:
                raise ValueError(
                    f"Task '{self.name}' has no split '{split}'.{near(split, known)} "
                    f"It has: {', '.join(known)}."
                )

    @property
    def num_outputs(self) -> int:
        return 1 if self.labels is None else len(self.labels)

    @property
    def regression(self) -> bool:
        return self.labels is None

    @property
    def primary(self) -> str:
        return self.metrics[0]

    def load(self, source: Source, evaluated: bool = True) -> Data:
        score, predict = (self.score_on, self.predict_on) if evaluated else ([], [])
        return Data(
            train=self.read(source, "train", labelled=True),
            score={split: self.read(source, split, labelled=True) for split in score},
            predict={split: self.read(source, split, labelled=False) for split in predict},
        )

    def read(self, source: Source, split: str, labelled: bool) -> Split:
        """The examples of one split; without `labelled` the label column is not looked at."""
        table = source.table(
            Part(
                task=self.name,
                split=split,
                columns=[*self.text, self.label] if labelled else self.text,
                file=self.files.get(split),
                header=(self.header or {}).get(split),
                hub=self.hub,
                skip_malformed=self.skip_malformed,
            )
        )
        return Split(
            ids=np.arange(len(table)),
            texts=self.texts(table),
            labels=self.codes(table) if labelled else None,
            origin=table.origin,
            sha256=table.sha256,
            skipped=table.skipped,
        )

    def texts(self, table: Table) -> list[tuple[str, ...]]:
        """The text of each row, or the pair."""
        for column in self.text:
            for row, value in enumerate(table.columns[column]):
                if not isinstance(value, str):
                    raise ValueError(f"{table.where(row)}: {column} must be text, got {value!r}.")
                check_unicode(f"{table.where(row)}: {column}", value)
                if not value.strip() and not self.allow_empty:
                    raise ValueError(f"{table.where(row)}: {column} is empty.")
        return list(zip(*(table.columns[column] for column in self.text), strict=True))

    @property
    def given(self) -> list[str]:
        return self.text

    def answers(
        self, loaded: "Loaded", texts: list[tuple[str, ...]], limits: Limits
    ) -> Mapping[str, Any]:
        """A score, or a class with the probability of each."""
        from scipy.special import softmax

        split = Split(np.arange(len(texts)), texts, None, "given", "")
        outputs = self.evaluate(loaded, split, limits).outputs
        predictions = self.predict(outputs)
        if self.regression:
            return {"prediction": predictions}
        shares = softmax(outputs, axis=1)
        columns = {f"p({name})": shares[:, code] for code, name in enumerate(self.names)}
        return {"prediction": [self.names[code] for code in predictions], **columns}

    def codes(self, table: Table) -> np.ndarray:
        """The class codes, int64, or scores, float32, of all rows."""
        values = table.columns[self.label]
        if self.labels is None:
            numbers = [number(table, row, value) for row, value in enumerate(values)]
            return np.array(numbers, dtype=np.float32)
        known = {label: position for position, label in enumerate(self.labels)}
        return np.array(
            [code(table, row, value, known) for row, value in enumerate(values)], dtype=np.int64
        )

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        if outputs.ndim != 2 or outputs.shape[1] != self.num_outputs:
            raise ValueError(
                f"outputs must have the shape [n, {self.num_outputs}], got {list(outputs.shape)}."
            )
        broken = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
        if len(broken):
            raise ValueError(
                f"The outputs of {len(broken)} of {len(outputs)} examples are not finite, "
                f"the first at position {broken[0]}."
            )
        return outputs[:, 0] if self.regression else outputs.argmax(axis=1)

    def score(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        predictions = self.paired(labels, outputs)
        return {
            name: float(find_label_metric(name).value(labels, predictions)) for name in self.metrics
        }

    def interval(
        self, labels: np.ndarray, outputs: np.ndarray, generator: np.random.Generator
    ) -> tuple[float, float]:
        metric = find_label_metric(self.primary)
        return metric.interval(labels, self.paired(labels, outputs), generator)

    def paired(self, labels: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """The predictions, one for each of the labels."""
        if len(labels) != len(outputs) or not len(labels):
            raise ValueError(f"Got {len(outputs)} outputs for {len(labels)} labels.")
        return self.predict(outputs)


def check_metrics(metrics: list[str], labels: list[str] | None) -> None:
    """Raise unless each metric suits the kind of label."""
    fitting = names_of(LabelMetric, "scores" if labels is None else "classes")
    if not metrics:
        raise ValueError(f"metrics must name at least one of: {', '.join(fitting)}.")
    for metric in metrics:
        if metric not in fitting:
            kind = "a score" if labels is None else "classes"
            raise ValueError(
                f"metrics: '{metric}' does not fit {kind}.{near(metric, fitting)} "
                f"These do: {', '.join(fitting)}."
            )
    if "f1" in metrics and labels is not None and len(labels) != 2:
        raise ValueError(f"metrics: f1 needs two classes, the second positive, got {len(labels)}.")


def check_classes(labels: list[str] | None, names: list[str]) -> None:
    """Raise unless there is one name for each of two or more different labels."""
    if labels is None and names:
        raise ValueError(f"names must be empty for a score, got {', '.join(names)}.")
    if labels is None:
        return
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError(f"labels must be two or more different values, got {', '.join(labels)}.")
    if len(names) != len(labels):
        raise ValueError(f"names must have one entry per label, {len(labels)}, got {len(names)}.")


def code(table: Table, row: int, value: Any, known: dict[str, int]) -> int:
    """The class code of one label: of its value as text, or an integer that is a code itself."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if isinstance(value, bool):  # labels may be written as in JSON or as in Python
        known = {label.lower(): position for label, position in known.items()}
    if text in known and isinstance(value, (str, int)):
        return known[text]
    # Where labels are numbers, an integer that is none of them is a fault, not a code.
    numeric = any(label.lstrip("-").isdigit() for label in known)
    if type(value) is int and 0 <= value < len(known) and not numeric:
        return value
    if value is None or text in ("", "-1"):
        raise ValueError(f"{table.where(row)} has no label ({value!r}), but must have one here.")
    raise ValueError(
        f"{table.where(row)}: unknown label {value!r}.{near(text, known)} "
        f"Known are: {', '.join(known)}."
    )


def number(table: Table, row: int, value: Any) -> float:
    """The score of one row."""
    try:
        score = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"{table.where(row)}: the score must be a number, got {value!r}.")
    return score
