"""VeRA: W = W0 + diag(b) B diag(d) A, with one frozen random A, B for all layers.

Kopiczko et al., 2023, arXiv:2310.11454, Eq. (2).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import (
    AdapterLayer,
    Foreign,
    Variant,
    adapter_layers,
    at_least_float32,
    check_adapter,
    copy_exactly,
    find_exportable_layers,
    get_matrix,
    mark_additive,
    replace_module,
    target_linears,
)
from variants.peft_forms import state
from variants.seeded import SEED, SHA256, hash_of, with_seed, without_seed
from variants.state import without

VECTORS = {"d": "vera_lambda_d", "b": "vera_lambda_b"}


class VeRALayer(AdapterLayer):
    """y = W0 x + b * (B (d * (A dropout(x)))), with d [r], b [d_out] trained.

    A [r, widest input] and B [widest output, r] are shared; a layer takes the first d_in columns
    of A and the first d_out rows of B.
    """

    def __init__(self, base: nn.Module, A: nn.Parameter, B: nn.Parameter, d: float, dropout: float):
        super().__init__(base)
        self.A, self.B = A, B
        self.d = nn.Parameter(torch.full_like(A[:, 0], d))
        self.b = nn.Parameter(torch.zeros_like(B[: len(self.W0), 0]))
        self.dropout = nn.Dropout(dropout)

    def projections(self) -> tuple[Tensor, Tensor]:
        """This layer's part of A [r, d_in] and B [d_out, r]."""
        d_out, d_in = self.W0.shape
        return self.A[:, :d_in], self.B[:d_out]

    def merged_weight(self) -> Tensor:
        A, B = self.projections()
        return at_least_float32(self.W0) + self.b[:, None] * ((B * self.d) @ A)

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        # The gradients of b and d are then sums over that of one matrix [d_out, r].
        A, B = self.projections()
        return A, B * torch.outer(self.b, self.d), 1.0

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        A, B = (projection.to(x.dtype) for projection in self.projections())
        inner = self.d.to(x.dtype) * F.linear(self.dropout(x), A)
        return y + self.b.to(x.dtype) * F.linear(inner, B)


@dataclass(frozen=True, kw_only=True)
class VeRA(Variant):
    """Two vectors per layer around a random product that every layer shares."""

    sized_by_rank: ClassVar[bool] = True
    any_form: ClassVar[bool] = True

    rank: int  # r
    d_initial: float  # start of every entry of d; b starts at zero
    dropout: float  # probability, on the input of the update only
    projection_seed: int  # A and B are drawn from it and not stored
    targets: list[str]  # names of linear layers, or ends of their dotted names

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout)
        if self.d_initial == 0:
            raise ValueError("d_initial must not be 0: with b = 0 too, nothing would ever train.")

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        linears = target_linears(model, self.targets)
        sizes = [get_matrix(linear).shape for linear in linears.values()]
        widest_out, widest_in = (max(sides) for sides in zip(*sizes, strict=True))
        A, B = draw_projections(self.rank, widest_in, widest_out, self.projection_seed)
        like = at_least_float32(next(iter(linears.values())).weight)
        # Parameters and not buffers: moving a module keeps a shared parameter one tensor.
        A = nn.Parameter(A.to(like), requires_grad=False)
        B = nn.Parameter(B.to(like), requires_grad=False)
        for name, linear in linears.items():
            replace_module(model, name, VeRALayer(linear, A, B, self.d_initial, self.dropout))

    def learned_state(self, model: nn.Module) -> dict[str, Tensor]:
        """All but the shared A and B, and instead of them their seed and their hash."""
        return with_seed(self.collect_without_pair(model), self.projection_seed, pair_of(model))

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        seed, pair = self.projection_seed, pair_of(model)
        others = without_seed(state, "projection_seed", seed, pair)
        copy_exactly(self.collect_without_pair(model), others)

    def to_peft(self, model: nn.Module) -> Foreign:
        found = {
            n: layer for n, layer in find_exportable_layers(model) if isinstance(layer, VeRALayer)
        }
        pair = next(iter(found.values()))
        return Foreign(
            library="peft",
            config={
                "peft_type": "VERA",
                "r": self.rank,
                "projection_prng_key": self.projection_seed,
                "save_projection": True,
                "vera_dropout": self.dropout,
                "d_initial": self.d_initial,
            },
            layers={
                name: {VECTORS["d"]: layer.d.detach(), VECTORS["b"]: layer.b.detach()}
                for name, layer in found.items()
            },
            shared={"vera_A": pair.A.detach(), "vera_B": pair.B.detach()},
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "VERA":
            return None
        seed = config.get("projection_prng_key", 0)
        variant = VeRA(
            lr=0.0,
            rank=config["r"],
            d_initial=float(config.get("d_initial", 0.1)),
            dropout=float(config.get("vera_dropout", 0.0)),
            projection_seed=seed,
            targets=list(form.layers),
        )
        for name in ("vera_A", "vera_B"):
            if name not in form.shared:
                raise ValueError(
                    f"The checkpoint lacks {name}: without the projections it was trained with, "
                    "those drawn from its key cannot be verified."
                )
        stored = hash_of((form.shared["vera_A"], form.shared["vera_B"]))
        return variant, state(form, VECTORS) | {SEED: torch.tensor(seed), SHA256: stored}

    def collect_without_pair(self, model: nn.Module) -> dict[str, Tensor]:
        """Return every d and b and whatever else trains: all but the shared A and B."""
        return without(super().learned_state(model), model, pair_of(model))


def draw_projections(rank: int, d_in: int, d_out: int, seed: int) -> tuple[Tensor, Tensor]:
    """A [r, d_in], then B [d_out, r], Kaiming-uniform from one CPU generator, as in PEFT."""
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.empty(rank, d_in), torch.empty(d_out, rank)
    for projection in (A, B):
        nn.init.kaiming_uniform_(projection, generator=generator)
    return A, B


def pair_of(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The shared A and B, as they stand in the model."""
    layer = next(layer for _, layer in adapter_layers(model))
    assert isinstance(layer, VeRALayer)
    return layer.A, layer.B
