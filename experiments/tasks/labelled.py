"""Tasks with one label per example, a class or a score: what they have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data.splits import Limits, Split
from experiments.models import inference
from experiments.models.inference import Evaluated
from experiments.tasks.base import Task

if TYPE_CHECKING:  # settings do not wait for torch
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from experiments.data.batches import Encoded
    from experiments.models.model import Loaded


@dataclass(frozen=True, kw_only=True)
class LabelledTask(Task):
    """The model gives outputs [n, num_outputs], and the task predicts from them."""

    @property
    def training_metric(self) -> str:
        return self.primary

    def configure(self, loaded: "Loaded", name: str) -> None:
        """Any model with a head will do."""

    def encode(
        self, tokenizer: "PreTrainedTokenizerBase", split: Split, max_length: int
    ) -> "Encoded":
        from experiments.data.batches import encode

        return encode(tokenizer, split, max_length)

    def evaluate(self, loaded: "Loaded", split: Split, limits: Limits) -> Evaluated:
        encoded = self.encode(loaded.tokenizer, split, limits.max_length)
        found = inference.outputs(loaded.model, encoded, limits.batch_size)
        return Evaluated(split, found, encoded.truncated)

    def training_score(self, labels: "list[Tensor | None]", outputs: "list[Tensor]") -> float:
        import torch

        known = np.concatenate([part.numpy() for part in labels if part is not None])
        return self.score(known, torch.cat(outputs).cpu().numpy())[self.primary]

    def write(self, folder: Path, name: str, item: Evaluated) -> None:
        """The table of predictions says all."""

    def samples(self, item: Evaluated) -> list[tuple[str, str, str]]:
        return []

    def columns(self, item: Evaluated) -> Mapping[str, Any]:
        return {
            "label": np.nan if item.split.labels is None else item.split.labels,
            "prediction": self.predict(item.outputs),
            "outputs": list(item.outputs),
        }
