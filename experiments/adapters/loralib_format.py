"""loralib's checkpoints: a state_dict of factors, and of a head, in a file of PyTorch's."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from pickle import UnpicklingError
from typing import cast

import torch
import torch.nn as nn
from torch import Tensor

from experiments.adapters import checks, foreign
from experiments.adapters.classifier import whole_head
from experiments.adapters.foreign import A, B
from experiments.adapters.saved import Adapter
from experiments.backbones.layers import SplitLinear
from experiments.disk.hub import first_line
from experiments.models.pretrained import Pretrained
from variants.base import Foreign

ENDS = {"lora_A": A, "lora_B": B}
# The authors' GPT-2 adapts these of a fused projection; the file says only how many.
ADAPTED = {2: ("q", "v"), 3: ("q", "k", "v")}


def read_loralib(path: Path, base: Pretrained, alpha: float) -> Adapter:
    """The adapter in a file of loralib's, on this base; the file does not say alpha.

    Raises ValueError for a damaged file, and for a tensor that is none of an adapter's.
    """
    backbone = base.backbone()
    found = foreign.sort_keys(read_state(path), backbone, path)
    if found.shared:
        raise ValueError(f"{path} has {min(found.shared)}, which is no tensor of an adapter.")
    named: dict[str, dict[str, Tensor]] = {}
    for name, factors in pairs(found.layers, path).items():
        named |= by_linear(name, factors, backbone, path)
    rank = len(next(iter(named.values()))[A])
    form = Foreign("loralib", {"r": rank, "lora_alpha": alpha}, named)
    adapters = replace(form, layers=pairs(found.head_layers, path))
    return foreign.adapter_from(form, base, whole_head(found.head, adapters, base, path), path)


def pairs(layers: Mapping[str, Mapping[str, Tensor]], path: Path) -> dict[str, dict[str, Tensor]]:
    """The two factors of every layer, by PEFT's ends of keys."""
    for name, tensors in layers.items():
        for end in tensors.keys() - ENDS.keys():
            raise ValueError(f"{path} has {name}.{end}, which is no tensor of an adapter.")
        if tensors.keys() != ENDS.keys():
            raise ValueError(f"{path} lacks a factor of {name}: it has {', '.join(tensors)} only.")
    return {name: {ENDS[e]: t for e, t in tensors.items()} for name, tensors in layers.items()}


def by_linear(
    name: str, tensors: dict[str, Tensor], backbone: nn.Module, path: Path
) -> dict[str, dict[str, Tensor]]:
    """A layer's factors, or those of the parts of a fused one, which lie stacked."""
    module = backbone.get_submodule(name)
    if not isinstance(module, SplitLinear):
        return {name: tensors}
    height = len(cast(Tensor, next(iter(module.parts.values())).weight))
    groups, rest = divmod(len(tensors[B]), height)
    if rest or groups not in ADAPTED:
        raise ValueError(
            f"{path}: {name}.lora_B has {len(tensors[B])} rows, where {height} are "
            "one projection; two of them (q, v) or three are read."
        )
    factors = zip(tensors[A].chunk(groups), tensors[B].chunk(groups), strict=True)
    return {
        f"{name}.{part}": {A: a.contiguous(), B: b.contiguous()}
        for part, (a, b) in zip(ADAPTED[groups], factors, strict=True)
    }


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors in a file of PyTorch's; nothing else in it is looked at."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{path} cannot be read ({first_line(error)}).") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise ValueError(f"{path} must hold a state_dict, tensors by name.")
    checks.check_tensors(state, path)
    return foreign.widen(state)
