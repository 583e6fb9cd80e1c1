"""The factors in a file of another library's, read without the base model that they belong to.

An update is then known and the weight is not, so this serves looking at adapters and not using
them. B holds the scale; both are float64, and named as the layers of a backbone.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch
import torch.nn as nn
from torch import Tensor

from experiments.adapters import foreign
from experiments.adapters.loralib_format import ADAPTED, ENDS, read_state
from experiments.adapters.peft_format import CONFIG, by_layer, read_files
from variants.base import Foreign, adapter_layers

BACKBONE = re.compile(r"^(roberta|bert|transformer)\.")  # a classifier's name for its backbone
BARE = nn.Module()  # what its attributes are called, no layer may be
Pairs = dict[str, tuple[Tensor, Tensor]]  # B [d_out, r] and A [r, d_in] by layer


def loralib_factors(path: Path, alpha: float) -> Pairs:
    """Those in a file of loralib's; of GPT-2's fused projection by its parts.

    Raises ValueError if a factor is missing, or none is there.
    """
    found: Pairs = {}
    for name, pair in by_name(read_state(path)).items():
        if pair.keys() != ENDS.keys():
            raise ValueError(f"{path} lacks a factor of {name}: it has {', '.join(pair)} only.")
        A, B = (pair[end].double() for end in ENDS)
        rank = B.shape[1]
        groups, rest = divmod(len(A), rank)
        if rest or groups not in (1, *ADAPTED):
            raise ValueError(f"{path}: {name} has factors {list(B.shape)} and {list(A.shape)}.")
        parts = [name] if groups == 1 else [f"{name}.{part}" for part in ADAPTED[groups]]
        for part, a, b in zip(parts, A.chunk(groups), B.chunk(groups), strict=True):
            found[part] = alpha / rank * b, a
    if not found:
        raise ValueError(f"{path} holds no factors of an adapter.")
    return found


def peft_factors(folder: Path) -> Pairs:
    """Those in a folder of PEFT's, by the method that reads it; a fused projection stays one.

    Raises ValueError for methods whose update is no product of factors, or needs the weight.
    """
    config, stored = read_files(folder)
    layers = by_name(stored)
    full = (key.partition(".lora_")[0] for key in stored)
    names = {BACKBONE.sub("", name): name for name in full}
    form = Foreign("peft", by_layer(config, layers, names, folder / CONFIG), layers)
    read = (cls.from_foreign(form) for cls in foreign.methods() if "from_foreign" in vars(cls))
    variant, state = next((pair for pair in read if pair), (None, {})) if layers else (None, {})
    model = stand_in(layers)
    if variant is not None:
        with torch.random.fork_rng(devices=[]):  # whatever is drawn here is overwritten
            variant.adapt(model)
        variant.load_state(model, state)
    found = {name: layer.factors() for name, layer in adapter_layers(model)}
    if not found or None in found.values():
        raise ValueError(
            f"{folder} holds an adapter of type {config['peft_type']} whose change is more than "
            "factors; bring it onto its base with python -m experiments.adapters import."
        )
    return {
        name: (scale * B.detach(), A.detach())
        for name, (A, B, scale) in cast(dict[str, tuple[Tensor, Tensor, float]], found).items()
    }


def stand_in(layers: Mapping[str, Mapping[str, Tensor]]) -> nn.Module:
    """A model of linear layers of these names, all zero, of the shapes that the factors have."""
    model = nn.Module()
    for name, tensors in layers.items():
        sides = {key.partition(".")[0]: tensor.shape for key, tensor in tensors.items()}
        if not {"lora_A", "lora_B"} <= sides.keys():
            raise ValueError(f"{name} lacks a factor: it has {', '.join(tensors)} only.")
        linear = nn.Linear(sides["lora_A"][-1], sides["lora_B"][0], bias=False, device="meta")
        # One zero that looks like many: what a file says of sizes takes no memory.
        zeros = torch.zeros((), dtype=torch.float64).expand(linear.weight.shape)
        linear.weight = nn.Parameter(zeros, requires_grad=False)
        *parents, last = name.split(".")
        if taken := [part for part in (*parents, last) if not part or hasattr(BARE, part)]:
            raise ValueError(f"{name} is no name of a layer: it has '{taken[0]}' in it.")
        inner = model
        for parent in parents:
            if parent not in inner._modules:
                inner.add_module(parent, nn.Module())
            inner = inner.get_submodule(parent)
        inner.add_module(last, linear)
    return model


def by_name(stored: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """An adapter's tensors by layer, named as in a backbone alone, and by the end of the key."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in stored.items():
        name, dot, end = key.partition(".lora_")
        if dot:
            found.setdefault(BACKBONE.sub("", name), {})[f"lora_{end}"] = tensor
    return found
