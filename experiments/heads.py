"""Task heads: one small module per family of backbones, trained by every method."""

from collections.abc import Mapping

import torch
import torch.nn as nn
from torch import Tensor
from transformers import PreTrainedConfig

FAMILIES = ("roberta", "bert", "gpt2")
LANGUAGE_MODELS = ("gpt2",)  # those whose embedding table predicts the next token


class FirstTokenHead(nn.Module):
    """RoBERTa's and BERT's head: dropout, dense, tanh, dropout, projection of the first token.

    BERT has its pooler in the place of the dense layer and no dropout before it.
    """

    def __init__(self, width: int, num_outputs: int, dropout: float, before: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, num_outputs)
        self.dropout = nn.Dropout(dropout)
        self.before = before

    def forward(self, hidden: Tensor) -> Tensor:
        """Outputs [n, num_outputs] from the first tokens' states [n, width]."""
        first = self.dropout(hidden) if self.before else hidden
        return self.out_proj(self.dropout(torch.tanh(self.dense(first))))


class LastTokenHead(nn.Module):
    """GPT-2's head: a projection of the last real token, without a bias."""

    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, num_outputs, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Outputs [n, num_outputs] from the last tokens' states [n, width]."""
        return self.score(hidden)


class NoHead(nn.Module):
    """In the place of a head, where the backbone itself gives the outputs."""


def check_family(where: str, kind: str | None) -> None:
    """Raise ValueError for a family of models that has no head here."""
    if kind not in FAMILIES:
        raise ValueError(
            f"{where} is of a model of type '{kind}', and there is no head for it; "
            f"known are: {', '.join(FAMILIES)}."
        )


def build_head(config: PreTrainedConfig, num_outputs: int) -> nn.Module:
    """The head that the model's family has for classification and regression, if there is one."""
    if num_outputs == 0:
        return NoHead()
    if config.model_type == "gpt2":
        return LastTokenHead(config.n_embd, num_outputs)
    dropout = config.classifier_dropout
    dropout = config.hidden_dropout_prob if dropout is None else dropout
    return FirstTokenHead(config.hidden_size, num_outputs, dropout, config.model_type == "roberta")


# What transformers calls the modules of these heads.
IN_TRANSFORMERS = {
    "roberta": {"dense": "classifier.dense", "out_proj": "classifier.out_proj"},
    "bert": {"dense": "bert.pooler.dense", "out_proj": "classifier"},
    "gpt2": {"score": "score"},
}


def as_in_transformers(state: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """A head's tensors under the names that transformers' classifiers give them."""
    names = IN_TRANSFORMERS[family]
    split = {name: name.rpartition(".") for name in state}
    return {f"{names[split[n][0]]}.{split[n][2]}": tensor for n, tensor in state.items()}


def from_transformers(state: Mapping[str, Tensor], family: str) -> dict[str, Tensor]:
    """The head's tensors among those of a classifier of transformers."""
    ours = {theirs: name for name, theirs in IN_TRANSFORMERS[family].items()}
    split = {name: name.rpartition(".") for name in state}
    return {
        f"{ours[module]}.{part}": state[name]
        for name, (module, _, part) in split.items()
        if module in ours and part in ("weight", "bias")
    }


@torch.no_grad()
def initialise(head: nn.Module, std: float, generator: torch.Generator) -> None:
    """Draw the head's matrices from N(0, std^2) and zero its biases, as transformers does."""
    for parameter in head.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0.0, std, generator=generator)
        else:
            parameter.zero_()
