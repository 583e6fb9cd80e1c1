"""AdaLoRA: W = W0 + s B diag(E) A, with rank moved to where it matters.

Zhang et al., 2023, arXiv:2303.10512.  Budget, regulariser and timing follow the authors' code:
the budget printed as Eq. (14) is discontinuous, and Eq. (4) squares and sums norms that the code
averages.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import (
    AdapterLayer,
    Foreign,
    Progress,
    Variant,
    adapter_layers,
    at_least_float32,
    check_adapter,
    check_betas,
    find_exportable_layers,
    mark_additive,
    replace_linears,
)
from variants.peft_forms import state
from variants.products import disable_autocast

FACTORS = ("A", "B", "E")


class AdaLoRALayer(AdapterLayer):
    """y = W0 x + s B (E * (A dropout(x))), with A [r, d_in], B [d_out, r], E [r].

    Buffers: the averages of each factor's sensitivity and of its uncertainty, and which triplets
    are kept.
    """

    def __init__(self, base: nn.Module, rank: int, scale: float, dropout: float) -> None:
        super().__init__(base)
        like = at_least_float32(self.W0)
        d_out, d_in = self.W0.shape
        self.A = nn.Parameter(like.new_empty(rank, d_in).normal_(0.0, 0.02))
        self.B = nn.Parameter(like.new_empty(d_out, rank).normal_(0.0, 0.02))
        self.E = nn.Parameter(like.new_zeros(rank))
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        for name in FACTORS:
            factor = getattr(self, name).detach()
            self.register_buffer(f"sensitivity_{name}", torch.zeros_like(factor))
            self.register_buffer(f"uncertainty_{name}", torch.zeros_like(factor))
        self.kept: Tensor
        self.register_buffer("kept", torch.ones(rank, dtype=torch.bool, device=like.device))

    def merged_weight(self) -> Tensor:
        return at_least_float32(self.W0) + self.scale * (self.B * self.E) @ self.A

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        return self.A, self.B * self.E, self.scale

    @mark_additive
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        inner = F.linear(self.dropout(x), self.A.to(x.dtype)) * self.E.to(x.dtype)
        return y + F.linear(inner, self.B.to(x.dtype)) * self.scale

    def list_factors(self) -> tuple[nn.Parameter, ...]:
        """Return A, B and E, which train."""
        return self.A, self.B, self.E

    def average(self, beta1: float, beta2: float) -> None:
        """Take this step's sensitivity |w dL/dw| into the averages, Eq. (10) to (12)."""
        for name in FACTORS:
            factor = getattr(self, name)
            sensitivity = getattr(self, f"sensitivity_{name}")
            uncertainty = getattr(self, f"uncertainty_{name}")
            now = (factor * factor.grad).abs()
            sensitivity.lerp_(now, 1 - beta1)
            uncertainty.lerp_((now - sensitivity).abs(), 1 - beta2)

    def importance(self) -> Tensor:
        """The score [r] of each triplet, Eq. (9) and (13)."""
        score = {
            name: getattr(self, f"sensitivity_{name}") * getattr(self, f"uncertainty_{name}")
            for name in FACTORS
        }
        return score["E"] + score["A"].mean(dim=1) + score["B"].mean(dim=0)


@dataclass(frozen=True, kw_only=True)
class AdaLoRA(Variant):
    """Triplets compete for a total rank that shrinks from n * rank to n * target_rank."""

    any_form: ClassVar[bool] = True

    rank: int  # r0, the initial rank
    target_rank: int  # mean rank at the end
    alpha: float  # s = alpha / (r0 + 1e-5), fixed, as in the authors' code and PEFT
    dropout: float  # probability, on the input of the update only
    warmup: float  # t_i / T: the budget is full until then
    final: float  # t_f / T: the last share of the steps, in which the pattern is fixed
    interval: int  # Delta_T: steps between two allocations
    beta1: float  # of the average of sensitivity
    beta2: float  # of the average of uncertainty
    gamma: float  # weight of the orthogonality penalty
    targets: list[str]  # names of linear layers, or ends of their dotted names

    def __post_init__(self) -> None:
        check_adapter(self.rank, self.dropout, self.alpha)
        if not 1 <= self.target_rank <= self.rank:
            raise ValueError(
                f"target_rank must lie in 1 to rank={self.rank}, got {self.target_rank}."
            )
        if not (self.warmup >= 0 and self.final > 0 and self.warmup + self.final < 1):
            raise ValueError(
                "warmup and final are shares of all steps, final above 0, together under 1, "
                f"got {self.warmup} and {self.final}."
            )
        check_betas(self.beta1, self.beta2)
        if self.interval < 1:
            raise ValueError(f"interval must be at least 1 step, got {self.interval}.")

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        replace_linears(model, self.targets, self.wrap)

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank + 1e-5)

    def wrap(self, linear: nn.Module) -> nn.Module:
        """The adapter layer that takes the place of `linear`."""
        return AdaLoRALayer(linear, self.rank, self.scale, self.dropout)

    def penalty(self, model: nn.Module) -> Tensor | float:
        """gamma times the mean of ||A A^T - I|| and ||B^T B - I|| over all layers."""
        alike: dict[tuple[int, ...], list[AdaLoRALayer]] = {}
        for layer in layers(model):
            alike.setdefault((*layer.A.shape, *layer.B.shape), []).append(layer)
        norms = []
        for group in alike.values():  # as one product, not one for each layer
            A = torch.stack([layer.A for layer in group])
            B = torch.stack([layer.B for layer in group])
            identity = torch.eye(self.rank, dtype=A.dtype, device=A.device)
            with disable_autocast(A.device):  # autocast would round what should be the identity
                norms += [torch.linalg.matrix_norm(G - identity) for G in (A @ A.mT, B.mT @ B)]
        return self.gamma * torch.cat(norms).mean()

    @torch.no_grad()
    def after_step(self, model: nn.Module, progress: Progress) -> None:
        step, fixed = progress.step - 1, self.fixed_from(progress.total)
        found = layers(model)
        if step < fixed:
            check_gradients(model)
            for layer in found:
                layer.average(self.beta1, self.beta2)
        if step <= fixed:
            budget = self.budget(step, progress.total, len(found))
            full = budget == len(found) * self.rank
            if full or not (step == fixed or step % self.interval == 0):
                return
            keep_most_important(found, budget)
        for layer in found:
            layer.E.masked_fill_(~layer.kept, 0.0)

    def settled(self, progress: Progress) -> bool:
        # Before, pruned triplets come back between two allocations.
        return progress.step - 1 >= self.fixed_from(progress.total)

    def fixed_from(self, total: int) -> int:
        """The step, from 0, at which the pattern is fixed: T - t_f."""
        return total - max(1, round(self.final * total))

    def budget(self, step: int, total: int, num_layers: int) -> int:
        """The total rank allowed after step `step`, from 0."""
        first, last = num_layers * self.rank, num_layers * self.target_rank
        start, end = round(self.warmup * total), self.fixed_from(total)
        if step <= start:
            return last if step >= end else first
        if step >= end:
            return last
        return int((first - last) * (1 - (step - start) / (end - start)) ** 3 + last)

    def to_peft(self, model: nn.Module) -> Foreign:
        """A plain LoRA with E in the place of A's row lengths, which keeps a fixed rank pattern."""
        config = {"peft_type": "LORA", "r": self.rank, "lora_dropout": self.dropout}
        return Foreign(
            library="peft",
            config=config | {"lora_alpha": self.scale * self.rank, "use_rslora": False},
            layers={
                name: {
                    "lora_A.weight": (layer.E[:, None] * layer.A).detach(),
                    "lora_B.weight": layer.B.detach(),
                }
                for name, layer in find_exportable_layers(model)
                if isinstance(layer, AdaLoRALayer)
            },
        )

    @staticmethod
    def from_foreign(form: Foreign) -> tuple[Variant, dict[str, Tensor]] | None:
        config = form.config
        if config.get("peft_type") != "ADALORA":
            return None
        rank, total = config["init_r"], config["total_step"]
        found = {}
        for name, tensor in state(form, {"A": "lora_A", "B": "lora_B", "E": "lora_E"}).items():
            factor = tensor[:, 0] if name.endswith(".E") else tensor
            missing = rank - factor.shape[1 if name.endswith(".B") else 0]
            # PEFT cuts away what was pruned; with E = 0 it is the same function.
            sides = (0, 0, 0, missing) if name.endswith(".A") else (0, missing)
            found[name] = F.pad(factor, sides)
        variant = AdaLoRA(
            lr=0.0,
            rank=rank,
            target_rank=config["target_r"],
            alpha=float(config["lora_alpha"] if config["lora_alpha"] > 0 else rank),  # as in PEFT
            dropout=float(config.get("lora_dropout", 0.0)),
            warmup=config.get("tinit", 0) / total,
            final=max(config.get("tfinal", 0), 1) / total,
            interval=config.get("deltaT", 1),
            beta1=float(config.get("beta1", 0.85)),
            beta2=float(config.get("beta2", 0.85)),
            gamma=float(config.get("orth_reg_weight", 0.5)),
            targets=list(form.layers),
        )
        return variant, found

    def telemetry(self, model: nn.Module) -> dict[str, float]:
        """How many triplets each layer has, and all together, by the last allocation.

        Between two allocations the pruned ones move from zero again, and are not counted.
        """
        ranks = {
            f"rank/{name}": float((layer.kept & (layer.E != 0)).sum())
            for name, layer in adapter_layers(model)
            if isinstance(layer, AdaLoRALayer)
        }
        return {"rank": sum(ranks.values()), **ranks}


def layers(model: nn.Module) -> list[AdaLoRALayer]:
    """The model's AdaLoRA layers in order."""
    return [layer for _, layer in adapter_layers(model) if isinstance(layer, AdaLoRALayer)]


def check_gradients(model: nn.Module) -> None:
    """Raise ValueError for a layer that the loss does not depend on."""
    for name, layer in adapter_layers(model):
        if isinstance(layer, AdaLoRALayer) and any(p.grad is None for p in layer.list_factors()):
            raise ValueError(
                f"{name} got no gradient, as the loss does not depend on it, so it has no "
                "importance; leave it out of the targets."
            )


def keep_most_important(found: list[AdaLoRALayer], budget: int) -> None:
    """Keep the `budget` triplets of highest score; of equal ones those that come first."""
    scores = torch.cat([layer.importance() for layer in found])
    best = scores.sort(descending=True, stable=True).indices[:budget]
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[best] = True
    for layer, mask in zip(found, kept.split([len(layer.E) for layer in found]), strict=True):
        layer.kept.copy_(mask)
