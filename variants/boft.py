"""BOFT: OFT whose rotation is a butterfly of sparse ones.  Liu et al., 2023, arXiv:2311.06243.

W = diag(s) W0 R^T, where R is a product of m rotations of blocks that reach further each time:
block (g, j) of factor i takes the half-blocks g 2^(i + 1) + j and 2^i further on. s rescales
outputs before the bias. PEFT's blocks are full matrices of which the skew part counts; on a machine
without its compiled kernels it takes m = 1, whatever is asked for.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import AdapterLayer, Foreign, Variant, at_least_float32
from variants.layerwise import Layerwise, check_fields, exportable
from variants.oft import apply_blocks, cayley, skew
from variants.peft_forms import check_keys


class BOFTLayer(AdapterLayer):
    """y = s * (W0 R^T x) + b, with q [m, blocks, b (b - 1) / 2] above the diagonals."""

    def __init__(self, base: nn.Module, block: int, factors: int) -> None:
        super().__init__(base)
        like, (d_out, d_in) = at_least_float32(self.W0), self.W0.shape
        if d_in % (block << factors - 1):
            raise ValueError(
                f"block * 2^(factors - 1) must divide d_in={d_in}, got block={block} and "
                f"factors={factors}."
            )
        self.block = block
        self.q = nn.Parameter(like.new_zeros(factors, d_in // block, block * (block - 1) // 2))
        self.s = nn.Parameter(like.new_ones(d_out))

    def turns(self) -> list[Tensor]:
        """R_i - I by block for every factor, [blocks, b, b] each."""
        together = cayley(skew(self.q.flatten(0, 1), self.block))
        return list(together.unflatten(0, self.q.shape[:2]))

    def turn(self) -> Tensor:
        """R - I, by the groups of b 2^(m - 1) inputs that the factors mix, [groups, size, size]."""
        size = self.block << len(self.q) - 1
        rows = torch.eye(size, dtype=self.q.dtype, device=self.q.device)
        rows = rows.repeat(1, self.W0.shape[1] // size)  # those of all groups, side by side
        change = torch.zeros_like(rows)
        for i, turn in enumerate(self.turns()):
            change = change + butterfly(rows + change, turn, i)
        return change.unflatten(1, (-1, size)).transpose(0, 1)

    def merged_weight(self) -> Tensor:
        W0 = at_least_float32(self.W0)
        return self.s[:, None] * (W0 + apply_blocks(W0, self.turn().mT))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x + apply_blocks(x, self.turn().to(x.dtype)))
        # The bias is not part of the weight, so it is not rescaled.
        weighed = y if self.b0 is None else y - self.b0.to(x.dtype)
        return torch.addcmul(y, (self.s - 1).to(x.dtype), weighed)

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return self.forward(x)


def butterfly(x: Tensor, R: Tensor, i: int) -> Tensor:
    """x [..., d_in] times the blocks R [blocks, b, b] of factor i, and back in its order."""
    half = R.shape[-1] // 2
    # Half-blocks as [g, first or second, j]: a block takes both of one (g, j).
    pairs = x.unflatten(-1, (-1, 2, 1 << i, half)).transpose(-3, -2)
    return apply_blocks(pairs.flatten(-4), R).view(pairs.shape).transpose(-3, -2).flatten(-4)


@dataclass(frozen=True, kw_only=True)
class BOFT(Layerwise):
    """A rotation that is dense after few sparse factors, and a scale for each output."""

    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset(
        {"boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "boft_dropout"}
    )

    block: int  # b, even
    factors: int  # m

    def __post_init__(self) -> None:
        if self.block < 2 or self.block % 2:
            raise ValueError(f"block must be even, got {self.block}.")
        if self.factors < 1:
            raise ValueError(f"factors must be at least 1, got {self.factors}.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        return BOFTLayer(linear, self.block, self.factors)

    def to_peft(self, model: nn.Module) -> Foreign:
        layers = {}
        for name, layer in exportable(model, BOFTLayer).items():
            full = skew(layer.q.detach().flatten(0, 1), self.block)
            layers[name] = {
                # Its Cayley transform has Q with the other sign.
                "boft_R": -full.unflatten(0, layer.q.shape[:2]),
                "boft_s": layer.s.detach().unsqueeze(1),
            }
        config = {"boft_block_size": self.block, "boft_n_butterfly_factor": self.factors}
        config |= {"peft_type": "BOFT", "boft_dropout": 0.0}
        return Foreign(library="peft", config=config, layers=layers)

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "BOFT":
            return None
        check_fields(form, {"boft_dropout": 0.0})
        check_keys(form, {"boft_R", "boft_s"})
        found, sizes = {}, set()
        for name, tensors in form.layers.items():
            P = tensors["boft_R"]
            rows, columns = torch.triu_indices(P.shape[-1], P.shape[-1], 1)
            found[f"{name}.q"] = ((P.mT - P) / 2)[..., rows, columns]
            found[f"{name}.s"] = tensors["boft_s"][:, 0]
            sizes.add((P.shape[-1], len(P)))
        if len(sizes) != 1:
            raise ValueError(
                "The checkpoint has blocks of several sizes, and one for all layers is read here."
            )
        block, factors = sizes.pop()
        return BOFT(lr=0.0, block=block, factors=factors, targets=list(form.layers)), found
