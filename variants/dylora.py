"""DyLoRA: a LoRA that serves at every rank up to r.  Valipour et al., 2022, arXiv:2210.07558.

In each step the whole model takes one rank b from 1 to r at random: the first b rows of A and
columns of B, with the scale alpha / b. With `frozen`, only row and column b have a gradient, the
paper's faster form; AdamW's moments and its decay still move the others. In the end all r are
there, and the first b of them are a LoRA too, for every b.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import Progress
from variants.layerwise import layers_of
from variants.lora import LoRA, LoRALayer


class DyLoRALayer(LoRALayer):
    """LoRA's layer, of which a training step sees the first b of r ranks."""

    def __init__(self, base: nn.Module, rank: int, scale: float, frozen: bool) -> None:
        super().__init__(base, rank, scale, dropout=0.0)
        self.frozen = frozen
        self.b: Tensor
        self.register_buffer("b", torch.tensor(rank, device=self.A.device))

    def dropping(self) -> bool:
        return self.training and (self.frozen or int(self.b) < len(self.A))

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        if not self.dropping():
            return super().update(x, y)
        A, B, scale = self.truncated(int(self.b), self.frozen)
        return y + F.linear(F.linear(x, A.to(x.dtype)), B.to(x.dtype)) * scale

    def truncated(self, b: int, frozen: bool = False) -> tuple[Tensor, Tensor, float]:
        """A [b, d_in], B [d_out, b] and alpha / b; `frozen` lets only the last of them train."""
        A, B = self.A[:b], self.B[:, :b]
        if frozen:
            A = torch.cat((A[:-1].detach(), A[-1:]))
            B = torch.cat((B[:, :-1].detach(), B[:, -1:]), dim=1)
        return A, B, self.scale * len(self.A) / b


@dataclass(frozen=True, kw_only=True)
class DyLoRA(LoRA):
    """LoRA trained at a random rank in every step."""

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
