"""Trained adapters as one keeps them: a folder with tensors, and what they belong to beside them.

A finished run's folder is one. `adapter.json` names the method, its settings, the base model and
the hash of its weights; without that base the tensors say nothing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn as nn
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from experiments.config import Run, build, describe_section, read
from experiments.files import read_object, read_tensors, write_json, write_tensors
from experiments.layers import float_masters
from experiments.models import Loaded, Pretrained, hash_files
from experiments.results import Result, package_versions, read_result
from variants.base import Variant, copy_exactly

FORMAT = 1
ABOUT, ADAPTER, HEAD = "adapter.json", "adapter.safetensors", "head.safetensors"


@dataclass(frozen=True)
class Adapter:
    """What one training learned, and on what."""

    variant: Variant
    model: Pretrained
    weights: str  # sha256 of the base's weights
    precision: str  # that the base's frozen matrices were held in
    state: dict[str, Tensor]  # the method's learned state
    head: dict[str, Tensor]  # empty where the adapter came without one
    num_outputs: int  # of the head; 0 without one
    names: list[str]  # of the classes; empty for a score, or where they are not known
    folder: Path = Path()  # where it was read from


def of_run(run: Run, loaded: Loaded, weights: str) -> Adapter:
    """The adapter that a trained model holds."""
    model = loaded.model
    return Adapter(
        variant=run.variant,
        model=run.model,
        weights=weights,
        precision=run.train.precision,
        state=run.variant.learned_state(model.backbone),
        head=dict(model.head.state_dict()),
        num_outputs=run.task.num_outputs,
        names=run.task.names,
    )


def write(adapter: Adapter, folder: Path) -> None:
    """Write the tensors, then the description that declares them complete."""
    write_tensors(folder / ADAPTER, adapter.state)
    if adapter.head:
        write_tensors(folder / HEAD, adapter.head)
    about = {
        "format": FORMAT,
        "variant": describe_section(adapter.variant),
        "model": describe_section(adapter.model.located()),
        "weights": adapter.weights,
        "precision": adapter.precision,
        "head": {"outputs": adapter.num_outputs, "names": adapter.names},
        "packages": package_versions(),
    }
    write_json(folder / ABOUT, about)


def read_adapter(folder: Path) -> Adapter:
    """The adapter in a folder.

    Raises ValueError where the folder holds none, or a file of it is damaged.
    """
    path = folder / ABOUT
    if not path.is_file():
        raise ValueError(f"{folder} holds no adapter: there is no {ABOUT} in it.")
    about = read_object(path)
    if about.get("format") != FORMAT:
        raise ValueError(
            f"{path} has format {about.get('format')}, and this version reads {FORMAT}."
        )
    missing = {"variant", "model", "weights", "precision", "head"} - about.keys()
    if missing:
        raise ValueError(f"{path} has no '{min(missing)}'.")
    head = about["head"]
    return Adapter(
        variant=build("variant", DictConfig(about["variant"])),
        model=build("model", DictConfig(about["model"])),
        weights=about["weights"],
        precision=about["precision"],
        state=tensors(folder / ADAPTER),
        head=tensors(folder / HEAD) if head["outputs"] else {},
        num_outputs=head["outputs"],
        names=head["names"],
        folder=folder,
    )


def adapter_hash(folder: Path) -> str:
    """The sha256 of an adapter's tensors; raises ValueError for a folder without one."""
    path = folder / ADAPTER
    if not path.is_file():
        raise ValueError(f"{folder} holds no adapter: there is no {ADAPTER} in it.")
    return hash_files([path])


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of one file of an adapter."""
    return read_tensors(path, "the adapter must be made again")[1]


def on_base(adapter: Adapter, base: str | None) -> Adapter:
    """The adapter with its base in another folder; the weights must be the same."""
    if base is None:
        return adapter
    return replace(adapter, model=replace(adapter.model, path=base, package=None))


def load(adapter: Adapter, device: str = "cpu") -> Loaded:
    """The trained model, in evaluation mode.

    Raises ValueError where the base is not the one trained on, or the tensors do not fit it.
    """
    check_base(adapter)
    with torch.random.fork_rng(devices=[]):  # whatever is drawn here is overwritten
        loaded = adapter.model.load(adapter.num_outputs, torch.Generator(), adapter.precision)
        backbone, head = loaded.model.backbone, loaded.model.head
        adapter.variant.adapt(backbone)
    float_masters(backbone)
    load_state(adapter, backbone)
    if adapter.num_outputs:
        load_head(adapter, head)
    loaded.model.eval().to(device)
    return loaded


def load_state(adapter: Adapter, backbone: nn.Module) -> None:
    """Put what was learned into an adapted backbone."""
    with naming(adapter.folder / ADAPTER):
        adapter.variant.load_state(backbone, adapter.state)


def load_head(adapter: Adapter, head: nn.Module) -> None:
    """Put what was learned into a head of the right family and width."""
    with naming(adapter.folder / HEAD):
        copy_exactly(dict(head.state_dict()), adapter.head)


def check_base(adapter: Adapter) -> None:
    """Raise ValueError where the base's weights are not those the adapter was trained on."""
    try:
        adapter.model.folder()
    except (ValueError, ConnectionError) as error:
        raise ValueError(
            f"The base of {adapter.folder} is not found: {error} If it has moved, --base names it."
        ) from None
    found = adapter.model.weights_hash()
    if found != adapter.weights:
        raise ValueError(
            f"{adapter.folder} was trained on weights with sha256 {adapter.weights}, "
            f"and model '{adapter.model.name}' now has {found}."
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what does not fit."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path} does not fit its model: {error}") from None


@dataclass(frozen=True)
class Trained:
    """A finished run with its model as it was at the end, in evaluation mode."""

    run: Run
    result: Result
    loaded: Loaded


def restore(folder: Path, device: str = "cpu", base: str | None = None) -> Trained:
    """The trained model of a finished run, with its base in another folder if one is named.

    Raises ValueError where the folder is incomplete, or its base model is not the one trained on.
    """
    result = read_result(folder)
    if result.failure:
        raise ValueError(f"{folder} holds a diverged run, which left no adapter: {result.failure}")
    run = read(OmegaConf.create(result.config))
    loaded = load(on_base(read_adapter(folder), base), device)
    loaded.model.engine = run.train.forward_passes()
    loaded.model.engine.prepare(loaded.model.backbone)
    return Trained(run, result, loaded)
