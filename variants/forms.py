"""Layers that are linear maps: what their weight is as a matrix, and whether they are that alone.

W0 [d_out, d_in] is the weight of a linear layer; for a convolution one row per output channel and
one column per entry of a patch (of its group); for an embedding the table transposed, so that a
token is a column; for transformers' Conv1D the weight transposed.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

Function = TypeVar("Function", bound=Callable)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
OF_TORCH = (nn.Linear, *CONVOLUTIONS, nn.Embedding)
PLAIN = frozenset(cls.forward for cls in OF_TORCH)
# Forward passes of others that are the map of their weight in other words, by where they stand.
CONV1D = "transformers.pytorch_utils.Conv1D"
KNOWN = frozenset(
    {f"{CONV1D}.forward", "transformers.models.falcon.modeling_falcon.FalconLinear.forward"}
)


class Dense:
    """A linear layer, or a base that was made for an adapter: x [..., d_in] to [..., d_out]."""

    noun = "linear layer"
    dense = True  # a product with the last dimension of the input
    merges = True  # a call with W costs no more than one with W0

    @classmethod
    def read_matrix(cls, base: nn.Module) -> Tensor:
        """W0 [d_out, d_in]."""
        return cls.as_matrix(cast(Tensor, base.weight))

    @staticmethod
    def as_matrix(weight: Tensor) -> Tensor:
        """A tensor like the layer's `weight`, such as its gradient, in the shape of W0."""
        return weight

    @staticmethod
    def shape_weight(base: nn.Module, matrix: Tensor) -> Tensor:
        """The layer's own `weight` where W0 were this matrix."""
        return matrix

    @staticmethod
    def call(base: nn.Module, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        """The layer's output where its W0 and bias were these."""
        return F.linear(x, matrix, bias)

    @staticmethod
    def inputs(base: nn.Module, x: Tensor) -> Tensor:
        """Return the tensor that W0 multiplies if the layer gets x, [..., d_in]."""
        return x

    @staticmethod
    def find_channel(base: nn.Module) -> int:
        """The dimension of the output that counts its d_out numbers."""
        return -1


class Transposed(Dense):
    """transformers' Conv1D, which GPT-2 is made of: weight [d_in, d_out]."""

    @staticmethod
    def as_matrix(weight: Tensor) -> Tensor:
        return weight.T

    @staticmethod
    def shape_weight(base: nn.Module, matrix: Tensor) -> Tensor:
        return matrix.T.contiguous()


class Convolution(Dense):
    """nn.Conv1d, 2d or 3d as the linear map over patches; every group has rows of its own."""

    noun = "convolution"
    dense = False

    @staticmethod
    def as_matrix(weight: Tensor) -> Tensor:
        return weight.flatten(1)

    @staticmethod
    def shape_weight(base: nn.Module, matrix: Tensor) -> Tensor:
        return matrix.view(-1, *cast(Tensor, base.weight).shape[1:])

    @staticmethod
    def inputs(base: nn.Module, x: Tensor) -> Tensor:
        # Patches, as the outputs of filters that pass on one entry each; every group has its own.
        groups: int = cast(Any, base).groups
        one = torch.eye(cast(Tensor, base.weight)[0].numel(), dtype=x.dtype, device=x.device)
        patches = Convolution.call(base, x, one.repeat(groups, 1), None)
        patches = patches.movedim(Convolution.find_channel(base), -1)
        return patches if groups == 1 else patches.unflatten(-1, (groups, -1))

    @staticmethod
    def call(base: nn.Module, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        # torch's own, which knows padding by reflection and the like.
        return cast(Any, base)._conv_forward(x, Convolution.shape_weight(base, matrix), bias)

    @staticmethod
    def find_channel(base: nn.Module) -> int:
        return 1 - cast(Tensor, base.weight).dim()


class Embedding(Dense):
    """nn.Embedding as the linear map of one-hot vectors: W0 [width, tokens] is its table turned."""

    noun = "embedding"
    dense = False
    merges = False  # the whole table, to read a few rows

    @staticmethod
    def as_matrix(weight: Tensor) -> Tensor:
        return weight.T

    @staticmethod
    def shape_weight(base: nn.Module, matrix: Tensor) -> Tensor:
        return matrix.T.contiguous()

    @staticmethod
    def call(base: nn.Module, x: Tensor, matrix: Tensor, bias: Tensor | None) -> Tensor:
        return F.embedding(x, matrix.T, cast(Any, base).padding_idx)


Form = type[Dense]


def find_form(layer: nn.Module) -> Form | None:
    """The form of a layer that can be adapted; None for any other module."""
    if isinstance(layer, nn.Linear):
        return Dense
    if isinstance(layer, CONVOLUTIONS):
        return Convolution
    if isinstance(layer, nn.Embedding):
        return Embedding
    return Transposed if get_full_name(type(layer)) == CONV1D else None


def get_matrix(layer: nn.Module) -> Tensor:
    """W0 [d_out, d_in] of a layer that can be adapted."""
    return (find_form(layer) or Dense).read_matrix(layer)


def get_full_name(thing: Any) -> str:
    """The full name of a class or function."""
    return f"{thing.__module__}.{thing.__qualname__}"


def mark_linear_map(forward: Function) -> Function:
    """Mark a forward pass of a layer as the linear map of its own `weight` and `bias`.

    Without the mark, a class with a forward pass of its own counts as another function than its
    weight says. `mark_linear_map(TheirLinear.forward)` marks one that is not yours.
    """
    forward.is_linear_map = True  # type: ignore[attr-defined]
    return forward


def has_known_forward(base: nn.Module) -> bool:
    """Return whether the class of a layer computes the linear map of its weight and nothing else.

    A base that is no layer of torch's was made for an adapter, and is trusted.
    """
    if not isinstance(base, OF_TORCH):
        return True
    forward = type(base).forward
    if forward in PLAIN or getattr(forward, "is_linear_map", False):
        return True
    return get_full_name(forward) in KNOWN


def is_hooked(base: nn.Module) -> bool:
    """Return whether others act when a layer is called: hooks, or a replaced forward pass.

    Global hooks, which profilers use, are not looked at.
    """
    return bool(
        base._forward_hooks
        or base._forward_pre_hooks
        or base._backward_hooks
        or base._backward_pre_hooks
        or "forward" in base.__dict__
    )


def is_plain(base: nn.Module) -> bool:
    """Return whether calling a layer is the linear map of its weight and nothing else.

    Only then may another way to the same number take the place of the call.
    """
    return (
        has_known_forward(base)
        and not is_hooked(base)
        and "parametrizations" not in base._modules  # a weight that moves when it is read
    )


def copy_with(base: nn.Module, weight: Tensor, bias: nn.Parameter | None) -> nn.Module:
    """A layer like `base` in all but its weight, which is frozen, and its bias."""
    computed = is_parametrized(base)  # by torch, which derives a class for it
    cls = type(base).__bases__[0] if computed else type(base)
    made = object.__new__(cls)
    for key, value in vars(base).items():
        # Parameters, hooks and the like are its own from here on.
        made.__dict__[key] = value.copy() if isinstance(value, dict | set) else value
    made.__dict__.pop("_compiled_call_impl", None)  # it calls the layer that it was made from
    if computed:
        del made._modules["parametrizations"]
    made._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    if "bias" in made._parameters:
        made._parameters["bias"] = bias
    return made
