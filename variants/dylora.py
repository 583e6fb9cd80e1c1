"""DyLoRA: a LoRA that serves at every rank up to r.  Valipour et al., 2022, arXiv:2210.07558.

In each step the whole model takes one rank b from 1 to r at random: the first b rows of A and
columns of B, with the scale alpha / b. With `frozen`, only row and column b have a gradient, the
paper's faster form; AdamW's moments and its decay still move the others. In the end all r are
there, and the first b of them are a LoRA too, for every b.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Progress, mark_additive
from variants.layerwise import layers_of
from variants.lora import LoRA, LoRALayer
from variants.products import side_product


class DyLoRALayer(LoRALayer):
    """LoRA's layer, of which a training step sees the first b of r ranks."""

    def __init__(self, base: nn.Module, rank: int, scale: float, frozen: bool) -> None:
        super().__init__(base, rank, scale, dropout=0.0)
        self.frozen = frozen
        self.b: Tensor
        self.register_buffer("b", torch.tensor(rank, device=self.A.device))

    def dropping(self) -> bool:
        return self.training and len(self.A) > 1

    def factors(self) -> tuple[Tensor, Tensor, float]:
        return self.first_ranks() if self.dropping() else (self.A, self.B, self.scale)

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        A, B, scale = self.factors()
        return y + side_product(x, A.to(x.dtype), B.to(x.dtype), scale)

    def first_ranks(self) -> tuple[Tensor, Tensor, float]:
        """A, B and s of this step: the first b ranks as they are, and zeros in the place of others.

        With zeros nobody has to know b, which would make a device wait and no compiler can follow.
        """
        ranks = torch.arange(1, len(self.A) + 1, device=self.b.device)
        A, B = self.A, self.B
        if self.frozen:
            last = ranks == self.b
            A = torch.where(last[:, None], A, A.detach())
            B = torch.where(last, B, B.detach())
        share = (ranks <= self.b).to(A.dtype) * len(self.A) / self.b
        return A, B * share, self.scale


@dataclass(frozen=True, kw_only=True)
class DyLoRA(LoRA):
    """LoRA trained at a random rank in every step."""

    any_form: ClassVar[bool] = True

    frozen: bool  # only the last of the ranks of a step trains
    rank_seed: int  # ranks are drawn from it and from the number of the step

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dropout != 0:
            raise ValueError(f"dropout must be 0 here, got {self.dropout}: ranks are what drops.")
        if self.rslora:
            raise ValueError("rslora must be false here: the scale of b ranks is alpha / b.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        layer = DyLoRALayer(linear, self.rank, self.scale, self.frozen)
        layer.b.fill_(self.drawn(1))
        return layer

    def drawn(self, step: int) -> int:
        """The rank of a step, from 1."""
        generator = torch.Generator().manual_seed(self.rank_seed + step)
        return int(torch.randint(1, self.rank + 1, (), generator=generator))

    def after_step(self, model: nn.Module, progress: Progress) -> None:
        for layer in layers_of(model, DyLoRALayer).values():
            layer.b.fill_(self.drawn(progress.step + 1))
