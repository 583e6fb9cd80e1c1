"""OFT: W = W0 R^T, with an orthogonal R of blocks that turns the inputs.

Qiu et al., 2023, arXiv:2306.07280; Qiu et al., 2025, arXiv:2506.19847. Each block is the Cayley
transform R_k = (I + Q_k)(I - Q_k)^-1 of a skew matrix. PEFT's default is a series that approaches
it for small Q; its exact form has Q with the other sign.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import AdapterLayer, Foreign, Variant, at_least_float32
from variants.layerwise import Layerwise, check_fields, exportable
from variants.peft_forms import state

NAMES = {"q": "oft_R.weight"}
LEAST_TERMS = 4  # with fewer the series is another one, in PEFT


class OFTLayer(AdapterLayer):
    """y = W0 R^T x, with q [blocks, b (b - 1) / 2] above the diagonals of the Q_k."""

    def __init__(self, base: nn.Module, block: int, terms: int) -> None:
        super().__init__(base)
        like, d_in = at_least_float32(self.W0), self.W0.shape[1]
        if d_in % block:
            raise ValueError(f"block must divide d_in={d_in}, got {block}.")
        self.block, self.terms = block, terms
        self.q = nn.Parameter(like.new_zeros(d_in // block, block * (block - 1) // 2))

    def turn(self) -> Tensor:
        """R - I by block, [blocks, b, b]."""
        return cayley(skew(self.q, self.block), self.terms)

    def merged_weight(self) -> Tensor:
        W0 = at_least_float32(self.W0)
        return W0 + apply_blocks(W0, self.turn().mT)

    def forward(self, x: Tensor) -> Tensor:
        # The change alone is made in the dtype of x: I + little is I in bfloat16.
        return self.base(x + apply_blocks(x, self.turn().to(x.dtype)))

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return self.forward(x)


def skew(q: Tensor, size: int) -> Tensor:
    """Skew matrices [n, size, size] from what stands above their diagonals, row by row."""
    rows, columns = torch.triu_indices(size, size, 1, device=q.device)
    upper = q.new_zeros(len(q), size, size)
    upper[:, rows, columns] = q
    return upper - upper.mT


def cayley(Q: Tensor, terms: int = 0) -> Tensor:
    """(I + Q)(I - Q)^-1 - I for skew Q [n, b, b]; with `terms`, the first ones of its series."""
    if not terms:
        # R - I = 2 Q (I - Q)^-1, and without a difference of nearly equal numbers.
        identity = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
        return 2 * torch.linalg.solve(identity - Q, Q)
    power, total = Q, 2 * Q
    for _ in range(terms - 3):
        power = power @ Q
        total = total + 2 * power
    return total + power @ Q


def apply_blocks(x: Tensor, R: Tensor) -> Tensor:
    """x [..., d_in] times a matrix of blocks R [blocks, b, b]."""
    blocks, size, _ = R.shape
    parts = x.reshape(-1, blocks, size).transpose(0, 1)
    return torch.bmm(parts, R).transpose(0, 1).reshape(x.shape)


@dataclass(frozen=True, kw_only=True)
class OFT(Layerwise):
    """A rotation of the inputs: angles between rows of W0, and their lengths, stay."""

    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset(
        {"oft_block_size", "use_cayley_neumann", "num_cayley_neumann_terms", "eps"}
    )

    block: int  # b, inputs that are turned together
    terms: int  # of the series in the place of the inverse, as in PEFT's default; 0: exact

    def __post_init__(self) -> None:
        if self.block < 2:
            raise ValueError(f"block must be at least 2, got {self.block}.")
        if self.terms and self.terms < LEAST_TERMS:
            raise ValueError(
                f"terms must be 0 for the exact form, or at least {LEAST_TERMS}, got {self.terms}."
            )

    def wrap(self, linear: nn.Module) -> nn.Module:
        return OFTLayer(linear, self.block, self.terms)

    def to_peft(self, model: nn.Module) -> Foreign:
        config = {"peft_type": "OFT", "r": 0, "oft_block_size": self.block, "module_dropout": 0.0}
        if self.terms:
            config |= {"use_cayley_neumann": True, "num_cayley_neumann_terms": self.terms}
        else:
            config |= {"use_cayley_neumann": False}
        sign = 1 if self.terms else -1
        layers = {
            name: {NAMES["q"]: sign * layer.q.detach()}
            for name, layer in exportable(model, OFTLayer).items()
        }
        return Foreign(library="peft", config=config, layers=layers)

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "OFT":
            return None
        check_fields(form, {"coft": False, "block_share": False, "module_dropout": 0.0})
        series = config.get("use_cayley_neumann", False)
        terms = config.get("num_cayley_neumann_terms", 5) if series else 0
        # Blocks are told by their size; a checkpoint may only have their number.
        found = {name: t if series else -t for name, t in state(form, NAMES).items()}
        sizes = {block_of(t.shape[1]) for t in found.values()}
        if len(sizes) != 1:
            raise ValueError(
                f"The checkpoint has blocks of {', '.join(map(str, sorted(sizes)))} inputs, and "
                "one size for all layers is read here."
            )
        return OFT(lr=0.0, block=sizes.pop(), terms=terms, targets=list(form.layers)), found


def block_of(entries: int) -> int:
    """The size of a matrix that has so many entries above its diagonal."""
    return (1 + round((1 + 8 * entries) ** 0.5)) // 2
