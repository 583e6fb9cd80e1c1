"""The head of another library's classifier, put together from an adapter's file and its base.

The file holds what was trained whole. The rest is the base's own, as BERT's pooler is, with the
adapter merged into it if it has one.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn as nn
from safetensors import safe_open
from torch import Tensor

from experiments.adapters.foreign import read_form
from experiments.backbones.heads import from_transformers
from experiments.families.base import family_of
from experiments.models.files import weight_files
from experiments.models.pretrained import Pretrained
from variants.base import Foreign, copy_exactly, merge


def whole_head(
    stored: Mapping[str, Tensor], adapters: Foreign, base: Pretrained, where: Path
) -> dict[str, Tensor]:
    """All tensors of the head, given those of the file and the adapters of layers of the head.

    Raises ValueError for a tensor that is nowhere, or has another shape than the others ask for.
    """
    if not stored and not adapters.layers:
        return {}
    config = base.config()
    family = family_of(config)
    names = family.head_names(config)
    tensors = {**base_head(base), **stored}
    for layer, theirs in names.items():
        if f"{layer}.weight" not in tensors:
            raise ValueError(
                f"{where} belongs to a classifier whose {theirs} is neither in this file nor in "
                "the base, so that it cannot be known; let PEFT save it (modules_to_save)."
            )
    if adapters.layers:
        tensors |= merge_layers(tensors, adapters, where, names)
    *_, projection = names
    with torch.device("meta"):
        head = family.head(config, len(tensors[f"{projection}.weight"]))
    found = {name: torch.empty(tensor.shape) for name, tensor in head.state_dict().items()}
    try:
        copy_exactly(found, tensors)
    except ValueError as error:
        raise ValueError(f"{where}: the classifier's head does not fit: {error}") from None
    return found


def base_head(base: Pretrained) -> dict[str, Tensor]:
    """The head's tensors in the base's own checkpoint; a bare backbone has none but a pooler."""
    config = base.config()
    names = family_of(config).head_names(config)
    found: dict[str, Tensor] = {}
    for file in weight_files(base.folder()):
        with safe_open(file, "pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 (not a dict)
                # A bare backbone's tensors lack its own name, which those of the head may have.
                for name in (key, f"{config.model_type}.{key}"):
                    for ours in from_transformers({name: torch.empty(0)}, names):
                        found[ours] = tensors.get_tensor(key).float()
    return found


def merge_layers(
    tensors: Mapping[str, Tensor], adapters: Foreign, where: Path, names: Mapping[str, str]
) -> dict[str, Tensor]:
    """The weights of the head's adapted layers with their adapters merged.

    Raises ValueError if the method cannot be read for these layers alone.
    """
    head = nn.Module()
    for layer in adapters.layers:
        weight = tensors[f"{layer}.weight"]
        head.add_module(layer, nn.Linear(weight.shape[1], len(weight), bias=False))
        head.get_submodule(layer).load_state_dict({"weight": weight})
    try:
        variant, state = read_form(adapters, where)
        with torch.random.fork_rng(devices=[]):  # whatever is drawn here is overwritten
            variant.adapt(head)
        variant.load_state(head, state)
    except ValueError as error:
        adapted = ", ".join(names[layer] for layer in adapters.layers)
        raise ValueError(
            f"{where} adapts {adapted}, which is part of the head here, and that adapter cannot be "
            f"merged into it: {error}"
        ) from None
    merge(head)
    return {name: tensor.detach() for name, tensor in head.state_dict().items()}
