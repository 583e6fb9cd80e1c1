"""loralib's checkpoints: a state_dict of factors, and of a head, in a file of PyTorch's."""

from pathlib import Path
from pickle import UnpicklingError

import torch
import torch.nn as nn
from torch import Tensor

from experiments.adapters import checks, foreign
from experiments.adapters.foreign import A, B
from experiments.adapters.saved import Adapter
from experiments.hub import first_line
from experiments.layers import SplitLinear
from experiments.models import Pretrained
from variants.base import Foreign

ENDS = {"lora_A": A, "lora_B": B}
# The authors' GPT-2 adapts these of a fused projection; the file says only how many.
ADAPTED = {2: ("q", "v"), 3: ("q", "k", "v")}


def read_loralib(path: Path, base: Pretrained, alpha: float) -> Adapter:
    """The adapter in a file of loralib's, on this base; the file does not say alpha.

    Raises ValueError for a damaged file, and for a tensor that is none of an adapter's.
    """
    backbone = base.backbone()
    layers, head, shared = foreign.sort_keys(read_state(path), backbone, path)
    if shared:
        raise ValueError(f"{path} has {min(shared)}, which is no tensor of an adapter.")
    named: dict[str, dict[str, Tensor]] = {}
    for name, tensors in layers.items():
        for end in tensors.keys() - ENDS.keys():
            raise ValueError(f"{path} has {name}.{end}, which is no tensor of an adapter.")
        if tensors.keys() != ENDS.keys():
            raise ValueError(f"{path} lacks a factor of {name}: it has {', '.join(tensors)} only.")
        named |= by_linear(name, {ENDS[e]: t for e, t in tensors.items()}, backbone, path)
    rank = len(next(iter(named.values()))[A])
    form = Foreign("loralib", {"r": rank, "lora_alpha": alpha}, named)
    return foreign.adapter_from(form, base, head, path)


def by_linear(
    name: str, tensors: dict[str, Tensor], backbone: nn.Module, path: Path
) -> dict[str, dict[str, Tensor]]:
    """A layer's factors, or those of the parts of a fused one, which lie stacked."""
    module = backbone.get_submodule(name)
    if not isinstance(module, SplitLinear):
        return {name: tensors}
    groups, rest = divmod(len(tensors[B]), len(module.q.weight))
    if rest or groups not in ADAPTED:
        raise ValueError(
            f"{path}: {name}.lora_B has {len(tensors[B])} rows, where {len(module.q.weight)} are "
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
    return state
