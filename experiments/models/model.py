"""A backbone with plain linear layers, and the task head beside it.

Backbone and head are built apart: a method sees the backbone only, and the head is the same for
every method at one seed.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from experiments.backbones.heads import NoHead, PooledHead
from experiments.backbones.language import next_token_loss
from experiments.data.batches import IGNORED, Batch
from experiments.families.base import family_of
from experiments.models import seq2seq
from experiments.models.engine import Engine
from variants.base import at_least_float32


class Model(nn.Module):
    """A backbone, the head on its last hidden states, and how the backbone is run."""

    def __init__(self, backbone: PreTrainedModel, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        unpacked = family_of(backbone.config).unsupported(backbone.config)
        self.engine = Engine("packed" if unpacked is None else "transformers")

    def states(self, batch: Batch, places: np.ndarray) -> Tensor:
        """The last hidden states [m, width] of the tokens at these places [m], at least float32."""
        return at_least_float32(self.engine.states(self.backbone, batch, places))

    def summaries(self, batch: Batch) -> Tensor:
        """Return the head's input of each text [n, width]: one token's last state, or the mean."""
        ends = np.cumsum(batch.lengths)
        if self.head.reads != "mean":
            last = self.head.reads == "last"
            return self.states(batch, ends - 1 if last else ends - batch.lengths)
        states = self.states(batch, np.arange(batch.tokens))
        lengths = torch.from_numpy(batch.lengths).to(states.device)
        rows = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths)
        sums = states.new_zeros(len(lengths), states.shape[1]).index_add(0, rows, states)
        return sums / lengths[:, None]

    def forward(self, batch: Batch) -> Tensor:
        """Outputs [n, num_outputs], or without a head the states of all tokens."""
        if isinstance(self.head, NoHead):
            return self.states(batch, np.arange(batch.tokens))
        return self.head(self.summaries(batch))

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the examples' losses, and the outputs [n, num_outputs]."""
        outputs = self(batch)
        if batch.labels is None:
            raise ValueError("A batch without labels has no loss.")
        if outputs.shape[1] == 1:
            return F.mse_loss(outputs[:, 0], batch.labels, reduction="sum"), outputs
        return F.cross_entropy(outputs, batch.labels, reduction="sum"), outputs


class LanguageModel(Model):
    """A backbone whose embedding table predicts the next token; it has no head to train."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__(backbone, NoHead())
        self.smoothing = 0.0  # of the labels, in the loss that is trained on

    def forward(self, batch: Batch) -> Tensor:
        """Per example [n, 2]: the summed negative log-likelihood of its targets, their number."""
        return self.loss(batch)[1]

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the targets' smoothed losses, and what `forward` gives."""
        if batch.labels is None:
            raise ValueError("A batch without targets has no loss.")
        places = (batch.labels != IGNORED).nonzero()[:, 0]
        where = places.cpu().numpy()
        # Only at the targets are the many logits computed.
        hidden = self.target_states(batch, where)
        table = family_of(self.backbone.config).output(self.backbone).weight
        total, losses = next_token_loss(hidden, table, batch.labels[places], self.smoothing)
        rows = np.repeat(np.arange(len(batch.rows)), batch.lengths)[where]
        rows = torch.from_numpy(rows).to(batch.device)
        counts = torch.stack((losses, torch.ones_like(losses)), dim=1)
        return total, losses.new_zeros(len(batch.rows), 2).index_add(0, rows, counts)

    def target_states(self, batch: Batch, places: np.ndarray) -> Tensor:
        """The states [m, d] that predict the tokens at these places [m] of the stream."""
        if self.backbone.config.is_encoder_decoder:
            return seq2seq.target_states(self.backbone, batch)
        return self.engine.states(self.backbone, batch, places - 1)


def assemble(backbone: PreTrainedModel, num_outputs: int, reads: str | None) -> Model:
    """The backbone with a new head of this width, or, with none, what it is without one.

    The head is a projection of what it `reads`, or the family's own.
    """
    family = family_of(backbone.config)
    if num_outputs == 0 and family.predicts_tokens(backbone.config):
        return LanguageModel(backbone)
    if not num_outputs:
        return Model(backbone, NoHead())
    if reads is not None:
        return Model(backbone, PooledHead(backbone.config.hidden_size, num_outputs, reads))
    return Model(backbone, family.head(backbone.config, num_outputs))


@dataclass(frozen=True)
class Loaded:
    """A model ready to be adapted, and its tokenizer."""

    model: Model
    tokenizer: PreTrainedTokenizerBase
    max_length: int  # tokens that the backbone has positions for

    @property
    def width(self) -> int:
        """Of the hidden states."""
        return self.model.backbone.config.hidden_size
