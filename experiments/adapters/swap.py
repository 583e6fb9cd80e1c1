"""Many adapters of one base in one process, one active at a time, switched by name.

The base is loaded once. Each adapter keeps its own layers around the base's frozen linears, and
its own copy of whatever else it trained; switching puts them in their places and copies nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn as nn

from experiments.adapters.saved import Adapter, check_base, check_whole, load_head, load_state
from experiments.backbones.layers import float_masters
from experiments.models.model import Model, assemble
from experiments.models.pretrained import Pretrained
from variants.base import adapter_layers, replace_module

Parts = dict[str, nn.Module | nn.Parameter]  # what stands where, by dotted name


class Switch:
    """One base and adapters for it: `add` them, then `use` one by name, or None for the base."""

    def __init__(self, base: Pretrained, precision: str = "fp32", device: str = "cpu") -> None:
        self.base, self.precision, self.device = base, precision, device
        self.weights = base.weights_hash()
        loaded = base.load(0, torch.Generator(), precision)
        self.tokenizer = loaded.tokenizer
        self.backbone = loaded.model.eval().to(device).backbone.requires_grad_(False)
        self.bare: Parts = {**dict(self.backbone.named_modules())}
        self.bare |= dict(self.backbone.named_parameters())
        self.adapters: dict[str, Parts] = {}
        self.models: dict[str | None, Model] = {None: loaded.model}
        self.active: str | None = None

    def add(self, name: str, adapter: Adapter) -> None:
        """Take in an adapter under a name.

        Raises ValueError, with nothing changed, if the name is taken, the base is another, or
        the tensors do not fit.
        """
        if name in self.adapters:
            raise ValueError(f"There is an adapter '{name}' already.")
        if (adapter.weights, adapter.precision) != (self.weights, self.precision):
            raise ValueError(
                f"Adapter '{name}' belongs to weights with sha256 {adapter.weights} in "
                f"{adapter.precision}, and this base has {self.weights} in {self.precision}."
            )
        check_base(adapter)
        with self.bare_again():
            own = self.own_parts(adapter)
        model = assemble(self.backbone, adapter.num_outputs, adapter.model.head)
        if adapter.num_outputs:
            load_head(adapter, model.head)
        self.adapters[name] = own
        self.models[name] = model.eval().to(self.device)

    def use(self, name: str | None) -> Model:
        """The model with this adapter, and no other, in its place."""
        if name not in self.models:
            known = ", ".join(self.adapters) or "none"
            raise ValueError(f"There is no adapter '{name}'; added are: {known}.")
        if name != self.active:
            self.place({part: self.bare[part] for part in self.adapters.get(self.active or "", {})})
            self.place(self.adapters[name] if name is not None else {})
            self.active = name
        return self.models[name]

    @contextmanager
    def bare_again(self) -> Iterator[None]:
        """The bare base, whatever is done to it, and afterwards what was active."""
        active = self.active
        self.use(None)
        values = [(parameter, parameter.data) for parameter in self.backbone.parameters()]
        try:
            yield
        finally:
            self.place(self.bare)
            for parameter, data in values:  # a method that trains them may have widened them
                parameter.data = data
            self.backbone.requires_grad_(False)
            self.use(active)

    def own_parts(self, adapter: Adapter) -> Parts:
        """Return the parts in which the adapter differs from the base; the base stays changed."""
        own: Parts = {}
        with torch.random.fork_rng(devices=[]):
            adapter.variant.adapt(self.backbone)
        base = {id(part) for part in self.bare.values()}
        for name, parameter in self.backbone.named_parameters():
            if parameter.requires_grad and id(parameter) in base:
                own[name] = nn.Parameter(parameter.detach().clone())
        self.place(own)
        float_masters(self.backbone)
        load_state(adapter, self.backbone)
        check_whole(adapter)
        own |= dict(adapter_layers(self.backbone))
        for part in own.values():
            part.requires_grad_(False)
        return own

    def place(self, parts: Parts) -> None:
        """Put modules and parameters where their names say."""
        for name, part in parts.items():
            if name:
                replace_module(self.backbone, name, part)
