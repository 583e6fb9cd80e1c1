"""A module in the place of another: what callers of that one read and do still works."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor


@contextmanager
def keep_float32(places: list[tuple[nn.Module, str]]) -> Iterator[None]:
    """Let modules be moved and converted, but keep these of their tensors in float32 at least."""
    before = [getattr(module, key).data for module, key in places]
    yield
    for (module, key), tensor in zip(places, before, strict=True):
        now = getattr(module, key)
        if now.is_floating_point() and now.itemsize < torch.float32.itemsize:
            master = tensor.to(now.device, torch.promote_types(tensor.dtype, torch.float32))
            if isinstance(now, nn.Parameter):
                now.data = master
                now.grad = None if now.grad is None else now.grad.to(master.dtype)
            else:
                setattr(module, key, master)


class StandIn(nn.Module):
    """A layer around `base`, in whose place it stands.

    Public settings of the base can be read from it, as `in_features` or `kernel_size`. Its own
    tensors stay in float32 at least when the model is converted to less: what trains would lose
    small steps there.
    """

    base: nn.Module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            base = self.__dict__.get("_modules", {}).get("base")
            if base is None or name.startswith("_") or name not in vars(base):
                raise
            return vars(base)[name]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "StandIn":
        with keep_float32(list(self.list_own_tensors())):
            super()._apply(fn, recurse)
        return self

    def list_own_tensors(self) -> Iterator[tuple[nn.Module, str]]:
        """Where the parameters and buffers beside the base lie: module and key."""
        for name, module in self.named_modules():
            if name.partition(".")[0] != "base":
                for tensors in (module._parameters, module._buffers):
                    for key, tensor in tensors.items():
                        if tensor is not None:
                            yield module, key

    def extra_repr(self) -> str:
        """Rank and scale if there are any, and how much of the layer trains."""
        own = {id(t): t for t in (getattr(*place) for place in self.list_own_tensors())}.values()
        trained = sum(t.numel() for t in own if t.requires_grad)
        A = self._parameters.get("A")
        parts = [f"rank={len(A)}"] if A is not None else []
        if isinstance(scale := self.__dict__.get("scale"), float | int):
            parts.append(f"scale={scale:g}")
        parts.append(f"trained={trained:,}" if trained else "frozen")
        return ", ".join(parts)
