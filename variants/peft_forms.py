"""Adapters in the terms of other libraries: what methods exchange with their file formats.

Keys and settings are those of PEFT 0.21's checkpoints; loralib's files hold the same two factors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor

FACTORS = {"A": "lora_A.weight", "B": "lora_B.weight"}


@dataclass(frozen=True)
class Foreign:
    """A trained adapter in another library's terms, its layers named as our plain linears."""

    library: str  # peft | loralib
    config: dict[str, Any]  # PEFT's adapter_config.json; its patterns by full name of the layer
    layers: dict[str, dict[str, Tensor]]  # by layer, tensors by the end of their key
    shared: dict[str, Tensor] = field(default_factory=dict)  # tensors of no single layer


def scale_of(config: Mapping[str, Any], alpha: float, rank: int) -> float:
    """Return the factor of the product B A."""
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def alpha_of(config: Mapping[str, Any], layer: str) -> float:
    """One layer's alpha."""
    return float(config.get("alpha_pattern", {}).get(layer, config["lora_alpha"]))


def state(form: Foreign, names: Mapping[str, str]) -> dict[str, Tensor]:
    """The learned state, given for each of our tensors the end of its key over there.

    Raises ValueError for a layer that lacks one or has another.
    """
    check_keys(form, set(names.values()))
    return {
        f"{layer}.{ours}": tensors[theirs]
        for layer, tensors in form.layers.items()
        for ours, theirs in names.items()
    }


def check_keys(form: Foreign, known: set[str]) -> None:
    """Raise ValueError unless every layer has these tensors and no other."""
    for layer, tensors in form.layers.items():
        for key in sorted(known ^ tensors.keys()):
            what = "lacks" if key in known else "has an unknown tensor"
            raise ValueError(f"The checkpoint {what} {layer}.{key}.")


def low_rank_settings(form: Foreign) -> dict[str, Any]:
    """The settings of a LoRA whose layers are even."""
    config = form.config
    return {
        "lr": 0.0,
        "rank": config["r"],
        "alpha": float(config["lora_alpha"]),
        "dropout": float(config.get("lora_dropout", 0.0)),
        "rslora": bool(config.get("use_rslora", False)),
        "targets": list(form.layers),
    }


def even(form: Foreign) -> Foreign:
    """The same function with one rank and one alpha for all layers.

    Lower ranks are filled up with zeros, and a scale other than the common one goes into B, as does
    the sign of a negative alpha.
    """
    for name, tensors in form.layers.items():
        for key in set(FACTORS.values()) - tensors.keys():
            raise ValueError(f"The checkpoint lacks {name}.{key}.")
    config = form.config
    ranks = {name: len(tensors["lora_A.weight"]) for name, tensors in form.layers.items()}
    widest = max(ranks, key=lambda name: ranks[name])
    rank, alpha = ranks[widest], alpha_of(config, widest)
    alpha = abs(alpha) or 1.0  # a zero can be the common one of no others
    scale = scale_of(config, alpha, rank)
    layers = {}
    for name, tensors in form.layers.items():
        factor = scale_of(config, alpha_of(config, name), ranks[name]) / scale
        A, B = (tensors[key] for key in FACTORS.values())
        missing = rank - ranks[name]
        # B as it is where nothing is to be done: a round trip returns the very bits.
        B = B if factor == 1 else B * factor
        layers[name] = tensors | {
            "lora_A.weight": F.pad(A, (0, 0, 0, missing)),
            "lora_B.weight": F.pad(B, (0, missing)),
        }
    settings = config | {"r": rank, "lora_alpha": alpha, "alpha_pattern": {}}
    return replace(form, config=settings, layers=layers)
