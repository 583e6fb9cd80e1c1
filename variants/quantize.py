"""Frozen linear layers of few bits: NF4 in blocks, and integers in groups along the input.

NF4: Dettmers et al., 2023, arXiv:2305.14314, Sec. 3.
Groups: Xu et al., 2023, arXiv:2309.14717, Eq. (1).
"""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from variants.base import at_least_float32, linear_class
from variants.forms import is_plain, mark_linear_map
from variants.products import flatten_rows, is_transforming, restore_shape
from variants.stand_in import keep_float32

# The 16 levels as in the authors' code; the paper prints another construction.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
)  # fmt: skip


BACKENDS = ("torch", "bitsandbytes")
BNB_BLOCKS = (64, 128, 256, 512, 1024)  # those that all its versions have kernels for


class Frozen(torch.autograd.Function):
    """x W^T [N, d_out] for a frozen layer that makes W anew in the backward pass and does not keep
    it."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: "QuantLinear") -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.weight.to(gradient.dtype), None


class QuantLinear(nn.Module):
    """A frozen linear layer whose weight [d_out, d_in] is stored in few bits."""

    holds_codes = True  # in its buffers, which follow from the base and are not saved

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        check_quantisable(linear)
        self.shape = linear.weight.shape
        self.out_features, self.in_features = self.shape  # as callers may read them
        self.linear_class = linear_class(linear)  # what it becomes again when merged
        self.bias = linear.bias
        self.stored_dtype = linear.weight.dtype

    @property
    def weight(self) -> Tensor:
        """The weight that the stored bits stand for, in the dtype it came in."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantLinear":
        # What the bits are scaled by stays as precise as it was: the weight is rounded, once.
        with keep_float32([(self, key) for key in self._buffers]):
            super()._apply(fn, recurse)
        some = next(iter(self._buffers.values()))
        assert some is not None
        self.stored_dtype = fn(torch.empty(0, dtype=self.stored_dtype, device=some.device)).dtype
        return self

    @mark_linear_map
    def forward(self, x: Tensor) -> Tensor:
        if is_transforming():
            y = F.linear(x, self.weight.to(x.dtype))
        else:
            y = restore_shape(Frozen.apply(flatten_rows(x), self), x)
        return y if self.bias is None else y + self.bias.to(x.dtype)


def check_quantisable(linear: nn.Module) -> None:
    """Raise ValueError for a layer that is more than its weight."""
    if not is_plain(linear):
        raise ValueError(
            f"This {type(linear).__name__} has hooks, a parametrisation or a forward pass of "
            "its own, and quantising it would keep its weight alone."
        )


class NF4Linear(QuantLinear):
    """Blocks of the flattened weight, each scaled by its largest entry, in 16 levels.

    With `double`, the scales are themselves held in 8 bits: their mean, and per 256 of them one
    largest deviation. Torch or bitsandbytes reads the same bits.
    """

    def __init__(self, linear: nn.Linear, block: int, double: bool, backend: str = "torch") -> None:
        super().__init__(linear)
        if backend == "bitsandbytes":
            bitsandbytes()
        self.block = block
        self.backend = backend
        flat = at_least_float32(linear.weight.detach()).flatten()
        padded = F.pad(flat, (0, -len(flat) % (2 * block))).view(-1, block)
        scales = padded.abs().amax(dim=1)
        levels = torch.tensor(NF4, dtype=flat.dtype, device=flat.device)
        midpoints = (levels[1:] + levels[:-1]) / 2
        normal = padded / scales.clamp_min(torch.finfo(flat.dtype).tiny)[:, None]
        codes = torch.bucketize(normal, midpoints).to(torch.uint8).view(-1, 2)
        self.codes: Tensor
        self.levels: Tensor
        self.register_buffer("codes", codes[:, 0] << 4 | codes[:, 1])
        self.register_buffer("levels", levels, persistent=False)
        self.store_scales(scales, double)

    def store_scales(self, scales: Tensor, double: bool) -> None:
        """Keep one scale per block, in full or in 8 bits."""
        self.doubled = double
        self.plain_scales: Tensor
        self.scale_codes: Tensor
        self.scale_steps: Tensor
        self.scale_mean: Tensor
        if not double:
            self.register_buffer("plain_scales", scales)
            return
        mean = scales.mean()
        centred = F.pad(scales - mean, (0, -len(scales) % 256)).view(-1, 256)
        steps = centred.abs().amax(dim=1, keepdim=True) / 127
        codes = (centred / steps.clamp_min(torch.finfo(scales.dtype).tiny)).round().to(torch.int8)
        self.register_buffer("scale_codes", codes.flatten()[: len(scales)].clone())
        self.register_buffer("scale_steps", steps[:, 0])
        self.register_buffer("scale_mean", mean)

    @property
    def scales(self) -> Tensor:
        """The largest entry of each block, as stored."""
        if not self.doubled:
            return self.plain_scales
        steps = self.scale_steps.repeat_interleave(256)[: len(self.scale_codes)]
        return self.scale_codes * steps + self.scale_mean

    @property
    def weight(self) -> Tensor:
        blocks = self.read_by_bitsandbytes() if self.backend == "bitsandbytes" else self.read()
        return blocks.flatten()[: self.shape.numel()].view(self.shape).to(self.stored_dtype)

    def read(self) -> Tensor:
        """The padded weight [blocks, block]."""
        codes = torch.stack((self.codes >> 4, self.codes & 15), dim=1).flatten().int()
        return self.levels[codes].view(-1, self.block) * self.scales[:, None]

    def read_by_bitsandbytes(self) -> Tensor:
        """The padded weight [blocks, block], by its kernels."""
        check_bitsandbytes(self.codes.device.type)
        # It knows no float64, and has no more digits than float32 to give.
        dtype = torch.float32 if self.stored_dtype == torch.float64 else self.stored_dtype
        return bnb_weight(self.codes, self.scales.float(), self.block, dtype)


def bitsandbytes() -> Any:
    """bitsandbytes' functions, imported where they are asked for and nowhere else.

    Raises ValueError if the package is missing.
    """
    # It complains of kernels from a hub, which are not for training.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        from bitsandbytes import functional
    except ImportError as error:
        raise ValueError(
            'variant.backend=bitsandbytes needs the package: pip install -e ".[bnb]" '
            f"(or variant.backend=torch); importing it says: {error}."
        ) from None
    return functional


def bnb_weight(codes: Tensor, scales: Tensor, block: int, dtype: torch.dtype) -> Tensor:
    """Return the weights of NF4 codes with one scale per block, [blocks, block]."""
    functional = bitsandbytes()
    state = functional.QuantState(
        absmax=scales, shape=(len(scales), block), blocksize=block, quant_type="nf4", dtype=dtype
    )
    return functional.dequantize_4bit(codes.view(-1, 1), state)


@cache
def check_bitsandbytes(device: str) -> None:
    """Raise ValueError if bitsandbytes has no kernels for this type of device."""
    codes = torch.zeros(32, dtype=torch.uint8, device=device)
    try:
        bnb_weight(codes, torch.ones(1, device=device), 64, torch.float32)
    except (RuntimeError, AttributeError) as error:  # a library that was not found is an attribute
        raise ValueError(
            f"bitsandbytes cannot read 4-bit weights on {device} here, use variant.backend=torch "
            f'or another build of pip install -e ".[bnb]": {error}.'
        ) from None


class GroupLinear(QuantLinear):
    """W = step q + low per row and group of inputs, with integers q of few bits.

    `step` and `low` are [d_out, groups]; q [d_out, d_in] takes a byte each, whatever `bits` is.
    """

    def __init__(self, linear: nn.Linear, bits: int, group: int) -> None:
        super().__init__(linear)
        d_out, d_in = linear.weight.shape
        if d_in % group:
            raise ValueError(f"group must divide d_in={d_in}, got {group}.")
        self.group = group
        grouped = at_least_float32(linear.weight.detach()).view(d_out, -1, group)
        low, high = grouped.amin(dim=2), grouped.amax(dim=2)
        step = (high - low) / (2**bits - 1)
        # A group of equal entries has step 0: its codes are 0 and `low` says all.
        safe = torch.where(step > 0, step, torch.ones_like(step))
        q = ((grouped - low[..., None]) / safe[..., None]).round().to(torch.uint8)
        self.q: Tensor
        self.step: Tensor
        self.low: Tensor
        self.register_buffer("q", q.view(d_out, d_in))
        self.register_buffer("step", step)
        self.register_buffer("low", low)

    @property
    def weight(self) -> Tensor:
        grouped = (
            self.q.view(*self.step.shape, self.group) * self.step[..., None] + self.low[..., None]
        )
        return grouped.view(self.shape)
