"""Encoder-decoders: the encoder reads a prompt, the decoder predicts what answers it.

A batch is the same stream of prompts and targets that a decoder is given; here it is taken apart.
The encoder's text ends with the end token, which is added where a prompt lacks it.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedConfig, PreTrainedModel

from experiments.data.batches import IGNORED, Batch
from experiments.families.base import family_of


class Parts(NamedTuple):
    """A batch in transformers' form, and which of the decoder's places predict a target."""

    inputs: dict[str, Tensor]  # [n, longest prompt] and [n, longest target]
    predicting: Tensor  # [n, longest target]


def start_of(config: PreTrainedConfig) -> int:
    """The token that the decoder begins with; raises ValueError for a config without one."""
    start = getattr(config, "decoder_start_token_id", None)
    start = config.pad_token_id if start is None else start
    if start is None:
        raise ValueError(f"The config of this {config.model_type} has no decoder_start_token_id.")
    return start


def with_end(prompt: Sequence[int], config: PreTrainedConfig) -> list[int]:
    """A prompt as the encoder reads it: with the end token behind it."""
    end = config.eos_token_id
    return [*prompt] if prompt and prompt[-1] == end else [*prompt, end]


def take_apart(batch: Batch, config: PreTrainedConfig) -> Parts:
    """The prompts for the encoder and the shifted targets for the decoder, padded on the right."""
    assert batch.labels is not None
    lengths, device, start = batch.lengths.tolist(), batch.device, start_of(config)
    rows = zip(batch.columns["input_ids"].split(lengths), batch.labels.split(lengths), strict=True)
    prompts, shifted, counts = [], [], []
    for ids, labels in rows:
        target = ids[labels != IGNORED]
        prompts.append(torch.tensor(with_end(ids[: len(ids) - len(target)].tolist(), config)))
        shifted.append(torch.cat((target.new_tensor([start]), target[:-1])))
        counts.append(len(target))
    pad = config.pad_token_id or 0
    read = pad_sequence(prompts, batch_first=True, padding_value=pad)
    real = pad_sequence([torch.ones_like(one) for one in prompts], batch_first=True)
    given = pad_sequence(shifted, batch_first=True, padding_value=pad)
    places = torch.arange(given.shape[1], device=device)
    inputs = {
        "input_ids": read.to(device), "attention_mask": real.to(device), "decoder_input_ids": given,
    }  # fmt: skip
    return Parts(inputs, places < torch.tensor(counts, device=device)[:, None])


def target_states(backbone: PreTrainedModel, batch: Batch) -> Tensor:
    """The states [m, d] that predict a batch's targets, in the order of the stream."""
    parts = take_apart(batch, backbone.config)
    states = backbone(**parts.inputs).last_hidden_state[parts.predicting]
    return states * family_of(backbone.config).output_scale(backbone.config)


def take_parts(model: Any, other: Any) -> Any:
    """Put the parts of another model into the places of an empty one's, by name; return it.

    transformers keeps these models and those with an output apart, and none is a part of the other.
    """
    for name, _ in list(other.named_children()):
        if hasattr(model, name):
            setattr(model, name, getattr(other, name))
    return model
