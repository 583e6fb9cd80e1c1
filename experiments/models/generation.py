"""Greedy and beam search in batches: by the packed passes, or transformers' generation.

Beam search is the textbook one: a finished text scores its summed log-probability over
length^length_penalty, the length being that of what was generated, with its end; the search goes
on until nothing can beat the best. Where transformers differs, this says so.
"""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from experiments.families.base import family_of
from experiments.models import greedy, seq2seq
from experiments.models.decoding import Decoding


class NoRepeat(LogitsProcessor):
    """Forbids n-grams that the generated part has already; transformers' own counts the prompt."""

    def __init__(self, size: int, prompt: int) -> None:
        self.size, self.prompt = size, prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.clone()
        for row, ids in enumerate(input_ids[:, self.prompt :].tolist()):
            start = len(ids) - self.size + 1
            last = ids[start:] if self.size > 1 else []
            for i in range(max(0, start)):
                if ids[i : i + self.size - 1] == last:
                    scores[row, ids[i + self.size - 1]] = -torch.inf
        return scores


def language_model(backbone: PreTrainedModel) -> PreTrainedModel:
    """The backbone with transformers' language-model head, over the family's output layer.

    Raises ValueError for a model whose head adds a bias, which no loss here does.
    """
    pair = backbone.config.is_encoder_decoder
    with torch.device("meta"):
        model: Any = (AutoModelForSeq2SeqLM if pair else AutoModelForCausalLM).from_config(
            backbone.config
        )
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ValueError(
            f"A model of type '{backbone.config.model_type}' predicts tokens by more than a "
            "product with its last states: it adds a bias, which the loss here does not compute; "
            "as a classifier it can be trained."
        )
    if hasattr(model, model.base_model_prefix):
        setattr(model, model.base_model_prefix, backbone)
    else:
        seq2seq.take_parts(model, backbone)
    model.set_output_embeddings(family_of(backbone.config).output(backbone))
    return model


@torch.no_grad()
def generate(
    backbone: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    end: list[int],
    engine: str = "packed",
) -> list[list[int]]:
    """The generated tokens of each prompt, up to its end and without it.

    Greedy search by the packed passes on a processor, and by transformers else, or if that is the
    `engine`. Raises ValueError for a prompt that leaves too few positions.
    """
    model = language_model(backbone)
    model.eval()
    longest = max(map(len, prompts), default=0)
    decoding.check_room(longest, family_of(backbone.config).max_length(backbone.config))
    if backbone.config.is_encoder_decoder:
        prompts = [seq2seq.with_end(prompt, backbone.config) for prompt in prompts]
    found: dict[int, list[int]] = {}
    greedily = decoding.beams == 1 and not decoding.no_repeat_ngram
    packed = greedily and engine == "packed" and is_packed(backbone, longest + decoding.max_tokens)
    for rows in batches(prompts, decoding.batch_size):
        if packed:
            own = [prompts[row] for row in rows]
            found |= zip(rows, greedy.search(backbone, own, decoding.max_tokens, end), strict=True)
            continue
        for row, tokens in zip(rows, in_batch(model, prompts, rows, decoding, end), strict=True):
            found[row] = tokens[: greedy.first_of(end, tokens)]
    return [found[row] for row in range(len(prompts))]


def is_packed(backbone: PreTrainedModel, tokens: int) -> bool:
    """Return whether a packed pass on a processor computes texts of so many tokens."""
    family, window = family_of(backbone.config), getattr(backbone.config, "sliding_window", None)
    supported = family.causal and family.unsupported(backbone.config) is None
    return supported and backbone.device.type == "cpu" and tokens <= (window or tokens)


def batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Numbers of prompts, those of like length together, the longest first."""
    order = sorted(range(len(prompts)), key=lambda row: -len(prompts[row]))
    return (order[i : i + size] for i in range(0, len(order), size))


def in_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    rows: list[int],
    decoding: Decoding,
    end: list[int],
) -> list[list[int]]:
    """Generate a continuation of each prompt; it includes the padding behind its end."""
    width = max(len(prompts[row]) for row in rows)
    device = next(model.parameters()).device
    # On the left, so that all continue at the same place.
    padded = [[end[0]] * (width - len(prompts[row])) + list(prompts[row]) for row in rows]
    real = [[0] * (width - len(prompts[row])) + [1] * len(prompts[row]) for row in rows]
    # An encoder-decoder gives its answer alone, behind the token that it begins with.
    pair = model.config.is_encoder_decoder
    start = 1 if pair else width
    processors = LogitsProcessorList()
    if decoding.no_repeat_ngram:
        processors.append(NoRepeat(decoding.no_repeat_ngram, start))
    tokens = cast(Any, model).generate(
        torch.tensor(padded, device=device),
        attention_mask=torch.tensor(real, device=device),
        generation_config=GenerationConfig(
            num_beams=decoding.beams,
            length_penalty=decoding.length_penalty,
            early_stopping="never" if decoding.beams > 1 else False,
            max_new_tokens=decoding.max_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end[0],
            bos_token_id=end[0],
            decoder_start_token_id=seq2seq.start_of(model.config) if pair else None,
        ),
        logits_processor=processors,
    )
    return tokens[:, start:].tolist()
