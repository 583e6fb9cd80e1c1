"""Tasks in which a language model continues a text: what they have in common.

Only the continuation and its end are trained on. What is generated is compared with references by
metrics of texts. Metrics of tokens ask how likely the references are, and nothing is generated.
"""

import logging
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from experiments.data.splits import Data, Limits, Split
from experiments.data.tables import HubFiles, Table, check_unicode
from experiments.machine.randomness import numpy_generator
from experiments.metrics import nlg
from experiments.metrics.base import (
    CountedMetric,
    TextMetric,
    TokenMetric,
    find_counted_metric,
    find_text_metrics,
    names_of,
    value_counts,
)
from experiments.models.decoding import Decoding
from experiments.models.inference import Evaluated
from experiments.stored.shown import near
from experiments.tasks.base import Task

if TYPE_CHECKING:  # settings do not wait for torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from experiments.data.batches import PromptedTexts
    from experiments.models.model import Loaded

log = logging.getLogger(__name__)
RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class ContinuedTask(Task):
    """Prompts and what continues them."""

    files: dict[str, str]  # split -> file below data.dir
    header: list[str] | None  # column names of files without a header line
    hub: HubFiles | None  # null: the task is only local
    label_smoothing: float  # in the loss that is trained on, and in no loss that is reported
    metrics: list[str]  # the primary one first
    score_on: list[str]  # splits that are scored
    decoding: Decoding  # how texts are generated

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}.")
        for metric in self.metrics:
            if metric not in (known := names_of(CountedMetric)):
                raise ValueError(
                    f"metrics: '{metric}' is not known.{near(metric, known)} "
                    f"These are: {', '.join(known)}."
                )
        if not self.metrics:
            raise ValueError("metrics must name at least one.")
        tokens = [metric for metric in self.metrics if metric in names_of(TokenMetric)]
        if tokens and len(tokens) < len(self.metrics):
            raise ValueError(
                f"metrics: nothing is generated for '{tokens[0]}', so no metric of texts has a "
                "place beside it."
            )

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
    def generates(self) -> bool:
        """Return whether its metrics are of generated texts."""
        return self.primary in names_of(TextMetric)

    @property
    def training_metric(self) -> str:
        return "nll"

    @abstractmethod
    def pairs(self, split: Split) -> list[tuple[str, str]]:
        """Each prompt with each text that may continue it."""

    @abstractmethod
    def encode_prompt(self, tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
        """The tokens of a prompt."""

    @abstractmethod
    def encode_targets(
        self, tokenizer: "PreTrainedTokenizerBase", pairs: list[tuple[str, str]]
    ) -> list[list[int]]:
        """The tokens that continue each prompt, their end included."""

    def find_answer(self, text: str) -> str:
        """Return the part of a generated text that is compared with the references."""
        return text

    def configure(self, loaded: "Loaded", name: str) -> None:
        from experiments.models.model import LanguageModel

        if not isinstance(loaded.model, LanguageModel):
            raise ValueError(
                f"Task '{self.name}' continues texts, and model '{name}' is no language model; "
                "choose one, such as model=smollm2, model=gpt2 or model=mini_gpt2."
            )
        loaded.model.smoothing = self.label_smoothing
        for metric in find_text_metrics(self.metrics) if self.generates else ():
            if reason := metric.missing():
                if metric.name == self.primary:
                    raise ValueError(f"Runs are compared by the first of metrics. {reason}")
                log.info("%s", reason)

    def check(self, loaded: "Loaded", data: Data, limits: Limits) -> None:
        self.decoding.end_tokens(loaded.tokenizer)
        splits = {**data.score, **data.predict}.values()
        sources = {source for split in splits for source, *_ in split.texts}
        longest = max(
            (len(self.encode_prompt(loaded.tokenizer, source)) for source in sources), default=0
        )
        check_length(longest, limits.max_length)
        self.decoding.check_room(longest, loaded.max_length)

    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", split: Split, max_length: int
    ) -> "PromptedTexts":
        """A row per prompt and text; what is longer than `max_length` loses its end, and counts."""
        return self.encode_pairs(tokenizer, self.pairs(split), max_length)

    def encode_pairs(
        self, tokenizer: "PreTrainedTokenizerBase", pairs: list[tuple[str, str]], max_length: int
    ) -> "PromptedTexts":
        """The same of pairs of a prompt and a text."""
        from experiments.data.batches import PromptedTexts, flat

        prompts = {text: self.encode_prompt(tokenizer, text) for text in dict(pairs)}
        ids, prompt_lengths, cut = [], [], 0
        for (text, _), target in zip(pairs, self.encode_targets(tokenizer, pairs), strict=True):
            whole = [*prompts[text], *target]
            check_length(len(prompts[text]), max_length)
            cut += len(whole) > max_length
            ids.append(whole[:max_length])
            prompt_lengths.append(len(prompts[text]))
        lengths = np.array([len(whole) for whole in ids])
        padding = {"input_ids": end_of(tokenizer)}
        columns = {"input_ids": flat(ids)}
        return PromptedTexts(columns, lengths, None, padding, cut, np.array(prompt_lengths))

    def evaluate(self, loaded: "Loaded", split: Split, limits: Limits) -> Evaluated:
        """A text for every source, and the mean loss per token of the texts it has.

        If nothing is generated, the outputs [n, 2] are the log-probability of all texts of a source
        and the number of their tokens.
        """
        each, truncated = self.losses(loaded, self.pairs(split), limits)
        loss, tokens = each.sum(axis=0)
        if self.generates:
            outputs = objects(self.continued(loaded, split.texts))
        else:
            texts = [len(references) for references in cast(np.ndarray, split.labels)]
            outputs = np.add.reduceat(each, np.cumsum([0, *texts[:-1]])) * [-1, 1]
        return Evaluated(split, outputs, truncated, {"loss": float(loss / tokens)})

    def losses(
        self, loaded: "Loaded", pairs: list[tuple[str, str]], limits: Limits
    ) -> tuple[np.ndarray, int]:
        """The loss and the tokens [n, 2] of the text of each pair, and how many were too long."""
        from experiments.models.likelihoods import losses

        encoded = self.encode_pairs(loaded.tokenizer, pairs, limits.max_length)
        return losses(loaded.model, encoded, limits.batch_size), encoded.truncated

    def continued(self, loaded: "Loaded", sources: list[tuple[str, ...]]) -> list[str]:
        """A generated text for every source."""
        from experiments.models.generation import generate

        prompts = [self.encode_prompt(loaded.tokenizer, source) for source, *_ in sources]
        end = self.decoding.end_tokens(loaded.tokenizer)
        engine = loaded.model.engine.name
        tokens = generate(loaded.model.backbone, prompts, self.decoding, end, engine)
        return [str(loaded.tokenizer.decode(ids)).strip() for ids in tokens]

    def answers(
        self, loaded: "Loaded", texts: list[tuple[str, ...]], limits: Limits
    ) -> Mapping[str, Any]:
        return {"prediction": self.continued(loaded, texts)}

    def compared(self, outputs: np.ndarray) -> list[str]:
        """The answers in generated texts."""
        return [self.find_answer(text) for text in outputs]

    def predict(self, outputs: np.ndarray) -> np.ndarray:
        return outputs

    def score(self, labels: np.ndarray, outputs: np.ndarray) -> dict[str, float]:
        return value_counts(self.count(labels, outputs, self.metrics))

    def count(
        self, labels: np.ndarray, outputs: np.ndarray, metrics: list[str]
    ) -> dict[str, np.ndarray]:
        """The counts of each metric by example [n, columns]; none of one that cannot be had."""
        if self.generates:
            return nlg.statistics(self.compared(outputs), list(labels), metrics)
        return dict.fromkeys(metrics, outputs)

    def training_score(self, labels: "list[Tensor | None]", outputs: "list[Tensor]") -> float:
        """The mean loss per token, without smoothing."""
        from torch import Tensor

        sums = sum(part.double().sum(dim=0) for part in outputs)
        return float(sums[0] / sums[1]) if isinstance(sums, Tensor) else float("nan")

    def interval(
        self, labels: np.ndarray, outputs: np.ndarray, generator: np.random.Generator
    ) -> tuple[float, float]:
        rows = self.count(labels, outputs, [self.primary])[self.primary]
        drawn = generator.integers(len(rows), size=(RESAMPLES, len(rows)))
        low, high = np.quantile(
            find_counted_metric(self.primary).value(rows[drawn]), [0.025, 0.975]
        )
        return float(low), float(high)

    def columns(self, item: Evaluated) -> Mapping[str, Any]:
        """Sources, references and texts, and what each metric counted, for a paired bootstrap."""
        references = cast(np.ndarray, item.split.labels)
        counted = self.count(references, item.outputs, self.metrics)
        return {
            "source": [source for source, *_ in item.split.texts],
            "label": list(references),
            **({"prediction": item.outputs} if self.generates else {}),
            **{metric: list(rows) for metric, rows in counted.items()},
        }

    def write(self, folder: Path, name: str, item: Evaluated) -> None:
        """The table of predictions says all."""

    def samples(self, item: Evaluated) -> list[tuple[str, str, str]]:
        """Ten sources, what was generated, and the first reference; the same ones every time."""
        if not self.generates:
            return []
        rows = numpy_generator(0, "samples").permutation(len(item.split))[:10]
        references = cast(np.ndarray, item.split.labels)
        return [
            (item.split.texts[row][0], str(item.outputs[row]), references[row][0])
            for row in sorted(rows)
        ]


def check_length(prompt: int, max_length: int) -> None:
    """Raise if a source of so many tokens leaves no place for its text."""
    if prompt >= max_length:
        raise ValueError(
            f"limits.max_length={max_length} leaves no room for the text of a source of "
            f"{prompt} tokens."
        )


def check_texts(table: Table, column: str) -> None:
    """Raise unless every cell of the column is a text that is not empty."""
    for row, value in enumerate(table.columns[column]):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"{table.where(row)}: {column} must be text, got {value!r}.")
        check_unicode(f"{table.where(row)}: {column}", value)


def end_of(tokenizer: "PreTrainedTokenizerBase") -> int:
    """The token that ends a source, and a text."""
    if tokenizer.eos_token_id is None:
        raise ValueError(
            "The model's tokenizer has no end token (eos_token), and a text that is continued must "
            "end somewhere."
        )
    return cast(int, tokenizer.eos_token_id)


def objects(values: list[Any]) -> np.ndarray:
    """An array with one value in each place, whatever it is."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
