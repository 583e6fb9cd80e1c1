"""A watch on the hooks of a method: a forgotten one makes it another method in silence.

From the moment a model is adapted, the second step of any optimiser on its parameters asks which of
the hooks that the method has written were not called yet, and warns of them, once.
"""

import warnings
import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
import torch.nn as nn
from torch.optim.optimizer import register_optimizer_step_post_hook

HOOKS = ("prepare", "param_groups", "penalty", "after_backward", "after_step")
LOADING = "load_state"  # what is loaded holds what `prepare` had decided
STEPS = 2  # of an optimiser, until which every hook has had its first call


class WatchedModel:
    """An adapted model until all hooks of its method have been called."""

    def __init__(self, variant: Any, model: nn.Module, missing: set[str]) -> None:
        self.variant = variant
        self.model = weakref.ref(model)
        self.missing = missing
        self.steps = 0

    def is_part_of(self, model: nn.Module) -> bool:
        """Return whether this model, or what it lies in, is the one that is given."""
        own = self.model()
        return own is not None and any(module is own for module in model.modules())

    def is_trained_by(self, optimizer: torch.optim.Optimizer) -> bool:
        """Return whether the optimiser moves something of this model."""
        model = self.model()
        own = set() if model is None else {id(p) for p in model.parameters()}
        return any(id(p) in own for group in optimizer.param_groups for p in group["params"])

    def warn(self) -> None:
        """Say what was forgotten, and what calls it."""
        names = ", ".join(name for name in HOOKS if name in self.missing)
        warnings.warn(
            f"{type(self.variant).__name__} has hooks that this training does not call: {names}. "
            "Without them it is another method. variants.Hooks calls them in a loop of your own, "
            "variants.hf.VariantTrainer in transformers' Trainer.",
            stacklevel=2,
        )


WATCHED: list[WatchedModel] = []
ON_OPTIMIZERS: list[Any] = []  # the handle of `count_step`, once there was something to watch


def watch_model(variant: Any, model: nn.Module) -> None:
    """Expect the hooks that a method has written to be called from here on."""
    WATCHED[:] = [watched for watched in WATCHED if watched.model() is not None]
    contract = type(variant).__mro__[-2]
    written = {n for n in HOOKS if getattr(type(variant), n) is not getattr(contract, n)}
    missing = written - variant.list_idle_hooks()
    if missing:
        WATCHED.append(WatchedModel(variant, model, missing))
        if not ON_OPTIMIZERS:
            ON_OPTIMIZERS.append(register_optimizer_step_post_hook(count_step))


def count_step(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """After a step of any optimiser: the models it trains have one step more behind them."""
    for watched in list(WATCHED):
        if watched.is_trained_by(optimizer):
            watched.steps += 1
            if watched.steps == STEPS:
                WATCHED.remove(watched)
                watched.warn()


def note_calls(hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that leaves word of its being called."""
    name = "prepare" if hook.__name__ == LOADING else hook.__name__

    @wraps(hook)
    def noting(self: Any, model: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for watched in list(WATCHED):
            if watched.variant == self and name in watched.missing and watched.is_part_of(model):
                watched.missing.discard(name)
                if not watched.missing:
                    WATCHED.remove(watched)
        return hook(self, model, *args, **kwargs)

    return noting
