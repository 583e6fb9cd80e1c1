"""Trained adapters: what a finished run's folder holds, back in a model."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from omegaconf import OmegaConf
from torch import Tensor

from experiments.config import Run, read
from experiments.files import read_tensors
from experiments.job import load_adapted
from experiments.models import Loaded
from experiments.results import Result, read_result
from variants.base import copy_exactly


@dataclass(frozen=True)
class Trained:
    """A finished run with its model as it was at the end, in evaluation mode."""

    run: Run
    result: Result
    loaded: Loaded


def restore(folder: Path, device: str = "cpu") -> Trained:
    """The trained model of a finished run.

    Raises ValueError where the folder is incomplete, or its base model is not the one trained on.
    """
    result = read_result(folder)
    if result.failure:
        raise ValueError(f"{folder} holds a diverged run, which left no adapter: {result.failure}")
    run = read(OmegaConf.create(result.config))
    found, expected = run.model.weights_hash(), result.fingerprint["model"]
    if found != expected:
        raise ValueError(
            f"{folder} was trained on weights with sha256 {expected}, "
            f"and model '{run.model.name}' now has {found}."
        )
    loaded = load_adapted(run, torch.device(device))
    model = loaded.model
    load(folder / "adapter.safetensors", partial(run.variant.load_state, model.backbone))
    load(folder / "head.safetensors", partial(copy_exactly, dict(model.head.state_dict())))
    model.eval()
    return Trained(run, result, loaded)


def load(path: Path, take: Callable[[dict[str, Tensor]], None]) -> None:
    """Hand over the tensors of a file; raises ValueError naming it where they do not fit."""
    _, tensors = read_tensors(path, "run it again")
    try:
        take(tensors)
    except ValueError as error:
        raise ValueError(f"{path} is not of this run: {error}") from None
