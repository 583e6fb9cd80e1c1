"""Forgetting: the loss of held-out general text before and after training.

The loss is the mean over all tokens that have one before them in their text, in nats, and its
exponential the perplexity. Texts are tokenised as the model's tokenizer does by itself, its special
tokens included.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from experiments.data.batches import PromptedTexts, encode
from experiments.data.splits import Limits, Split
from experiments.families.base import OUTPUT, family_of
from experiments.models import inference
from experiments.models.forgetting import Forgetting
from experiments.models.loading import check_output
from experiments.models.model import LanguageModel, Loaded


@dataclass(frozen=True)
class HeldOut:
    """Texts as a model reads them, and what it made of them before training."""

    texts: PromptedTexts
    loss_before: float


def prepare(settings: Forgetting, loaded: Loaded, name: str, limits: Limits) -> HeldOut:
    """Measure the pretrained model.

    Raises ValueError for a model that predicts no words, or texts that leave nothing to predict.
    """
    check_model(loaded, name)
    texts = encode_texts(loaded, settings.read(), limits.max_length)
    if not len(texts):
        raise ValueError(f"forgetting.file: no text in {settings.file} has two tokens.")
    loss = mean_loss(loaded, texts, limits.batch_size)
    if not math.isfinite(loss):
        raise ValueError(f"{name} as it was pretrained has the loss {loss} on {settings.file}.")
    return HeldOut(texts, loss)


def check_model(loaded: Loaded, name: str) -> None:
    """Raise ValueError unless the model predicts words by a layer that is loaded."""
    backbone, need = loaded.model.backbone, "forgetting.file needs a model that predicts words"
    if backbone.config.is_encoder_decoder:
        raise ValueError(
            f"forgetting.file needs a model that goes on with a text, and {name} answers one; "
            "leave it null."
        )
    if not family_of(backbone.config).predicts_tokens(backbone.config):
        raise ValueError(f"{need}, and {name} is none; leave it null.")
    if not hasattr(backbone, OUTPUT) and not backbone.config.tie_word_embeddings:
        raise ValueError(
            f"{need}; the layer of {name} over words is not its embedding table, and is not loaded "
            "for a task with a head; leave it null."
        )
    if not isinstance(loaded.model, LanguageModel):  # of one it is checked already
        check_output(backbone)


def encode_texts(loaded: Loaded, split: Split, max_length: int) -> PromptedTexts:
    """The texts of two tokens or more; every token but the first of a text is to be predicted."""
    found = encode(loaded.tokenizer, split, max_length)
    long = np.flatnonzero(found.lengths > 1)
    ids = found.columns["input_ids"][found.token_positions(long)]
    padding = {"input_ids": found.padding["input_ids"]}
    first = np.ones(len(long), dtype=np.int64)
    return PromptedTexts(
        {"input_ids": ids}, found.lengths[long], None, padding, found.truncated, first
    )


def mean_loss(loaded: Loaded, texts: PromptedTexts, batch_size: int) -> float:
    """The mean loss per predicted token, in nats."""
    predicting = LanguageModel(loaded.model.backbone)
    predicting.engine = loaded.model.engine
    sums = inference.outputs(predicting, texts, batch_size).sum(axis=0, dtype=np.float64)
    return float(sums[0] / sums[1])


def not_finite(losses: Mapping[str, float] | None) -> str | None:
    """Error message if the loss after training is not finite, else None."""
    if losses is None or math.isfinite(losses["loss_after"]):
        return None
    return f"The loss on the general text is {losses['loss_after']} after training."


def compare(held_out: HeldOut, loaded: Loaded, batch_size: int) -> dict[str, float | int]:
    """The section of the result: the losses before and after training, and over how much text."""
    texts = held_out.texts
    return {
        "texts": len(texts),
        "tokens": texts.num_labels(np.arange(len(texts))),
        "truncated": texts.truncated,
        "loss_before": held_out.loss_before,
        "loss_after": mean_loss(loaded, texts, batch_size),
    }
