"""Make `Variant.adapt` happen wholly or not at all, and only on a model without adapters.

A note on the adapted module, one attribute of it, says which method it was, so that saving, merging
and training loops need not be told again.
"""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch.nn as nn
from torch.nn.parameter import UninitializedParameter

from variants.hook_watch import watch_model
from variants.stand_in import StandIn

NOTE = "_adapted_by"
ADAPTING: ContextVar[Any] = ContextVar("adapting", default=None)


@dataclass(frozen=True)
class Adapted:
    """A note on a module: the method that it is adapted with, and how it was before."""

    variant: Any  # of variants.base.Variant, which imports this module
    trained: frozenset[str]  # parameters that trained before, by name
    layered: bool  # whether there are adapter layers, or parameters of its own train
    beside: tuple[str, ...] = ()  # what trains beside the method, as it was named


class Structure:
    """The modules, parameters and flags of a model as they are now."""

    def __init__(self, model: nn.Module) -> None:
        self.places = [
            (module, [dict(part) for part in list_parts(module)], module.training)
            for module in model.modules()
        ]
        self.parameters = [(p, p.requires_grad, p.data) for p in model.parameters()]

    def restore(self) -> None:
        """Put everything back."""
        for module, parts, training in self.places:
            for part, before in zip(list_parts(module), parts, strict=True):
                part.clear()
                part.update(before)
            module.training = training
        for parameter, trained, data in self.parameters:
            parameter.data = data
            parameter.requires_grad_(trained)


def list_parts(module: nn.Module) -> tuple[dict[str, Any], ...]:
    """The dictionaries that make up a module."""
    return module._modules, module._parameters, module._buffers


def guard_adapt(adapt: Callable[..., None]) -> Callable[..., None]:
    """An `adapt` that leaves the model as it was if it fails, and notes what it did."""

    @wraps(adapt)
    def guarded(self: Any, model: nn.Module) -> None:
        if ADAPTING.get() is not None:  # called by that of a class which extends this one
            return adapt(self, model)
        check_unadapted(model)
        before = Structure(model)
        trained = frozenset(n for n, p in model.named_parameters() if p.requires_grad)
        token = ADAPTING.set(self)
        try:
            adapt(self, model)
        except BaseException:
            before.restore()
            raise
        finally:
            ADAPTING.reset(token)
        layered = any(isinstance(module, StandIn) for module in model.modules())
        setattr(model, NOTE, Adapted(self, trained, layered))
        watch_model(self, model)

    return guarded


def check_unadapted(model: nn.Module) -> None:
    """Raise ValueError for a model with adapter layers, or with weights that cannot be trained."""
    for name, module in model.named_modules():
        if isinstance(module, StandIn):
            raise ValueError(
                f"The model is adapted already: {name or 'it'} is a {type(module).__name__}. Merge "
                "or unload it first, or load the model anew."
            )
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"{name} has no shape before its first input: run the model once.")
        if parameter.is_inference():
            raise ValueError(
                f"{name} was loaded in inference mode, and autograd cannot go through it: load the "
                "model outside of torch.inference_mode."
            )


def forget(model: nn.Module) -> None:
    """Take the notes off a model that is not adapted any more."""
    for _, module, _ in list(find_notes(model)):
        delattr(module, NOTE)


def find_notes(model: nn.Module) -> Iterator[tuple[str, nn.Module, Adapted]]:
    """The modules in a model that were adapted, by name."""
    for name, module in model.named_modules():
        note = vars(module).get(NOTE)
        if note is not None:
            yield name, module, note
