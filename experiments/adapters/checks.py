"""Checks of other libraries' files, made before anything is built from them.

They may be anybody's: a wrong type, a factor that fits no other, or a pattern that never comes to
an end is one sentence naming the file and the key.
"""

import re
from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import regex
import torch
from torch import Tensor

from experiments.stored.typed import check_finite, fit

PATIENCE = 1.0  # seconds for one pattern and one name
FACTOR = re.compile(r"(?P<layer>.*)\.lora_(?P<side>[AB])(?P<end>\..*)?")
SIZES = ("init_r", "target_r", "d_initial")


class Config(TypedDict):
    """The fields of adapter_config.json that are read here; others may be anything."""

    peft_type: str
    r: NotRequired[int]
    lora_alpha: NotRequired[int | float]
    lora_dropout: NotRequired[int | float | None]
    use_rslora: NotRequired[bool | None]
    use_dora: NotRequired[bool | None]
    rank_pattern: NotRequired[dict[str, int | list[bool]] | None]
    alpha_pattern: NotRequired[dict[str, int | float] | None]
    qalora_group_size: NotRequired[int | None]
    init_r: NotRequired[int]
    target_r: NotRequired[int]
    orth_reg_weight: NotRequired[int | float]
    projection_prng_key: NotRequired[int]
    vera_dropout: NotRequired[int | float]
    d_initial: NotRequired[int | float]
    bias: NotRequired[str]
    base_model_name_or_path: NotRequired[str | None]
    revision: NotRequired[str | None]


def check_config(config: dict[str, Any], where: Path) -> None:
    """Raise ValueError for a field of another type, or a size that nothing has."""
    if "peft_type" not in config:
        raise ValueError(f"{where} has no 'peft_type'.")
    try:
        check_finite(config)
        fit(config, Config, "")
        if config.get("r", 0) < 0:  # 0 is that of what has no rank
            raise ValueError(f"r must not be negative, got {config['r']}.")
        for key in SIZES:
            if config.get(key, 1) <= 0:
                raise ValueError(f"{key} must be positive, got {config[key]}.")
        for name, rank in (config.get("rank_pattern") or {}).items():
            if isinstance(rank, int) and rank < 1:
                raise ValueError(f"rank_pattern.{name} must be positive, got {rank}.")
        for key in ("lora_dropout", "vera_dropout"):
            if not 0 <= (config.get(key) or 0) < 1:
                raise ValueError(f"{key} must lie in [0, 1), got {config[key]}.")
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def check_tensors(
    tensors: Mapping[str, Tensor], where: Path, places: Set[str] = frozenset()
) -> None:
    """Raise ValueError for tensors that are no numbers, or factors that fit no other.

    Those whose last name is among `places` hold whole numbers.
    """
    sides: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        if key.rpartition(".")[2] in places:
            if tensor.dtype not in (torch.int32, torch.int64):
                raise ValueError(f"{where}: {key} holds {tensor.dtype}, and no whole numbers.")
        elif not tensor.is_floating_point():
            raise ValueError(f"{where}: {key} holds {tensor.dtype}, and no real numbers.")
        if not torch.isfinite(tensor.float()).all():
            raise ValueError(f"{where}: {key} holds values that are no finite numbers.")
        if match := FACTOR.fullmatch(key):
            sides.setdefault((match["layer"], match["end"] or ""), {})[match["side"]] = tensor
    for (layer, _), pair in sides.items():
        for side, tensor in pair.items():
            if tensor.ndim != 2 or 0 in tensor.shape:
                raise ValueError(
                    f"{where}: {layer}.lora_{side} has shape {list(tensor.shape)}, and a factor is "
                    "a matrix."
                )
        # Of a fused projection A is several, one above the other.
        if {"A", "B"} <= pair.keys() and len(pair["A"]) % pair["B"].shape[1]:
            raise ValueError(
                f"{where}: the factors of {layer} fit no other: A has shape "
                f"{list(pair['A'].shape)}, and B {list(pair['B'].shape)}."
            )


def check_ranks(config: Mapping[str, Any], tensors: Mapping[str, Tensor], where: Path) -> None:
    """Raise ValueError unless what a config says of low-rank factors is that of the tensors."""
    ranks = {
        len(tensor)
        for key, tensor in tensors.items()
        if (match := FACTOR.fullmatch(key)) and match["side"] == "A"
    }
    if not ranks:
        return
    for key in ("r", "lora_alpha"):
        if key not in config:
            raise ValueError(f"{where} has no '{key}'.")
    if config["r"] < 1:
        raise ValueError(f"{where}: r must be positive, got {config['r']}.")
    own = config.get("init_r") if "init_r" in config else config["r"]
    if not config.get("rank_pattern") and own is not None and own < max(ranks):
        raise ValueError(f"{where}: r is {own}, and there are factors of rank {max(ranks)}.")
    if config["r"] > max(ranks) and "init_r" not in config:
        raise ValueError(
            f"{where}: r is {config['r']}, and no factor has a rank above {max(ranks)}."
        )


def matches(pattern: str, name: str, where: Path) -> bool:
    """Return whether a pattern of PEFT's is the end of a layer's name, from a dot on.

    Raises ValueError for a pattern that is no regular expression, or takes too long: in one with
    repetitions inside repetitions, the time may grow without bound.
    """
    try:
        return bool(regex.match(rf"(.*\.)?({pattern})$", name, timeout=PATIENCE))
    except regex.error as error:
        raise ValueError(f"{where}: '{pattern}' is no regular expression ({error}).") from None
    except TimeoutError:
        raise ValueError(
            f"{where}: '{pattern}' takes longer than {PATIENCE:g} s to be matched with '{name}'."
        ) from None
