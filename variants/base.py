"""The contract between a method and everything else: one layer class, one method class.

A method is an `AdapterLayer` (the equation) and a `Variant` (hyper-parameters and hooks). The
training loop calls every hook of every method in one order, so no method is named outside its file.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.forms import copy_with, find_form
from variants.forms import get_matrix as get_matrix
from variants.forms import mark_linear_map as mark_linear_map
from variants.gradients import gradients_at_W0 as gradients_at_W0
from variants.gradients import serve_groups as serve_groups
from variants.guard import ADAPTING, forget, guard_adapt
from variants.hook_watch import HOOKS, LOADING, note_calls
from variants.peft_forms import Foreign
from variants.products import at_least_float32 as at_least_float32
from variants.products import can_merge, merged_linear, merging_pays
from variants.state import check_trained, collect_buffers
from variants.state import copy_exactly as copy_exactly
from variants.state import evaluation_mode as evaluation_mode
from variants.state import hold_in_float32 as hold_in_float32
from variants.targets import TARGET_WORDS as TARGET_WORDS
from variants.targets import find_target_layers
from variants.wrapper import BaseWrapper
from variants.wrapper import (
    mark_additive as mark_additive,  # part of the contract, as the aliases below
)


@dataclass(frozen=True)
class Progress:
    """Optimiser step `step` of `total`, counted from 1."""

    step: int
    total: int


@dataclass(frozen=True)
class Probe:
    """The run as `Variant.prepare` may use it: a stratified share, in (0, 1], of the train split.

    The head takes part in `fit` and is as before afterwards; no batch of the main run is used up.
    `gradients` moves no parameter, and has no dropout.
    """

    fit: Callable[[float, int], None]  # train on this share for this many steps, at a constant rate
    batches: Callable[[float], Iterable[Any]]  # this share, in order; `inputs` feed the backbone
    # dL/dW0 by layer: the mean over this many rows, behind a head trained for this many steps.
    gradients: Callable[[int, int], dict[str, Tensor]]


class AdapterLayer(BaseWrapper):
    """A frozen linear layer with a trainable update, usable wherever the linear layer was.

    Parameters define the function, buffers are bookkeeping. `base` is anything with `weight`
    [d_out, d_in], `bias` and `forward`; W0 and `b0` read them, `form` says what else it may be.
    A method says `merged_weight`, and what of `factors` and `update` is cheaper.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map x [..., d_in] to [..., d_out]; by default through `factors` or `update`.

        Called if the base is a plain linear layer; for all others there is `add_to_base`.
        """
        if can_merge(x, self.base) and not self.dropping():
            factors = self.factors()
            if factors is not None and merging_pays(x, *factors[:2]):
                return merged_linear(x, self.W0, *factors, self.merged_bias())
        return self.update(x, self.base(x))

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        """The output for input x, given y = base(x): the form that lets runs share one base.

        Where that is y and a term of x alone, mark it by `mark_additive`: then it also serves bases
        that are more than their weight, for which (W - W0) x is computed otherwise.
        """
        bias = self.merged_bias()
        return F.linear(
            x, self.compute_full_weight().to(x.dtype), None if bias is None else bias.to(x.dtype)
        )

    @torch.no_grad()
    def merge(self) -> nn.Module:
        """The plain linear layer of equal function, rounded once to the base's dtype.

        Raises ValueError if there is none, as the base is more than its weight.
        """
        weight = self.compute_full_weight().to(self.W0.dtype)
        # The base's own class, so that a backbone whose linears cast at use keeps doing so.
        plain = self.base if find_form(self.base) else make_bare_linear(self.base)
        merged = copy_with(plain, self.form.shape_weight(self.base, weight), self.frozen_bias())
        return merged.train(self.training)

    def frozen_bias(self) -> nn.Parameter | None:
        """The merged bias as a parameter of a plain layer; the base's own if it is that."""
        bias, b0 = self.bias, self.b0
        if bias is None or bias is b0:
            return b0
        return nn.Parameter(bias.detach(), requires_grad=False)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One method as immutable hyper-parameters; all state lives in the model's tensors."""

    # Whether `rank` decides how many parameters train, so that a study can match them.
    sized_by_rank: ClassVar[bool] = False
    rank_step: ClassVar[int] = 1  # ranks must be multiples of it
    # Whether the model computes what the pretrained one does until the first step.
    starts_as_pretrained: ClassVar[bool] = True
    # Whether the layers read W0 alone of their base, and so serve every form of `variants.forms`:
    # convolutions, embeddings, transformers' Conv1D. Not inherited: a subclass may read more.
    any_form: ClassVar[bool] = False
    # Fields of PEFT's adapter_config.json that `from_foreign` reads, beside those common to all,
    # values of its `init_lora_weights` that leave the base as it was, and last names of tensors
    # that hold whole numbers.
    foreign_fields: ClassVar[frozenset[str]] = frozenset()
    foreign_starts: ClassVar[frozenset[str]] = frozenset()
    foreign_places: ClassVar[frozenset[str]] = frozenset()

    lr: float  # learning rate of what the method trains; the task head has its own

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let a method's `adapt` happen wholly or not at all, and its hooks be missed."""
        super().__init_subclass__(**kwargs)
        if "adapt" in vars(cls):
            cls.adapt = guard_adapt(cls.adapt)
        for name in (*HOOKS, LOADING):
            if name in vars(cls):
                setattr(cls, name, note_calls(vars(cls)[name]))

    def adapt(self, model: nn.Module) -> None:
        """Choose what trains in `model` and put the method's layers into it, in place.

        Raises ValueError, with the model as it was, if that cannot be done.
        """
        raise NotImplementedError

    def prepare(self, model: nn.Module, probe: Probe) -> None:
        """Look at data, or train briefly, before the main run."""

    def param_groups(
        self, model: nn.Module, lr: float, weight_decay: float
    ) -> list[dict[str, Any]]:
        """Optimiser groups over the trainable parameters; norms and biases are not decayed.

        A group with `"clip": False` takes no part in the clipping of gradients, and one with
        `"plain": True` moves by its rate times its gradient, without the optimiser's moments.
        """
        return decay_groups(model, lr, weight_decay)

    def penalty(self, model: nn.Module) -> Tensor | float:
        """A term added to the task loss."""
        return 0.0

    def after_backward(self, model: nn.Module, progress: Progress) -> None:
        """Gradients are complete and not clipped yet: read or rewrite them."""

    def after_step(self, model: nn.Module, progress: Progress) -> None:
        """Parameters have moved, gradients are still there: prune, reallocate, write back."""

    def list_idle_hooks(self) -> set[str]:
        """The names of hooks that do nothing with these settings, and need not be called."""
        return set()

    def settled(self, progress: Progress) -> bool:
        """Return whether the model has its final structure after this step.

        Only then may its state be kept as that of the best epoch.
        """
        return True

    def learned_state(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the state that restores the fine-tuned model over the adapted pretrained one.

        Trainable parameters, every parameter an adapter layer added, trained or not, as LoRA-FA's
        frozen random A is part of the function too, and buffers that training may move.
        """
        added = {id(p) for _, layer in adapter_layers(model) for p in added_parameters(layer)}
        parameters = {
            name: parameter.detach()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad or id(parameter) in added
        }
        return parameters | collect_buffers(model)

    @note_calls
    def load_state(self, model: nn.Module, state: Mapping[str, Tensor]) -> None:
        """Restore `learned_state`, structure first if the method has one."""
        copy_exactly(self.learned_state(model), state)

    def telemetry(self, model: nn.Module) -> dict[str, float]:
        """Scalars worth logging beside the loss."""
        return {}

    def to_peft(self, model: nn.Module) -> Foreign:
        """Return PEFT's checkpoint of the same function; raises ValueError if there is none."""
        raise ValueError(
            f"{type(self).__name__} has no form in PEFT's checkpoint format; merge it instead."
        )

    @staticmethod
    def from_foreign(form: Foreign) -> "tuple[Variant, dict[str, Tensor]] | None":
        """The method and its learned state, or None if the form is that of another method.

        Asked of the class that defines it only, not of those that inherit it. The learning rate is
        not in any file and becomes 0.
        """
        return None


def linear_class(base: nn.Module) -> type[nn.Linear]:
    """The class of linear layer that `base` is, or was before it was quantised."""
    return type(base) if isinstance(base, nn.Linear) else cast(type[nn.Linear], base.linear_class)


def make_bare_linear(base: nn.Module) -> nn.Linear:
    """A linear layer of the class that `base` was made from, without values."""
    d_out, d_in = cast(Tensor, base.weight).shape
    linear = nn.Linear(d_in, d_out, device="meta")
    linear.__class__ = linear_class(base)
    return linear


def adapter_layers(model: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """Every adapter layer of the model with its dotted name."""
    for name, module in model.named_modules():
        if isinstance(module, AdapterLayer):
            yield name, module


def find_exportable_layers(model: nn.Module) -> Iterator[tuple[str, AdapterLayer]]:
    """Every adapter layer that has a form in another library's format.

    Raises ValueError for one whose base would be another there.
    """
    for name, layer in adapter_layers(model):
        if find_form(layer.base) is None or not layer.form.dense:
            raise ValueError(
                f"{name} has a {type(layer.base).__name__} below its adapter, and in another "
                "library its factors would belong to other weights; merge the adapter instead."
            )
        yield name, layer


def added_parameters(layer: AdapterLayer) -> Iterator[nn.Parameter]:
    """The parameters of an adapter layer that are not its base's."""
    base = {id(p) for p in layer.base.parameters()}
    return (p for p in layer.parameters() if id(p) not in base)


def target_linears(model: nn.Module, targets: Iterable[str]) -> dict[str, nn.Linear]:
    """The layers that `targets` mean, by name; see `variants.targets`.

    Linear ones, and those of other forms if the method that adapts takes them. Raises
    ValueError for a target that means nothing, and if there is no target.
    """
    variant = ADAPTING.get()
    method = "This" if variant is None else type(variant).__name__
    linear_only = variant is None or not vars(type(variant)).get("any_form", False)
    return cast(dict[str, nn.Linear], find_target_layers(model, targets, method, linear_only))


def replace_linears(
    model: nn.Module, targets: Iterable[str], wrap: Callable[[nn.Linear], nn.Module]
) -> None:
    """Replace each target linear layer by `wrap(linear)`."""
    for name, linear in target_linears(model, targets).items():
        try:
            layer = wrap(linear)
        except ValueError as error:
            raise ValueError(f"{name} cannot be adapted. {error}") from None
        replace_module(model, name, layer)


def replace_module(model: nn.Module, name: str, new: nn.Module | nn.Parameter) -> None:
    """Put `new` where the sub-module, or the parameter, with this dotted name was.

    A module with several parents is replaced at all of them, and `new` takes over its mode.
    """
    parent, _, child = name.rpartition(".")
    holder = model.get_submodule(parent)
    old = getattr(holder, child, None)
    places = [(holder, child)]
    if isinstance(old, nn.Module):
        modules = [(m, key, part) for m in model.modules() for key, part in m._modules.items()]
        places += [(module, key) for module, key, part in modules if part is old]
        if isinstance(new, nn.Module) and new.training != old.training:
            new.train(old.training)
    for module, key in places:
        setattr(module, key, new)


def merge(model: nn.Module) -> None:
    """Replace every adapter layer by the plain linear layer of equal function, in place.

    Raises ValueError, with nothing replaced, for a layer that has no plain equal.
    """
    merged = {}
    for name, layer in adapter_layers(model):
        try:
            merged[name] = layer.merge()
        except ValueError as error:
            raise ValueError(f"{name or 'The model'} cannot be merged. {error}") from None
    warn_of_ties(model)
    for name, layer in merged.items():
        replace_module(model, name, layer)
    forget(model)


def warn_of_ties(model: nn.Module) -> None:
    """Say which weights other modules have too: merged, a layer has one of its own."""
    holders: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    for name, layer in adapter_layers(model):
        if holders.get(id(layer.base._parameters.get("weight")), 0) > 1:
            warnings.warn(
                f"{name} shared its weight with another layer and has one of its own when it is "
                "merged: a model that ties the two again, as transformers' tie_word_embeddings "
                "does when it is loaded, would lose the adapter.",
                stacklevel=3,
            )


def check_adapter(rank: int, dropout: float, alpha: float | None = None) -> None:
    """Raise ValueError for a rank, a dropout probability or a scale that no adapter can have."""
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}.")
    if alpha is not None:
        check_scale(alpha)
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout must lie in [0, 1), got {dropout}.")


def check_scale(alpha: float) -> None:
    """Raise ValueError for what no update can be multiplied by."""
    if not 0 < alpha < math.inf:
        raise ValueError(f"alpha must be a positive number, got {alpha}.")


def check_betas(beta1: float, beta2: float) -> None:
    """Raise ValueError for shares of the past in a running mean that are none."""
    for name, value in (("beta1", beta1), ("beta2", beta2)):
        if not 0 <= value < 1:
            raise ValueError(f"{name} must lie in [0, 1), got {value}.")


def decay_groups(module: nn.Module, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Optimiser groups of a module's trainable parameters: matrices decayed, vectors not.

    Raises ValueError for one that is stored in less than float32.
    """
    check_trained(module)
    trainable = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trainable if p.ndim > 1]
    vectors = [p for p in trainable if p.ndim <= 1]
    groups = [
        {"params": matrices, "lr": lr, "weight_decay": weight_decay},
        {"params": vectors, "lr": lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def set_apart(
    groups: Iterable[dict[str, Any]], parameters: Iterable[nn.Parameter], **settings: Any
) -> list[dict[str, Any]]:
    """Optimiser groups in which these parameters, and no others, have settings of their own."""
    own = {id(p) for p in parameters}
    parts = []
    for group in groups:
        others = [p for p in group["params"] if id(p) not in own]
        chosen = [p for p in group["params"] if id(p) in own]
        parts += [group | {"params": others}, group | {"params": chosen} | settings]
    return [group for group in parts if group["params"]]
