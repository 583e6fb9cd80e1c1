"""The promises of a method, and a check of each: what holds for all methods, whatever they compute.

    from variants.promises import check

    check(MyMethod(lr=1e-3, targets=["query"]), model, x)

raises BrokenPromise with one sentence for the first promise that is broken: which one it is, by how
much, and how to mend it. The contract tests begin with it, and then hold the method to the paper's
promises in bfloat16, on every family of models, on odd modules and through a whole run.
"""

import warnings
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import AdapterLayer, Progress, Variant, adapter_layers, merge

# Keys of a run's history, which telemetry must leave alone; those that begin with `train_` too.
TAKEN = ("step", "loss", "gradient_norm", "lr", "starts_as_pretrained")
TOKENS = (3, 200)  # few, and many: a layer may compute in another form for many
CLOSE = 1e-4  # the largest relative error in float32
STEPS = 6


class BrokenPromise(AssertionError):  # noqa: N818 (a verdict on a method)
    """A method does not do what all methods do."""


@dataclass(frozen=True)
class Promise:
    """One promise: what holds, how to mend a method that breaks it, and the check of it."""

    name: str
    text: str
    mend: str
    find: Callable[["Trial"], str | None]  # what is wrong with a method, if anything

    def tell(self, variant: Variant, found: str) -> str:
        """The sentence on a method that breaks it."""
        method, found = type(variant).__name__, " ".join(found.split())
        return f"{method} breaks the promise '{self.name}' ({self.text}): {found}. {self.mend}"


@dataclass
class Trial:
    """A method on trial: the pretrained model and inputs for it."""

    variant: Variant
    pretrained: nn.Module
    inputs: tuple[Any, ...]

    def adapt(self, *, seed: int = 0, **changes: Any) -> nn.Module:
        """A copy of the model, with all parameters trainable before the method has chosen."""
        model = deepcopy(self.pretrained).requires_grad_(True).eval()
        torch.manual_seed(seed)
        (replace(self.variant, **changes) if changes else self.variant).adapt(model)
        return model

    def run(self, model: nn.Module) -> Tensor:
        """The outputs of a model."""
        with torch.no_grad():
            return model(*self.inputs)

    @cached_property
    def moved(self) -> nn.Module:
        """An adapted model away from where it began: with l = 1 or B = 0 a fault cannot be seen."""
        model = self.adapt()
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.data += 0.05 * noise.to(parameter)
        return model

    @cached_property
    def trained(self) -> tuple[nn.Module, dict[str, Tensor]]:
        """An adapted model after a few steps with all hooks, and its parameters before."""
        model = self.adapt()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        groups = self.variant.param_groups(model, 1e-2, 0.01)
        optimizer = torch.optim.AdamW(groups or [{"params": []}])
        target = torch.randn(self.run(model).shape, generator=torch.Generator().manual_seed(2))
        model.train()
        for step in range(1, STEPS + 1):
            loss = (model(*self.inputs) - target).square().mean() + self.variant.penalty(model)
            if loss.requires_grad:
                loss.backward()
            self.variant.after_backward(model, Progress(step, STEPS))
            optimizer.step()
            self.variant.after_step(model, Progress(step, STEPS))
            optimizer.zero_grad()
        return model.eval(), before


def check(variant: Variant, model: nn.Module, *inputs: Any) -> None:
    """Raise BrokenPromise for the first promise that a method breaks on this model.

    `model` is pretrained and not adapted, in float32, and stays as it is; `inputs` are what it is
    called with, and it returns a tensor.
    """
    trial = Trial(variant, model, inputs)
    for promise in PROMISES:
        with warnings.catch_warnings():  # `prepare` looks at data, which there is none of
            warnings.filterwarnings("ignore", message=".*does not call")
            try:
                found = promise.find(trial)
            except RuntimeError as error:  # torch's
                raise BrokenPromise(promise.tell(variant, f"torch says: {error}")) from error
        if found is not None:
            raise BrokenPromise(promise.tell(variant, found))


def find_missing_fields(trial: Trial) -> str | None:
    """Annotations of the class that are no settings."""
    cls = type(trial.variant)
    known = {field.name for field in fields(cls)}
    own = {
        name
        for name, kind in vars(cls).get("__annotations__", {}).items()
        if "ClassVar" not in str(kind)
    }
    return f"{', '.join(sorted(own - known))} is none" if own - known else None


def find_trained_base(trial: Trial) -> str | None:
    """Parameters of the pretrained model that a method with layers leaves trainable."""
    model = trial.adapt()
    if not any(True for _ in adapter_layers(model)):
        return None  # it trains parameters of the model itself, by choice
    pretrained = set(dict(trial.pretrained.named_parameters()))
    names = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and name.replace(".base.", ".") in pretrained
    }
    if not names:
        return None
    count, first = sum(p.numel() for p in names.values()), next(iter(names))
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{count:,} of the {total:,} parameters that train are the model's own, {first} first"


def find_idle(trial: Trial) -> str | None:
    """The layers of a model in which nothing trains."""
    model = trial.adapt()
    names = [name for name, _ in adapter_layers(model)]
    trains = any(p.requires_grad for p in model.parameters())
    if trains or not names:
        return None
    return f"nothing trains in {len(names)} layers, {names[0]} first"


def find_other_start(trial: Trial) -> str | None:
    """The distance of an adapted model from the pretrained one."""
    if not trial.variant.starts_as_pretrained:
        return None
    return differ(trial.run(trial.adapt()), trial.run(trial.pretrained.eval()), "its outputs")


def find_random_outputs(trial: Trial) -> str | None:
    """Layers that give another output in every call."""
    changes: dict[str, Any] = {"dropout": 0.5} if "dropout" in vars(trial.variant) else {}
    try:
        model = trial.adapt(**changes)
    except ValueError:  # the method takes no dropout
        model = trial.adapt()
    nudge(model)
    for name, layer in adapter_layers(model.eval()):
        x = draw_inputs(layer, TOKENS[0])
        with torch.no_grad():
            if not torch.equal(layer(x), layer(x)):
                return f"two calls of {name} in evaluation mode differ"
    return None


def find_odd_weight(trial: Trial) -> str | None:
    """Merged weights of another shape or precision."""
    for name, layer in adapter_layers(trial.moved):
        weight, wanted = layer.merged_weight(), tuple(layer.W0.shape)
        if tuple(weight.shape) != wanted:
            return f"that of {name} has the shape {tuple(weight.shape)}, not {wanted}"
        if weight.dtype != torch.float32:
            return f"that of {name} is {weight.dtype}"
    return None


def find_other_output(trial: Trial) -> str | None:
    """Layers whose output is not that of their merged weight."""
    for name, layer in adapter_layers(trial.moved):
        for tokens in TOKENS:
            x = draw_inputs(layer, tokens)
            with torch.no_grad():
                found, base = layer(x), layer.base(x)
                expected = F.linear(x, layer.merged_weight(), layer.merged_bias())
            wrong = differ(found, expected, f"the output of {name} for {tokens} tokens")
            if wrong:
                return wrong + compare_changes(found - base, expected - base)
    return None


def compare_changes(found: Tensor, expected: Tensor) -> str:
    """How a wrong change of the output is related to the right one, if it is a multiple of it."""
    size = float(expected.square().sum())
    factor = float((found * expected).sum()) / size if size else 0.0
    if abs(factor) < 1e-3 or float((found - factor * expected).norm()) > 1e-3 * size**0.5:
        return ""
    return f"; its change is {factor:.4g} times that of merged_weight, so a scale is not in both"


def find_other_gradient(trial: Trial) -> str | None:
    """Gradients of a layer that are not those of its merged weight."""
    for name, layer in adapter_layers(trial.moved):
        x = draw_inputs(layer, TOKENS[0]).requires_grad_(True)
        inputs = {n: p for n, p in layer.named_parameters() if p.requires_grad} | {"its input": x}
        weigh = draw_inputs(layer, TOKENS[0], outputs=True)

        def gradients(y: Tensor, inputs: dict[str, Tensor] = inputs, weigh: Tensor = weigh) -> Any:
            return torch.autograd.grad(y, list(inputs.values()), weigh, allow_unused=True)

        mine = gradients(layer(x))
        wanted = gradients(F.linear(x, layer.merged_weight(), layer.merged_bias()))
        for part, found, expected in zip(inputs, mine, wanted, strict=True):
            if (found is None) != (expected is None):
                return f"in {name}, {part} has a gradient in only one of the two"
            if found is not None and expected is not None:
                wrong = differ(found, expected, f"the gradient of {part} in {name}")
                if wrong:
                    return wrong
    return None


def find_other_merge(trial: Trial) -> str | None:
    """Adapter layers that are left in a merged model, or how its outputs differ."""
    model = deepcopy(trial.moved)
    before = trial.run(model)
    merge(model)
    for name, module in model.named_modules():
        if isinstance(module, AdapterLayer):
            return f"{name} is an adapter layer still"
    return differ(trial.run(model), before, "the outputs of the merged model")


def find_ungrouped(trial: Trial) -> str | None:
    """Parameters that train and are in no group or in two, and vectors that are decayed."""
    model = trial.adapt()
    groups = trial.variant.param_groups(model, 1e-3, 0.1)
    grouped = [id(p) for group in groups for p in group["params"]]
    decayed = {id(p) for group in groups if group.get("weight_decay", 0.1) for p in group["params"]}
    for name, parameter in model.named_parameters():
        times = grouped.count(id(parameter))
        if parameter.requires_grad and times != 1:
            return f"{name} is in {times or 'none'} of them"
        if times and not parameter.requires_grad:
            return f"{name} is in one and is frozen"
        if id(parameter) in decayed and parameter.ndim < 2:
            return f"{name} is a vector and has weight decay"
    return None


def find_wrong_moves(trial: Trial) -> str | None:
    """Parameters that move and are not learned, or that train and never move."""
    model, before = trial.trained
    learned = trial.variant.learned_state(model)
    for name, parameter in model.named_parameters():
        moved = name not in before or not torch.equal(parameter.detach(), before[name])
        if moved and name not in learned:
            return f"{name} moves, and neither trains nor is in learned_state"
        if parameter.requires_grad and not moved:
            return f"{name} trains and did not move in {STEPS} steps, so that no output reads it"
    return None


def find_lost_state(trial: Trial) -> str | None:
    """How a model with the learned state of another differs from it."""
    model, _ = trial.trained
    state = {name: tensor.clone() for name, tensor in trial.variant.learned_state(model).items()}
    fresh = trial.adapt(seed=1)
    trial.variant.load_state(fresh, state)
    return differ(trial.run(fresh), trial.run(model), "the outputs of the restored model")


def find_odd_telemetry(trial: Trial) -> str | None:
    """Telemetry that is no number, or under a name that a run's history has already."""
    for name, value in trial.variant.telemetry(trial.trained[0]).items():
        if name in TAKEN or name.startswith("train_"):
            return f"'{name}' is a name that the history of a run has already"
        if not isinstance(value, float):
            return f"'{name}' is a {type(value).__name__}"
    return None


def nudge(model: nn.Module) -> None:
    """Move what trains a little."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05


def draw_inputs(layer: AdapterLayer, tokens: int, outputs: bool = False) -> Tensor:
    """Random inputs [tokens, d_in] of a layer, or as many of its outputs."""
    width = layer.W0.shape[0 if outputs else 1]
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(3))


def differ(found: Tensor, expected: Tensor, what: str) -> str | None:
    """A clause on two tensors that should be equal, or None if they are."""
    if found.shape != expected.shape:
        return f"{what} have the shape {tuple(found.shape)}, not {tuple(expected.shape)}"
    error = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
    if float(expected.norm()) < 1e-6 and float(found.norm()) < 1e-6:
        return None
    return None if error < CLOSE else f"{what} differ by {100 * error:.3g} %"


PROMISES = (
    Promise(
        "settings", "every annotated name of the class is a setting",
        "Put @dataclass(frozen=True, kw_only=True) above the class.", find_missing_fields,
    ),
    Promise(
        "frozen base", "only what the method adds trains",
        "Call model.requires_grad_(False) first in adapt, or derive from Layerwise.",
        find_trained_base,
    ),
    Promise(
        "trainable", "something trains",
        "Register what trains as nn.Parameter in the layer.", find_idle,
    ),
    Promise(
        "start", "the adapted model has the same outputs as the pretrained one",
        "Start the update at zero, for example one factor of a product, or set "
        "starts_as_pretrained = False in the class.", find_other_start,
    ),
    Promise(
        "evaluation", "in evaluation mode nothing is random",
        "Use nn.Dropout as a child of the layer, or ask self.training.", find_random_outputs,
    ),
    Promise(
        "weight", "merged_weight is [d_out, d_in] in float32",
        "W is as nn.Linear has it, one row per output; at_least_float32(self.W0) begins it.",
        find_odd_weight,
    ),
    Promise(
        "forward", "a layer computes x W^T + b with W = merged_weight() and b = merged_bias()",
        "Remove forward, update and factors, which are only faster ways to the same, or give them "
        "the equation of merged_weight.", find_other_output,
    ),
    Promise(
        "gradient", "the gradients of a layer are those of its merged weight",
        "Look for a detach, a .data or a no_grad that is in forward, update or factors alone.",
        find_other_gradient,
    ),
    Promise(
        "merging", "the merged model has no adapter layer and the same outputs",
        "Leave merge as it is inherited, or let it return the plain layer of merged_weight.",
        find_other_merge,
    ),
    Promise(
        "optimizer groups",
        "each parameter that trains is in one group, and no vector has weight decay",
        "Begin param_groups with decay_groups(model, lr, weight_decay) and change its groups by "
        "set_apart.", find_ungrouped,
    ),
    Promise(
        "training", "every trained parameter changes, and nothing else does",
        "Remove parameters that the equation does not read; write to W0 only what learned_state "
        "holds.", find_wrong_moves,
    ),
    Promise(
        "saving", "learned_state restores the model over the adapted pretrained one",
        "State that the function depends on is a parameter or a registered buffer of the layer, "
        "not an attribute; what is drawn at random is one of them too, or drawn from a seed.",
        find_lost_state,
    ),
    Promise(
        "telemetry", "telemetry is numbers under names of the method's own",
        "Return float(value) under a name such as mean_rank.", find_odd_telemetry,
    ),
)  # fmt: skip


def list_promises() -> Iterator[str]:
    """The promises as lines of text, which `docs/methods.md` quotes."""
    for promise in PROMISES:
        yield f"- **{promise.name}**: {promise.text}."
