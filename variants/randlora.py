"""RandLoRA: a change of full rank from frozen random products that are rescaled and added.

Albert et al., 2025, arXiv:2502.00987: dW = s sum_j B_j diag(lambda_j) A diag(gamma_j), where lambda
and gamma train, and A and the n = ceil(k / r) matrices B_j are shared by all layers; k is the
smaller side of W0, that of A. As in the authors' code and PEFT's, B is one matrix whose column
i n + j goes with row i of A and with gamma_j.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import (
    Foreign,
    Variant,
    at_least_float32,
    check_adapter,
    copy_exactly,
    get_matrix,
    replace_module,
    target_linears,
)
from variants.layerwise import (
    DenseLayer,
    Layerwise,
    check_fields,
    exportable,
    layers_of,
    tensors_of,
)
from variants.peft_forms import state
from variants.seeded import SEED, SHA256, hash_of, with_seed, without_seed
from variants.state import without

NAMES = {"lamda": "randlora_lambda", "gamma": "randlora_gamma"}


class RandLoRALayer(DenseLayer):
    """The update s B M, where row i n + j of M is lambda[i, j] A[i] gamma[j].

    lambda [r, n] and gamma [n, k] train. A [r, 1, widest k] and B [longest side, most n, r] are
    shared, and a layer takes their first entries; for a W0 of more columns all is transposed.
    """

    def __init__(self, base: nn.Module, A: nn.Parameter, B: nn.Parameter, scale: float) -> None:
        super().__init__(base)
        self.A, self.B = A, B
        rank, k = len(A), min(self.W0.shape)
        count = -(-k // rank)
        self.lamda = nn.Parameter(A.new_zeros(rank, count))
        self.gamma = nn.Parameter(A.new_full((count, k), 1 / max(count, k)))
        self.scale = scale

    def delta(self) -> Tensor:
        d_out, d_in = self.W0.shape
        count, k = self.gamma.shape
        M = (self.scale * self.lamda)[:, :, None] * self.A[:, :, :k] * self.gamma
        B = self.B[: max(d_out, d_in), :count].flatten(1)
        change = B @ M.flatten(0, 1)
        return change if d_out >= d_in else change.T


@dataclass(frozen=True, kw_only=True)
class RandLoRA(Layerwise):
    """Weights of frozen random products; a higher rank means fewer of them."""

    any_form: ClassVar[bool] = True
    foreign_fields: ClassVar[frozenset[str]] = frozenset({"randlora_alpha", "randlora_dropout"})

    rank: int  # r, of each product
    alpha: float  # s = alpha / r
    projection_seed: int  # A and B are drawn from it and not stored

    def __post_init__(self) -> None:
        check_adapter(self.rank, 0.0, self.alpha)

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        linears = target_linears(model, self.targets)
        shapes = [get_matrix(linear).shape for linear in linears.values()]
        A, B = draw_bases(self.rank, shapes, self.projection_seed)
        like = at_least_float32(next(iter(linears.values())).weight)
        A, B = (nn.Parameter(base.to(like), requires_grad=False) for base in (A, B))
        for name, linear in linears.items():
            replace_module(model, name, RandLoRALayer(linear, A, B, self.alpha / self.rank))

    def learned_state(self, model: nn.Module) -> dict[str, Tensor]:
        """All but A and B, and instead of them their seed and their hash."""
        return with_seed(self.without_bases(model), self.projection_seed, bases_of(model))

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        seed, bases = self.projection_seed, bases_of(model)
        copy_exactly(self.without_bases(model), without_seed(state, "projection_seed", seed, bases))

    def without_bases(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the learned state without A and B: every lambda and gamma, and the rest."""
        return without(super().learned_state(model), model, bases_of(model))

    def to_peft(self, model: nn.Module) -> Foreign:
        A, B = bases_of(model)
        return Foreign(
            library="peft",
            config={
                "peft_type": "RANDLORA",
                "r": self.rank,
                "randlora_alpha": self.alpha,
                "projection_prng_key": self.projection_seed,
                "save_projection": True,
            },
            layers=tensors_of(exportable(model, RandLoRALayer), NAMES),
            shared={"randlora_A": A.detach(), "randlora_B": B.detach()},
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "RANDLORA":
            return None
        check_fields(form, {"sparse": False, "very_sparse": False, "randlora_dropout": 0.0})
        seed = config.get("projection_prng_key") or 0
        variant = RandLoRA(
            lr=0.0,
            rank=config["r"],
            alpha=float(config["randlora_alpha"]),
            projection_seed=seed,
            targets=list(form.layers),
        )
        for name in ("randlora_A", "randlora_B"):
            if name not in form.shared:
                raise ValueError(
                    f"The checkpoint lacks {name}: without the bases it was trained with, those "
                    "drawn from its key cannot be verified."
                )
        # PEFT writes the bases once more for every layer.
        layers = {
            layer: {key: t for key, t in tensors.items() if key not in form.shared}
            for layer, tensors in form.layers.items()
        }
        stored = hash_of((form.shared["randlora_A"], form.shared["randlora_B"]))
        found = state(replace(form, layers=layers), NAMES)
        return variant, found | {SEED: torch.tensor(seed), SHA256: stored}


def draw_bases(rank: int, shapes: list[torch.Size], seed: int) -> tuple[Tensor, Tensor]:
    """A [r, 1, widest k] and B [longest side, most n, r] for layers of these shapes, as in PEFT.

    Kaiming-uniform numbers in bfloat16 from one CPU generator, divided by their standard deviation.
    """
    d_out, d_in = (max(sides) for sides in zip(*shapes, strict=True))
    k, longest = min(d_out, d_in), max(d_out, d_in)
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.empty(rank, 1, k, dtype=torch.bfloat16)]
    parts += [torch.empty(longest, 1, rank, dtype=torch.bfloat16) for _ in range(-(-k // rank))]
    for part in parts:
        nn.init.kaiming_uniform_(part, a=5**0.5, generator=generator)
    A, B = parts[0], torch.cat(parts[1:], dim=1)
    return A / A.std(), B / B.std()


def bases_of(model: nn.Module) -> tuple[Tensor, Tensor]:
    """The shared A and B, as they stand in the model."""
    layer = next(iter(layers_of(model, RandLoRALayer).values()))
    return layer.A, layer.B
