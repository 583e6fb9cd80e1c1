"""Collect the state of an adapted model beside its parameters, and put states back."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn as nn
from torch import Tensor

from variants.stand_in import StandIn


def collect_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The persistent buffers that are no adapter's books and no codes of a frozen weight, by name.

    Training moves some of them, as the averages of a batch norm and the vectors of a spectral norm.
    """
    apart = {id(module) for module in find_books_and_codes(model)}
    return {
        f"{name}.{key}".removeprefix("."): buffer.detach()
        for name, module in model.named_modules()
        if id(module) not in apart
        for key, buffer in module._buffers.items()
        if buffer is not None and key not in module._non_persistent_buffers_set
    }


def find_books_and_codes(model: nn.Module) -> Iterator[nn.Module]:
    """Adapter layers with all in them but their bases, and quantised bases."""
    for module in model.modules():
        if isinstance(module, StandIn):
            for name, part in module.named_modules():
                if name.partition(".")[0] != "base":
                    yield part
        elif getattr(module, "holds_codes", False):
            yield module


def without(
    state: Mapping[str, Tensor], model: nn.Module, frozen: Iterable[Tensor]
) -> dict[str, Tensor]:
    """A state of the model without these frozen parameters, by whichever name they have there."""
    left_out = {id(parameter) for parameter in frozen}
    names = {name for name, p in model.named_parameters() if id(p) in left_out}
    return {name: tensor for name, tensor in state.items() if name not in names}


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, and afterwards each module in that which it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def collect_books(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers of adapter layers by name: bookkeeping that no function depends on."""
    return {
        f"{name}.{key}": buffer
        for name, module in model.named_modules()
        if isinstance(module, StandIn)
        for key, buffer in module._buffers.items()
        if buffer is not None
    }


def find_low_precision(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters that are stored in less than float32, by name."""
    size = torch.float32.itemsize
    return {n: p for n, p in model.named_parameters() if p.requires_grad and p.itemsize < size}


def hold_in_float32(model: nn.Module) -> None:
    """Store in float32 whatever trains, where its module casts it at use.

    Raises ValueError for a module that does not: its own products want one dtype.
    """
    for name, parameter in find_low_precision(model).items():
        module = model.get_submodule(name.rpartition(".")[0])
        if not getattr(module, "casts_at_use", False):
            raise ValueError(
                f"{name} would train in {parameter.dtype}, in which small steps are lost: load the "
                "model in float32, and train under autocast if it is to be fast."
            )
        parameter.data = parameter.data.float()


def check_trained(model: nn.Module) -> None:
    """Raise ValueError for a trainable parameter that is stored in less than float32."""
    for name, parameter in find_low_precision(model).items():
        raise ValueError(
            f"{name} would train in {parameter.dtype}, in which small steps are lost; hold what "
            "trains in float32, by `.float()` of its module."
        )


@torch.no_grad()
def copy_exactly(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy tensors by name.

    Raises ValueError, with nothing copied, for a missing, an unexpected or a misshapen one, and
    for one without memory to copy into.
    """
    check_fit(target, source)
    for name, tensor in target.items():
        tensor.copy_(source[name])


def check_fit(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless every tensor of `target` can be copied from the one of its name."""
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
        if tensor.is_meta or source[name].is_meta:
            where = "the model" if tensor.is_meta else "the stored state"
            raise ValueError(f"Tensor '{name}' of {where} is on the meta device: it has no values.")


def shorten(names: Iterable[str], most: int = 3) -> str:
    """The first few names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) + more) or "none"
