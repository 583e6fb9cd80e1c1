"""Last k layers: the top blocks of the backbone train (FT-Top2 in Hu et al., 2021, Table 3)."""

from dataclasses import dataclass

import torch.nn as nn

from variants.base import Variant, hold_in_float32


@dataclass(frozen=True, kw_only=True)
class LastK(Variant):
    """Every parameter of the last k blocks, and none above or below them."""

    k: int  # blocks that train, counted from the last
    blocks: str | None = None  # the stack they are taken from, where a model has several

    def adapt(self, model: nn.Module) -> None:
        model.requires_grad_(False)
        blocks = list(self.find_stack(model).children())
        if not 1 <= self.k <= len(blocks):
            raise ValueError(f"k must lie in 1 to {len(blocks)}, the model's blocks, got {self.k}.")
        for block in blocks[-self.k :]:
            block.requires_grad_(True)
        hold_in_float32(model)

    def find_stack(self, model: nn.Module) -> nn.Module:
        """The blocks in order; raises ValueError if it is not clear which."""
        found = find_stacks(model)
        if self.blocks is not None:
            named = dict(model.named_modules())
            end = f".{self.blocks}"
            found = {n: m for n, m in named.items() if n and f".{n}".endswith(end) and is_stack(m)}
        if len(found) == 1:
            return next(iter(found.values()))
        listed = ", ".join(f"{name} ({len(list(m.children()))})" for name, m in found.items())
        if self.blocks is not None:
            raise ValueError(f"blocks='{self.blocks}' must name a stack, got: {listed or 'none'}.")
        if not found:
            raise ValueError("This model has no list of blocks; name one by `blocks`.")
        raise ValueError(f"This model has several lists of blocks: {listed}; name one by `blocks`.")


def find_stacks(model: nn.Module) -> dict[str, nn.Module]:
    """The lists of modules that lie in no other, by name: experts lie in that of the blocks."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and is_stack(module) and not inside:
            found[name] = module
    return found


def is_stack(module: nn.Module) -> bool:
    """Return whether a module is a list of modules that have parameters."""
    listed = isinstance(module, nn.ModuleList | nn.Sequential) and len(module) > 0
    return listed and all(any(True for _ in block.parameters()) for block in module.children())
