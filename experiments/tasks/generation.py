"""Texts continued by a language model: E2E NLG, and other tables of a source and its texts.

The layout is that of Hu et al., 2021, arXiv:2106.09685, in their code: the source, an end token, a
space and the target, an end token; only the target and its end are trained on.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments import evaluation
from experiments.batches import Continued, flat
from experiments.evaluation import Evaluated
from experiments.generation import Decoding, generate
from experiments.metrics import nlg
from experiments.metrics.base import TextMetric, find_text_metrics, names_of
from experiments.metrics.challenge import group, write_outputs
from experiments.models import LanguageModel, Loaded
from experiments.randomness import numpy_generator
from experiments.tasks.base import Data, Split, Task
from experiments.tasks.sources import Source
from experiments.tasks.tables import HubFiles, Part, Table, check_unicode, near
from experiments.training import Train

log = logging.getLogger(__name__)
SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*(?:,|$)")
# What Hu et al. call three of the slots.
RENAMED = {"eatType": "Type", "familyFriendly": "family friendly", "priceRange": "price"}
LAYOUTS = ("slots", "raw")
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class GenerationTask(Task):
    """A table of sources and texts; several texts of one source are its references."""

    files: dict[str, str]  # split -> file below data.dir
    header: list[str] | None  # column names of files without a header line
    hub: HubFiles | None  # null: the task is only local
    source: str  # column
    target: str  # column
    layout: str  # slots: name[A], area[B] becomes name : A | area : B; raw: as it stands
    label_smoothing: float  # in the loss that is trained on, and in no loss that is reported
    metrics: list[str]  # the primary one first
    score_on: list[str]
    decoding: Decoding

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be {' or '.join(LAYOUTS)}, got '{self.layout}'.")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}.")
        for metric in self.metrics:
            if metric not in (known := names_of(TextMetric)):
                raise ValueError(
                    f"metrics: '{metric}' is not known.{near(metric, known)} "
                    f"These are: {', '.join(known)}."
                )
        if not self.metrics or find_text_metrics(self.metrics)[0].optional:
            raise ValueError("metrics must begin with one that can be had without Java.")

    @property
    def num_outputs(self) -> int:
        return 0

    @property
    def regression(self) -> bool:
        return False

    @property
    def primary(self) -> str:
        return self.metrics[0]

    @property
    def training_metric(self) -> str:
        return "nll"

    def load(self, source: Source, evaluated: bool = True) -> Data:
        table = self.table(source, "train")
        pairs = zip(table.columns[self.source], table.columns[self.target], strict=True)
        train = Split(np.arange(len(table)), list(pairs), None, table.origin, table.sha256)
        score_on = self.score_on if evaluated else []
        return Data(train, {split: self.scored(source, split) for split in score_on}, {})

    def scored(self, source: Source, split: str) -> Split:
        """A split with its references."""
        table = self.table(source, split)
        columns = table.columns
        return grouped(columns[self.source], columns[self.target], table.origin, table.sha256)

    def held_out(self, part: Split) -> Split:
        sources, targets = (list(column) for column in zip(*part.texts, strict=True))
        return grouped(sources, targets, part.origin, part.sha256)

    def table(self, source: Source, split: str) -> Table:
        """The two columns of a split; every cell must be a text."""
        part = Part(
            task=self.name, split=split, columns=[self.source, self.target],
            file=self.files.get(split), header=self.header, hub=self.hub, skip_malformed=False,
        )  # fmt: skip
        table = source.table(part)
        self.check_sources(table)
        check_texts(table, self.target)
        return table

    def check_sources(self, table: Table) -> None:
        """Raise ValueError, naming the row, for a source that cannot be read."""
        check_texts(table, self.source)
        if self.layout == "slots":
            for row, source in enumerate(table.columns[self.source]):
                try:
                    slots(source)
                except ValueError as error:
                    raise ValueError(f"{table.where(row)}: {self.source}: {error}") from None

    def configure(self, loaded: Loaded, name: str) -> None:
        if not isinstance(loaded.model, LanguageModel):
            raise ValueError(
                f"Task '{self.name}' continues texts, and model '{name}' is no language model; "
                "choose model=mini_gpt2 or model=gpt2."
            )
        loaded.model.smoothing = self.label_smoothing
        for metric in find_text_metrics(self.metrics):
            if reason := metric.missing():
                log.info("%s", reason)

    def check(self, loaded: Loaded, data: Data, train: Train) -> None:
        self.decoding.end_tokens(loaded.tokenizer)
        splits = {**data.score, **data.predict}.values()
        sources = {source for split in splits for source, *_ in split.texts}
        longest = max((len(self.prompt(loaded.tokenizer, source)) for source in sources), default=0)
        check_length(longest, train.max_length)
        self.decoding.check_room(longest, loaded.max_length)

    def prompt(self, tokenizer: PreTrainedTokenizerBase, source: str) -> list[int]:
        """The tokens that come before the target."""
        text = slots(source) if self.layout == "slots" else source
        ids: Any = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return [*ids, end_of(tokenizer)]

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, split: Split, max_length: int
    ) -> Continued:
        """A row per source and text; what is longer than `max_length` loses its end, and counts."""
        prompts = {source: self.prompt(tokenizer, source) for source, *_ in split.texts}
        rows = pairs(split)
        words: Any = tokenizer(
            [f" {target}" for _, target in rows], add_special_tokens=False, verbose=False
        )
        ids, given, cut = [], [], 0
        for (source, _), target in zip(rows, words["input_ids"], strict=True):
            whole = [*prompts[source], *target, end_of(tokenizer)]
            check_length(len(prompts[source]), max_length)
            cut += len(whole) > max_length
            ids.append(whole[:max_length])
            given.append(len(prompts[source]))
        lengths = np.array([len(whole) for whole in ids])
        padding = {"input_ids": end_of(tokenizer)}
        return Continued({"input_ids": flat(ids)}, lengths, None, padding, cut, np.array(given))

    def evaluate(self, loaded: Loaded, split: Split, train: Train) -> Evaluated:
        """A text for every source, and the mean loss per token of the texts it has."""
        encoded = self.encode(loaded.tokenizer, split, train.max_length)
        sums = evaluation.outputs(loaded.model, encoded, train.eval_batch_size).sum(axis=0)
        texts = objects(self.continued(loaded, split.texts))
        return Evaluated(split, texts, encoded.truncated, {"loss": float(sums[0] / sums[1])})

    def continued(self, loaded: Loaded, sources: list[tuple[str, ...]]) -> list[str]:
        """A generated text for every source."""
        prompts = [self.prompt(loaded.tokenizer, source) for (source,) in sources]
        end = self.decoding.end_tokens(loaded.tokenizer)
        tokens = generate(loaded.model.backbone, prompts, self.decoding, end)
        return [str(loaded.tokenizer.decode(ids)).strip() for ids in tokens]

    @property
    def given(self) -> list[str]:
        return [self.source]

    def texts(self, table: Table) -> list[tuple[str, ...]]:
        self.check_sources(table)
        return [(source,) for source in table.columns[self.source]]

    def answers(
        self, loaded: Loaded, texts: list[tuple[str, ...]], train: Train
    ) -> Mapping[str, Any]:
        return {"prediction": self.continued(loaded, texts)}

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        return outputs

    def score(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        found = nlg.score(list(outputs), list(labels), self.metrics)
        known = {metric: found[metric] for metric in self.metrics}
        return {metric: value for metric, value in known.items() if value is not None}

    def training_score(self, labels: list[Tensor | None], outputs: list[Tensor]) -> float:
        """The mean loss per token, without smoothing."""
        sums = sum(part.double().sum(dim=0) for part in outputs)
        return float(sums[0] / sums[1]) if isinstance(sums, Tensor) else float("nan")

    def interval(
        self, labels: np.ndarray, outputs: np.ndarray, generator: np.random.Generator
    ) -> tuple[float, float]:
        rows = nlg.statistics(list(outputs), list(labels), [self.primary])[self.primary]
        drawn = generator.integers(len(rows), size=(RESAMPLES, len(rows)))
        (metric,) = find_text_metrics([self.primary])
        low, high = np.quantile(metric.value(rows[drawn]), [0.025, 0.975])
        return float(low), float(high)

    def columns(self, item: Evaluated) -> Mapping[str, Any]:
        """Sources, references and texts, and what each metric counted, for a paired bootstrap."""
        references = list(cast(np.ndarray, item.split.labels))
        rows = nlg.statistics(list(item.outputs), references, self.metrics)
        return {
            "source": [source for (source,) in item.split.texts],
            "label": references,
            "prediction": item.outputs,
            **{metric: list(counts) for metric, counts in rows.items()},
        }

    def write(self, folder: Path, name: str, item: Evaluated) -> None:
        """Write the texts in the challenge's format, which its scorer reads."""
        sources = [source for (source,) in item.split.texts]
        write_outputs(folder / f"outputs-{name}.tsv", sources, list(item.outputs))

    def samples(self, item: Evaluated) -> list[tuple[str, str, str]]:
        """Ten sources, what was generated, and the first reference; the same ones every time."""
        rows = numpy_generator(0, "samples").permutation(len(item.split))[:10]
        references = cast(np.ndarray, item.split.labels)
        return [
            (item.split.texts[row][0], str(item.outputs[row]), references[row][0])
            for row in sorted(rows)
        ]


def check_length(prompt: int, max_length: int) -> None:
    """Raise where a source of so many tokens leaves no place for its text."""
    if prompt >= max_length:
        raise ValueError(
            f"train.max_length={max_length} leaves no room for the text of a source of "
            f"{prompt} tokens."
        )


def check_texts(table: Table, column: str) -> None:
    """Raise unless every cell of the column is a text that is not empty."""
    for row, value in enumerate(table.columns[column]):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{table.where(row)}: {column} must be text, got {value!r}.")
        check_unicode(f"{table.where(row)}: {column}", value)


def end_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that ends a source, and a text."""
    return cast(int, tokenizer.eos_token_id)


def slots(source: str) -> str:
    """The slots of a meaning representation as the authors of LoRA write them.

    Raises ValueError for a text that is not a list of slots.
    """
    found, end = [], 0
    for match in SLOT.finditer(source):
        if match.start() != end:
            break
        name, value = match[1].strip(), match[2].strip()
        found.append(f"{RENAMED.get(name, name)} : {value}")
        end = match.end()
    if end != len(source) or not found:
        raise ValueError(
            f"{source!r} is not a list of slots such as name[...], area[...]; choose "
            "task.layout=raw for texts of another kind."
        )
    return " | ".join(found)


def grouped(sources: list[str], targets: list[str], origin: str, sha256: str) -> Split:
    """One example per source, in the order of the first, its labels the list of its texts."""
    groups = group(sources, targets)
    return Split(
        ids=np.arange(len(groups)),
        texts=[(text,) for text in groups],
        labels=objects(list(groups.values())),
        origin=origin,
        sha256=sha256,
    )


def pairs(split: Split) -> list[tuple[str, str]]:
    """Each source with each of its texts."""
    if split.labels is None:
        return [(source, target) for source, target in split.texts]
    return [
        (source, target)
        for (source, *_), targets in zip(split.texts, split.labels, strict=True)
        for target in targets
    ]


def objects(values: list[Any]) -> np.ndarray:
    """An array with one value in each place, whatever it is."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
