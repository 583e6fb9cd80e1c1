"""BitFit: only biases train, layer norms' too.  Ben-Zaken et al., 2021, arXiv:2106.10199."""

from dataclasses import dataclass

import torch.nn as nn

from variants.base import Variant


@dataclass(frozen=True, kw_only=True)
class BitFit(Variant):
    """Every parameter named `bias`, and nothing else."""

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        biases = [p for name, p in model.named_parameters() if name.endswith("bias")]
        if not biases:
            raise ValueError("This model has no biases, so BitFit has nothing to train.")
        for bias in biases:
            bias.requires_grad_(True)
