"""LoKr: W = W0 + s C (x) W2, a Kronecker product.  Yeh et al., 2023, arXiv:2309.14859 (LyCORIS).

C [a, b] holds the smaller, W2 [c, d] the larger part of d_out = a c and d_in = b d; W2 is a
product of rank r where that is smaller, and C with `both`. s = alpha / r always, as in PEFT:
LyCORIS takes s = 1 where neither is a product.
"""

from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import (
    AdapterLayer,
    Foreign,
    Variant,
    at_least_float32,
    check_adapter,
    mark_additive,
)
from variants.layerwise import Layerwise, check_fields, exportable

NAMES = {
    "C": "lokr_w1", "C_a": "lokr_w1_a", "C_b": "lokr_w1_b",
    "W2": "lokr_w2", "W2_a": "lokr_w2_a", "W2_b": "lokr_w2_b",
}  # fmt: skip
DROPPED = {"rank_dropout": 0.0, "module_dropout": 0.0, "rank_pattern": {}, "alpha_pattern": {}}


class LoKrLayer(AdapterLayer):
    """y = W0 x + s vec(C X W2^T), with X [b, d] the input x as a matrix."""

    def __init__(
        self, base: nn.Module, rank: int, scale: float, factor: int, both: bool, zero: str
    ) -> None:
        super().__init__(base)
        d_out, d_in = self.W0.shape
        (a, c), (b, d) = split(d_out, factor), split(d_in, factor)
        self.scale = scale
        # Of a product the first factor of C, and the second of W2, can be the one that is zero.
        self.make("C", a, b, rank if both else 0, zero == "C", "C_a")
        self.make("W2", c, d, rank, zero == "W2", "W2_b")

    def make(self, name: str, rows: int, columns: int, rank: int, zero: bool, which: str) -> None:
        """A matrix, or two factors of it if `rank` is under half of its longer side."""
        like = at_least_float32(self.W0)
        shapes = {name: (rows, columns)}
        if 0 < rank < max(rows, columns) / 2:
            shapes = {f"{name}_a": (rows, rank), f"{name}_b": (rank, columns)}
        for part, shape in shapes.items():
            parameter = nn.Parameter(like.new_zeros(shape))
            if not (zero and part in (name, which)):
                nn.init.kaiming_uniform_(parameter, a=5**0.5)
            self.register_parameter(part, parameter)

    def parts(self, name: str) -> list[Tensor]:
        """The matrix of this name, or its two factors."""
        return [getattr(self, p) for p in (name, f"{name}_a", f"{name}_b") if hasattr(self, p)]

    def merged_weight(self) -> Tensor:
        C, W2 = (self.full_matrix(name) for name in ("C", "W2"))
        return at_least_float32(self.W0) + self.scale * torch.kron(C, W2)

    def full_matrix(self, name: str) -> Tensor:
        """The matrix of this name, its factors multiplied."""
        first, *rest = self.parts(name)
        return first @ rest[0] if rest else first

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        C, right = (self.scale * self.full_matrix("C")).to(x.dtype), self.parts("W2")
        last = right[0].to(x.dtype)
        X = x.reshape(-1, C.shape[1], x.shape[-1] // C.shape[1])
        if len(right) == 2:
            X = rows_times(X, right[1].to(x.dtype))  # [N, b, r]
        # What is left of W2 comes behind C, of which a product is the smaller one.
        X = rows_times(rows_times(X.mT, C).mT, last)
        return y + X.reshape(y.shape)


def rows_times(X: Tensor, W: Tensor) -> Tensor:
    """X W^T for X [N, n, k] as one product of N n rows."""
    return F.linear(X.reshape(-1, X.shape[-1]), W).view(*X.shape[:2], len(W))


def split(n: int, factor: int) -> tuple[int, int]:
    """Two divisors whose product is n: `factor` first, or the smaller of those nearest to a square.

    A factor that does not divide n gives the largest divisor up to it and to the root of n.
    """
    if factor > 0 and n % factor == 0:
        return factor, n // factor
    bound = isqrt(n) if factor < 0 else min(factor, isqrt(n))
    first = max(m for m in range(1, bound + 1) if n % m == 0)
    return first, n // first


@dataclass(frozen=True, kw_only=True)
class LoKr(Layerwise):
    """A change that is a small matrix in each entry of another."""

    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset(
        {"alpha", "decompose_both", "decompose_factor", *DROPPED}
    )

    rank: int  # r
    alpha: float  # s = alpha / r
    factor: int  # the first divisor of each side; -1: nearest to a square
    both: bool  # C as a product of rank r too
    zero: str  # the matrix that starts at zero: C, as in PEFT, or W2, as in LyCORIS

    def __post_init__(self) -> None:
        check_adapter(self.rank, 0.0, self.alpha)
        if self.factor == 0 or self.factor < -1:
            raise ValueError(f"factor must be positive, or -1, got {self.factor}.")
        if self.zero not in ("C", "W2"):
            raise ValueError(f"zero must be C or W2, got '{self.zero}'.")

    def wrap(self, linear: nn.Module) -> nn.Module:
        scale = self.alpha / self.rank
        return LoKrLayer(linear, self.rank, scale, self.factor, self.both, self.zero)

    def to_peft(self, model: nn.Module) -> Foreign:
        return Foreign(
            library="peft",
            config={
                "peft_type": "LOKR",
                "r": self.rank,
                "alpha": self.alpha,
                "decompose_factor": self.factor,
                "decompose_both": self.both,
            },
            layers={
                name: {NAMES[p]: getattr(layer, p).detach() for p in NAMES if hasattr(layer, p)}
                for name, layer in exportable(model, LoKrLayer).items()
            },
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "LOKR":
            return None
        check_fields(form, DROPPED)
        variant = LoKr(
            lr=0.0,
            rank=config["r"],
            alpha=float(config["alpha"]),
            factor=config.get("decompose_factor", -1),
            both=bool(config.get("decompose_both", False)),
            zero="C",
            targets=list(form.layers),
        )
        ours = {theirs: name for name, theirs in NAMES.items()}
        found = {}
        for layer, tensors in form.layers.items():
            for theirs in sorted(tensors.keys() - ours.keys()):
                raise ValueError(f"The checkpoint has an unknown tensor {layer}.{theirs}.")
            found |= {f"{layer}.{ours[theirs]}": tensor for theirs, tensor in tensors.items()}
        return variant, found
