"""BitFit: only biases train, layer norms' too.  Ben-Zaken et al., 2021, arXiv:2106.10199."""

from dataclasses import dataclass

import torch.nn as nn

from variants.base import Variant, hold_in_float32


@dataclass(frozen=True, kw_only=True)
class BitFit(Variant):
    """Every parameter that is named a bias, and nothing else."""

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        biases = [p for name, p in model.named_parameters() if is_bias(name)]
        if not biases:
            raise ValueError("This model has no biases, so BitFit has nothing to train.")
        for bias in biases:
            bias.requires_grad_(True)
        hold_in_float32(model)


def is_bias(name: str) -> bool:
    """Return whether a parameter is a bias: `bias`, `bias_ih_l0` (LSTM), `q_bias` ..."""
    return "bias" in name.rpartition(".")[2].split("_")
