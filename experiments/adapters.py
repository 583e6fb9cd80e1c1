"""Trained adapters: what a finished run's folder holds, back in a model."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import OmegaConf

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
    _, adapter = read_tensors(folder / "adapter.safetensors", "run it again")
    run.variant.load_state(model.backbone, adapter)
    _, head = read_tensors(folder / "head.safetensors", "run it again")
    copy_exactly(dict(model.head.state_dict()), head)
    model.eval()
    return Trained(run, result, loaded)
