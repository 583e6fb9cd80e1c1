"""Summarise an adapted model: its adapted layers, all other modules, and parameter counts."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from typing import cast

import torch.nn as nn
from torch import Tensor

from variants.base import AdapterLayer, adapter_layers
from variants.forms import find_form
from variants.surface import find_adaptation


@dataclass(frozen=True)
class Summary:
    """The numbers of an adapted model; `print` shows them as text."""

    method: str
    settings: dict[str, object]
    adapted: dict[str, int]  # layers by name, with a star for each number
    left: dict[str, int]  # other modules with parameters of their own, by name and kind
    beside: int  # parameters that train outside of adapter layers
    trained: int
    total: int  # of the model with its adapters

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        share = 100 * self.trained / max(1, self.total)
        outside = f", {self.beside:,} of them outside of adapters" if self.beside else ""
        return "\n".join(
            [
                f"{self.method}({settings})",
                *format_lines("adapted", self.adapted),
                *format_lines("left", self.left),
                f"trained  {self.trained:,} of {self.total:,} parameters, {share:.2f} %{outside}",
            ]
        )

    __repr__ = __str__


def format_lines(title: str, counts: dict[str, int]) -> Iterator[str]:
    """One line for each entry, the title before the first."""
    for name, count in counts.items() or {"nothing": 1}.items():
        yield f"{title:9}{f'{count} x ' if count > 1 else ''}{name}"
        title = ""


def summary(model: nn.Module) -> Summary:
    """Summarise which layers are adapted, which modules are not, and how much trains.

    Raises ValueError for a model that is not adapted.
    """
    variant = find_adaptation(model)[2].variant
    settings = {field.name: getattr(variant, field.name) for field in fields(variant)}
    layers = dict(adapter_layers(model))
    inside = {id(p) for layer in layers.values() for p in layer.parameters()}
    parameters = list(model.parameters())
    trained = [p for p in parameters if p.requires_grad]
    return Summary(
        method=type(variant).__name__,
        settings=settings,
        adapted=count_groups((name, describe_layer(layer.base)) for name, layer in layers.items()),
        left=count_groups(find_left(model)),
        beside=sum(p.numel() for p in trained if id(p) not in inside),
        trained=sum(p.numel() for p in trained),
        total=sum(p.numel() for p in parameters),
    )


def count_groups(modules: Iterable[tuple[str, str]]) -> dict[str, int]:
    """How many there are of each kind, by its name, with a star for each number of several."""
    groups: dict[str, list[str]] = {}
    for name, kind in modules:
        groups.setdefault(f"{star_numbers(name)} {kind}", []).append(f"{name or 'itself'} {kind}")
    return {(key if len(n) > 1 else n[0]): len(n) for key, n in groups.items()}


def find_left(model: nn.Module) -> Iterator[tuple[str, str]]:
    """Each module outside of adapter layers that has parameters of its own, and what it is."""
    within = {
        id(part)
        for module in model.modules()
        if isinstance(module, AdapterLayer)
        for part in module.modules()
    }
    for name, module in model.named_modules():
        own = list(module.named_parameters(recurse=False))
        if id(module) in within or not own:
            continue
        state = "trained" if any(p.requires_grad for _, p in own) else "frozen"
        if find_form(module) is not None:
            yield name, f"{describe_layer(module)}, {state}"
        else:
            shapes = ", ".join(f"{key} {list(p.shape)}" for key, p in own)
            yield name, f"{type(module).__name__} ({shapes}), {state}"


def describe_layer(layer: nn.Module) -> str:
    """The kind of a layer and its weight's shape."""
    return f"{type(layer).__name__} {list(cast(Tensor, layer.weight).shape)}"


def star_numbers(name: str) -> str:
    """A dotted name with a star in the place of each number."""
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)
