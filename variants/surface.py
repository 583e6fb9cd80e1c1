"""Adapting any module in a line, and going back from it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch.nn as nn

from variants import base
from variants.base import Variant, adapter_layers, hold_in_float32, replace_module
from variants.defaults import check_known, make_method
from variants.forms import find_form
from variants.guard import NOTE, Adapted, Structure, check_unadapted, find_notes
from variants.targets import BLOCKS, NOT, match_names


def adapt(
    model: nn.Module,
    method: str | Variant,
    *,
    targets: str | Iterable[str] | None = None,
    exclude: str | Iterable[str] = (),
    layers: Iterable[int] | None = None,
    also_train: str | Iterable[str] = (),
    **settings: Any,
) -> Variant:
    """Put a method into a model, in place, and return the method.

    `method` is a name, as "dora", or a method object. A setting that you do not give has its value
    in conf/variant/NAME.yaml, and the default targets are all linear layers. `targets`, and
    `exclude`, which leaves some of them out, are names, ends of names, regular expressions,
    `all-linear` or `attention`. `layers` are numbers of blocks, as range(8, 12); -1 is the last
    one (see `variants.targets`). All else is frozen, also a new head: `also_train` names modules
    and parameters that train beside the method.

    Raises ValueError, with the model as it was, for an unknown name, a target that means nothing, a
    layer that the method cannot take, and a model that is adapted already.
    """
    check_unadapted(model)
    for _, _, note in find_notes(model):
        if not note.layered:  # else its layers are gone, taken out by hand
            kind = type(note.variant).__name__
            raise ValueError(f"The model is adapted already, by {kind}; merge or unload it first.")
    variant = choose_method(method, combine_targets(targets, exclude, layers), settings)
    put_into(model, variant, to_list(also_train))
    return variant


def put_into(model: nn.Module, variant: Variant, also_train: list[str]) -> None:
    """Adapt a model, and let parts of it train beside the method."""
    before = Structure(model)
    variant.adapt(model)
    try:
        for name in also_train:
            train_beside(model, name)
        hold_in_float32(model)
    except BaseException:
        before.restore()
        delattr(model, NOTE)
        raise
    note: Adapted = getattr(model, NOTE)
    setattr(model, NOTE, replace(note, beside=tuple(also_train)))


def to_list(names: str | Iterable[str]) -> list[str]:
    """One name or several as a list."""
    return [names] if isinstance(names, str) else list(names)


def combine_targets(
    targets: str | Iterable[str] | None, exclude: str | Iterable[str], layers: Iterable[int] | None
) -> tuple[list[str] | None, list[str]]:
    """The targets, if any are given, and the words that narrow them."""
    narrowing = [f"{NOT}{name}" for name in to_list(exclude)]
    if layers is not None:
        narrowing.append(BLOCKS + ",".join(str(number) for number in layers))
    return None if targets is None else to_list(targets), narrowing


def choose_method(
    method: str | Variant, targets: tuple[list[str] | None, list[str]], settings: dict[str, Any]
) -> Variant:
    """The method with its targets and settings."""
    wanted, narrowing = targets
    if isinstance(method, str):
        given = {} if wanted is None else {"targets": wanted}
        variant = make_method(method, **given, **settings)
    else:
        for key in settings:
            check_known(f"{type(method).__name__} has no setting", key, list_settings(method))
        variant = replace(method, **settings) if settings else method
        if wanted is not None:
            variant = replace_targets(variant, wanted)
    return replace_targets(variant, [*get_targets(variant), *narrowing]) if narrowing else variant


def list_settings(variant: Variant) -> list[str]:
    """The names of a method's settings."""
    return [field.name for field in fields(variant)]


def get_targets(variant: Variant) -> list[str]:
    """A method's targets; none for one without any."""
    return list(getattr(variant, "targets", []))


def replace_targets(variant: Variant, targets: list[str]) -> Variant:
    """The method on other targets; raises ValueError for one that has none."""
    if "targets" not in list_settings(variant):
        raise ValueError(f"{type(variant).__name__} has no targets to choose.")
    return replace(variant, **{"targets": targets})


def train_beside(model: nn.Module, target: str) -> None:
    """Unfreeze the modules and parameters of this name, but for those in adapter layers.

    Raises ValueError if there is none.
    """
    inside = {id(p) for _, layer in adapter_layers(model) for p in layer.parameters()}
    parameters, modules = dict(model.named_parameters()), dict(model.named_modules())
    found = [parameters[name] for name in match_names(parameters, target)]
    found += [p for name in match_names(modules, target) for p in modules[name].parameters()]
    if not found:
        raise ValueError(f"also_train: nothing in this model is named '{target}'.")
    for parameter in found:
        if id(parameter) not in inside:
            parameter.requires_grad_(True)


def find_adaptation(model: nn.Module) -> tuple[str, nn.Module, Adapted]:
    """The part of a model that was adapted, its name in it, and how.

    Raises ValueError if there is none, or more than one.
    """
    found = list(find_notes(model))
    if not found:
        raise ValueError("The model is not adapted: call variants.adapt first.")
    if len(found) > 1:
        names = ", ".join(name or "the model itself" for name, _, _ in found)
        raise ValueError(f"Several parts of the model are adapted, {names}: name one of them.")
    return found[0]


def merge(model: nn.Module) -> None:
    """Replace every adapter layer by the plain layer of equal function, in place.

    Raises ValueError, with nothing replaced, for a model that is not adapted and for a layer that
    has no plain equal.
    """
    find_adaptation(model)
    base.merge(model)


@contextmanager
def disable(model: nn.Module) -> Iterator[None]:
    """Use the model without its adapters inside a `with` block.

    A quantised base stays quantised, and what trains beside the adapters keeps its values. Raises
    ValueError if the method trains the model's own parameters.
    """
    check_apart(model)
    layers = dict(adapter_layers(model))
    for name, layer in layers.items():
        replace_module(model, name, layer.base)
    try:
        yield
    finally:
        for name, layer in layers.items():
            replace_module(model, name, layer)


def unload(model: nn.Module) -> None:
    """Take the adapters out, in place: the model and its `requires_grad` are as before `adapt`.

    Raises ValueError if a layer cannot be restored.
    """
    _, module, note = check_apart(model)
    layers = dict(adapter_layers(model))
    for name, layer in layers.items():
        if find_form(layer.base) is None:
            raise ValueError(
                f"{name} has a {type(layer.base).__name__} in the place of the layer that it had, "
                "whose weights are gone; load the model anew."
            )
    for name, layer in layers.items():
        replace_module(model, name, layer.base)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in note.trained)
    delattr(module, NOTE)


def check_apart(model: nn.Module) -> tuple[str, nn.Module, Adapted]:
    """How a model was adapted; raises ValueError for a method that changes the model's own."""
    found = find_adaptation(model)
    module, variant = found[1], found[2].variant
    own = any(p.requires_grad for p in module.parameters())
    if own and not any(True for _ in adapter_layers(module)):
        raise ValueError(
            f"{type(variant).__name__} trains the model's own parameters, so there is nothing that "
            "could be taken out; load the model anew."
        )
    return found
