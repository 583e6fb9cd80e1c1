"""The form of an adapter that leaves its base as it is: base(x) + (W - W0) x.

It serves every base that is more than its weight, by hooks or a forward pass of its own, and those
that are no linear layers; and whatever a method has written for plain linear layers is left out.
"""

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.forms import Embedding, has_known_forward, is_hooked, is_plain
from variants.kernels import MERGED, at_least_float32, full_precision

if TYPE_CHECKING:
    from variants.base import AdapterLayer

Update = TypeVar("Update", bound=Callable)


def additive(update: Update) -> Update:
    """Mark an `update` that gives y and a term that depends on x alone."""
    update.is_additive = True  # type: ignore[attr-defined]
    return update


def for_plain_linears(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A layer's own forward pass, with `beside` in its place where the base is no plain linear."""

    @wraps(forward)
    def routed(self: "AdapterLayer", x: Tensor) -> Tensor:
        return forward(self, x) if is_plain_linear(self) else self.beside(x)

    return routed


def is_plain_linear(layer: "AdapterLayer") -> bool:
    """Whether the base is x W0^T + b for x [..., d_in], and nothing else."""
    return layer.form.dense and is_plain(layer.base)


def beside(layer: "AdapterLayer", x: Tensor) -> Tensor:
    """base(x) + (W - W0) x; in one call of W where that is the same.

    Raises ValueError where a linear layer returns something else than [..., d_out].
    """
    form, base = layer.form, layer.base
    whole = form.merges and not form.dense and not layer.dropping()
    if whole and is_plain(base) and precise(x, base):
        return form.call(base, x, layer.full_weight(), layer.bias)
    y = base(x)
    if form.dense:
        check_output(layer, x, y)
        # As marked by the very `update` that is called, not by one that it overrides.
        if getattr(type(layer).update, "is_additive", False):
            return layer.update(x, y)
    return y + added(layer, x, y.dtype)


def precise(x: Tensor, base: nn.Module) -> bool:
    """Whether W can be used in the dtype of x without rounding a small change away."""
    dtype: torch.dtype = base.weight.dtype  # type: ignore[assignment]
    return x.dtype == dtype in MERGED and not torch.is_autocast_enabled(x.device.type)


def added(layer: "AdapterLayer", x: Tensor, dtype: torch.dtype) -> Tensor:
    """(W - W0) x in this dtype, x behind the layer's dropout."""
    form, base = layer.form, layer.base
    if form is Embedding:
        return added_to_embedding(layer, x, dtype)
    return form.call(base, dropped(layer, x).to(dtype), change(layer).to(dtype), None)


def added_to_embedding(layer: "AdapterLayer", x: Tensor, dtype: torch.dtype) -> Tensor:
    """(W - W0) for the tokens x alone; dropout leaves out whole tokens, the ones of their vectors.

    The whole of W is made where a method does not say its factors.
    """
    factors = layer.factors()
    if factors is None:
        found = Embedding.call(layer.base, x, change(layer), None)
    else:
        A, B, scale = factors
        found = F.linear(Embedding.call(layer.base, x, A, None), scale * B)
    found = found.to(dtype)
    return found * dropped(layer, torch.ones_like(found[..., :1])) if layer.dropping() else found


def change(layer: "AdapterLayer") -> Tensor:
    """W - W0 [d_out, d_in], at least float32."""
    factors = layer.factors()
    if factors is None:
        return layer.full_weight() - at_least_float32(layer.W0)
    A, B, scale = factors
    with full_precision(A.device):
        return scale * at_least_float32(B) @ at_least_float32(A)


def dropped(layer: nn.Module, x: Tensor) -> Tensor:
    """x behind the layer's dropout, where it has one."""
    for part in layer.children():
        if isinstance(part, nn.Dropout):
            x = part(x)
    return x


def check_output(layer: "AdapterLayer", x: Tensor, y: Any) -> None:
    """Raise ValueError for an output of a base that its weight could not have."""
    shape = (*x.shape[:-1], len(layer.W0))
    if not isinstance(y, Tensor) or y.shape != shape:
        found = list(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(
            f"{type(layer.base).__name__} returns {found} where its weight gives {list(shape)}: "
            "there is nothing that an adapter could be added to; leave it out of the targets."
        )


def check_readable(layer: "AdapterLayer") -> None:
    """Raise ValueError for a base whose weight is on the meta device, and its adapter's is not."""
    own = (getattr(*place) for place in layer.own_tensors())
    if layer.W0.is_meta and not all(tensor.is_meta for tensor in own):
        raise ValueError(
            f"The weight of this {type(layer.base).__name__} is on the meta device, offloaded or "
            "not loaded yet, and the adapter computes with it; load it first."
        )


def check_mergeable(base: nn.Module) -> None:
    """Raise ValueError for a base that does more than its weight says: no weight equals it."""
    kind = type(base).__name__
    if not has_known_forward(base):
        raise ValueError(
            f"{kind} has a forward pass of its own, so no {kind} equals it and its adapter; if "
            f"that is x W^T + b, mark it: variants.forms.linear_map({kind}.forward)."
        )
    if is_hooked(base):
        raise ValueError(
            f"The {kind} below the adapter has hooks, which act on its output alone and would act "
            "on the merged one; remove them first."
        )
