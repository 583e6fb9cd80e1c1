"""Task heads: small modules that families of backbones choose from, trained by every method."""

from collections.abc import Callable, Mapping

import torch
import torch.nn as nn
from torch import Tensor


class FirstTokenHead(nn.Module):
    """RoBERTa's and BERT's head: dropout, dense, tanh, dropout, projection of the first token.

    BERT has its pooler in the place of the dense layer and no dropout before it; ELECTRA has
    another activation.
    """

    reads = "first"

    def __init__(
        self, width: int, num_outputs: int, dropout: float, before: bool,
        activation: Callable[[Tensor], Tensor] = torch.tanh,
    ) -> None:  # fmt: skip
        super().__init__()
        self.activation = activation
        self.dense = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, num_outputs)
        self.dropout = nn.Dropout(dropout)
        self.before = before

    def forward(self, hidden: Tensor) -> Tensor:
        """Outputs [n, num_outputs] from the first tokens' states [n, width]."""
        first = self.dropout(hidden) if self.before else hidden
        return self.out_proj(self.dropout(self.activation(self.dense(first))))


class LastTokenHead(nn.Module):
    """GPT-2's head: a projection of the last real token, without a bias."""

    reads = "last"

    def __init__(self, width: int, num_outputs: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, num_outputs, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        """Outputs [n, num_outputs] from the last tokens' states [n, width]."""
        return self.score(hidden)


class PooledHead(nn.Module):
    """A projection of what it reads, for models whose own classifier is built otherwise."""

    def __init__(self, width: int, num_outputs: int, reads: str = "first") -> None:
        super().__init__()
        self.reads = reads
        self.score = nn.Linear(width, num_outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """Outputs [n, num_outputs] from states [n, width]."""
        return self.score(hidden)


class NoHead(nn.Module):
    """In the place of a head, where the backbone itself gives the outputs."""


def as_in_transformers(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """A head's tensors under the names that transformers' classifiers give its modules."""
    split = {name: name.rpartition(".") for name in state}
    return {f"{names[split[n][0]]}.{split[n][2]}": tensor for n, tensor in state.items()}


def from_transformers(state: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """The head's tensors among those of a classifier of transformers."""
    ours = {theirs: name for name, theirs in names.items()}
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
