"""The contract between a method and everything else: one layer class, one method class.

A method is an `AdapterLayer` (the equation) and a `Variant` (hyper-parameters and hooks). The
training loop calls every hook of every method in one order, so no method is named outside its file.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, ClassVar, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.foreign import Foreign
from variants.kernels import can_merge, merged_linear, merging_pays


@dataclass(frozen=True)
class Progress:
    """Optimiser step `step` of `total`, counted from 1."""

    step: int
    total: int


@dataclass(frozen=True)
class Probe:
    """What `Variant.prepare` may use of the run: a stratified share, in (0, 1], of the train split.

    The head takes part in `fit` and is as before afterwards; no batch of the main run is used up.
    `gradients` moves no parameter, and has no dropout.
    """

    fit: Callable[[float, int], None]  # train on this share for this many steps, at a constant rate
    batches: Callable[[float], Iterable[Any]]  # this share, in order; `inputs` feed the backbone
    # dL/dW0 by layer: the mean over this many rows, behind a head trained for this many steps.
    gradients: Callable[[int, int], dict[str, Tensor]]


class AdapterLayer(nn.Module):
    """A frozen linear layer with a trainable update, usable wherever the linear layer was.

    Parameters define the function, buffers are bookkeeping. `base` is anything with `weight`
    [d_out, d_in], `bias` and `forward`.
    """

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)

    @property
    def W0(self) -> Tensor:
        """The base's weight [d_out, d_in]."""
        return cast(Tensor, self.base.weight)

    @property
    def bias(self) -> nn.Parameter | None:
        """The base's bias [d_out], where it has one."""
        return cast(nn.Parameter | None, self.base.bias)

    def merged_bias(self) -> Tensor | None:
        """The bias [d_out] of the linear layer this equals in eval: the base's, unless it moves."""
        return self.bias

    def merged_weight(self) -> Tensor:
        """The weight [d_out, d_in] of the linear layer this equals in eval, at least float32."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., d_in] to [..., d_out]; by default through `factors` or `update`."""
        if can_merge(x, self.base) and not self.dropping():
            factors = self.factors()
            if factors is not None and merging_pays(x, *factors[:2]):
                return merged_linear(x, self.W0, *factors, self.bias)
        return self.update(x, self.base(x))

    def dropping(self) -> bool:
        """Whether this call drops inputs at random, so that no one weight describes it."""
        return any(
            isinstance(part, nn.Dropout) and part.training and part.p > 0
            for part in self.children()
        )

    def factors(self) -> tuple[Tensor, Tensor, float] | None:
        """A [r, d_in], B [d_out, r] and s where the weight is W0 + s B A: for many tokens at once.

        Gradients reach what they were computed from.
        """
        return None

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        """The output for input x, given y = base(x): the form that lets runs share one base."""
        bias = self.merged_bias()
        return F.linear(
            x, self.merged_weight().to(x.dtype), None if bias is None else bias.to(x.dtype)
        )

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """The plain linear layer of equal function, rounded once to the base's dtype."""
        weight = self.merged_weight().to(self.W0.dtype)
        d_out, d_in = weight.shape
        linear = nn.Linear(d_in, d_out, bias=False, device="meta")
        # The base's own class, so that a backbone whose linears cast at use keeps doing so.
        linear.__class__ = linear_class(self.base)
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.register_parameter("bias", self.frozen_bias())
        return linear.train(self.training)

    def frozen_bias(self) -> nn.Parameter | None:
        """The merged bias as a parameter of a plain layer; the base's own where it is that."""
        bias = self.merged_bias()
        if bias is None or bias is self.bias:
            return self.bias
        return nn.Parameter(bias.detach(), requires_grad=False)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One method as immutable hyper-parameters; all state lives in the model's tensors."""

    # Whether `rank` decides how many parameters train, so that a study can match them.
    sized_by_rank: ClassVar[bool] = False
    rank_step: ClassVar[int] = 1  # ranks must be multiples of it
    # Whether the model computes what the pretrained one does until the first step.
    starts_as_pretrained: ClassVar[bool] = True
    # Fields of PEFT's adapter_config.json that `from_foreign` reads, beside those common to all,
    # and values of its `init_lora_weights` that leave the base as it was.
    foreign_fields: ClassVar[frozenset[str]] = frozenset()
    foreign_starts: ClassVar[frozenset[str]] = frozenset()

    lr: float  # learning rate of what the method trains; the task head has its own

    def adapt(self, model: nn.Module) -> None:
        """Choose what trains in `model` and put the method's layers into it, in place."""
        raise NotImplementedError

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        """Look at data, or train briefly, before the main run."""

    def param_groups(
        self, model: nn.Module, lr: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Optimiser groups over the trainable parameters; norms and biases are not decayed.

        A group with `"clip": False` takes no part in the clipping of gradients, and one with
        `"plain": True` moves by its rate times its gradient, without AdamW's moments.
        """
        return decay_groups(model, lr, weight_decay)

    def penalty(self, model: nn.Module) -> Tensor | float:
        """A term added to the task loss."""
        return 0.0

    def after_backward(self, model: nn.Module, progress: Progress) -> None:
        """Gradients are complete and not clipped yet: read or rewrite them."""

    def after_step(self, model: nn.Module, progress: Progress) -> None:
        """Parameters have moved, gradients are still there: prune, reallocate, write back."""

    def settled(self, progress: Progress) -> bool:
        """Whether the model has its final structure after this step.

        Only then may its state be kept as that of the best epoch.
        """
        return True

    def learned_state(self, model: nn.Module) -> dict[str, Tensor]:
        """What, loaded over the adapted pretrained model, restores the fine-tuned one.

        Trainable parameters and every parameter an adapter layer added, trained or not: LoRA-FA's
        frozen random A is part of the function too.
        """
        added = {id(p) for _, layer in adapter_layers(model) for p in added_parameters(layer)}
        return {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad or id(parameter) in added
        }

    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Restore `learned_state`, structure first where the method has one."""
        copy_exactly(self.learned_state(model), state)

    def telemetry(self, model: nn.Module) -> dict[str, float]:
        """Scalars worth logging beside the loss."""
        return {}

    def to_peft(self, model: nn.Module) -> Foreign:
        """What PEFT would have stored for the same function; raises ValueError without a form."""
        raise ValueError(
            f"{type(self).__name__} has no form in PEFT's checkpoint format; merge it instead."
        )

    @staticmethod
    def from_foreign(form: Foreign) -> "tuple[Variant, dict[str, Tensor]] | None":
        """The method and its learned state, or None where the form is that of another method.

        Asked of the class that defines it only, not of those that inherit it. The learning rate is
        not in any file and becomes 0.
        """
        return None


def linear_class(base: nn.Module) -> type[nn.Linear]:
    """The class of linear layer that `base` is, or was before it was quantised."""
    return type(base) if isinstance(base, nn.Linear) else cast(type[nn.Linear], base.linear_class)


def adapter_layers(model: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """Every adapter layer of the model with its dotted name."""
    for name, module in model.named_modules():
        if isinstance(module, AdapterLayer):
            yield name, module


def added_parameters(layer: AdapterLayer) -> Iterator[nn.Parameter]:
    """The parameters of an adapter layer that are not its base's."""
    base = {id(p) for p in layer.base.parameters()}
    return (p for p in layer.parameters() if id(p) not in base)


def target_linears(model: nn.Module, targets: Iterable[str]) -> dict[str, nn.Linear]:
    """The linear layers whose dotted names end in one of `targets`, by name.

    Where none does, a target may be a regular expression that whole names match.
    Raises ValueError for a target that matches nothing, and where there is no target.
    """
    linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    chosen: dict[str, nn.Linear] = {}
    for target in targets:
        matches = {name: linears[name] for name in matching(linears, target)}
        if not matches:
            raise ValueError(unknown_target(target, linears))
        chosen |= matches
    if not chosen:
        raise ValueError("targets must name at least one linear layer, got none.")
    return chosen


def matching(names: Iterable[str], target: str) -> list[str]:
    """The dotted names that end in a target, or else those that it matches as an expression."""
    names = list(names)
    found = [name for name in names if f".{name}".endswith(f".{target}")]
    if not found and re.search(r"[^\w.\-]", target):
        try:
            found = [name for name in names if re.fullmatch(target, name)]
        except re.error as error:
            raise ValueError(f"The target '{target}' is no regular expression: {error}.") from None
    return found


def replace_linears(
    model: nn.Module, targets: Iterable[str], wrap: Callable[[nn.Linear], nn.Module]
) -> None:
    """Replace each target linear layer by `wrap(linear)`."""
    for name, linear in target_linears(model, targets).items():
        replace_module(model, name, wrap(linear))


def unknown_target(target: str, linears: Iterable[str]) -> str:
    """The sentence that says which linear layers there are instead of `target`."""
    known = list(dict.fromkeys(name.rpartition(".")[2] for name in linears))
    near = get_close_matches(target, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"No linear layer is named '{target}'.{hint} This model has: {', '.join(sorted(known))}."


def replace_module(model: nn.Module, name: str, new: nn.Module | nn.Parameter) -> None:
    """Put `new` where the sub-module, or the parameter, with this dotted name was.

    A module takes over the mode, of training or evaluation, of the one that was there.
    """
    parent, _, child = name.rpartition(".")
    holder = model.get_submodule(parent)
    old = getattr(holder, child, None)
    if isinstance(old, nn.Module) and isinstance(new, nn.Module):
        new.train(old.training)
    setattr(holder, child, new)


def merge(model: nn.Module) -> None:
    """Replace every adapter layer by the plain linear layer of equal function, in place."""
    for name, layer in list(adapter_layers(model)):
        replace_module(model, name, layer.merge())


def check_adapter(rank: int, dropout: float) -> None:
    """Raise ValueError for a rank or a dropout probability that no adapter can have."""
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}.")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")


def decay_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of a module's trainable parameters: matrices decayed, vectors not."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.ndim > 1]
    vectors = [p for p in trainable if p.ndim <= 1]
    groups = [
        {"params": matrices, "lr": lr, "weight_decay": weight_decay},
        {"params": vectors, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def copy_exactly(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy tensors by name.

    Raises ValueError, with nothing copied, for a missing, an unexpected or a misshapen one.
    """
    missing = sorted(target.keys() - source.keys())
    unexpected = sorted(source.keys() - target.keys())
    if missing or unexpected:
        raise ValueError(
            f"The stored tensors do not fit this model: missing {shorten(missing)}, "
            f"unexpected {shorten(unexpected)}."
        )
    for name, tensor in target.items():
        if tensor.shape != source[name].shape:
            raise ValueError(
                f"Tensor '{name}' has shape {list(source[name].shape)} in the file, "
                f"and {list(tensor.shape)} in the model."
            )
    for name, tensor in target.items():
        tensor.copy_(source[name])


def shorten(names: list[str], most: int = 3) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it is that already."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
