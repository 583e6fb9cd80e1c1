"""Trained adapters as one keeps them: a folder with tensors, and what they belong to beside them.

A finished run's folder is one. `adapter.json` names the method, its settings, the base model and
the hash of its weights; without that base the tensors say nothing.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from experiments.backbones.layers import PRECISIONS, float_masters
from experiments.disk.files import digest, read_tensors, write_tensors
from experiments.models.files import hash_files
from experiments.models.model import Loaded
from experiments.models.pretrained import Pretrained
from experiments.results.provenance import package_versions
from experiments.results.result import Result, read_result
from experiments.settings.config import Run, restore_run
from experiments.settings.sections import describe_section, restore_section
from experiments.stored import adapter as stored
from experiments.stored import kinds
from experiments.stored.adapter import HEAD
from experiments.stored.adapter import NAME as ABOUT
from experiments.stored.adapter import TENSORS as ADAPTER
from experiments.stored.result import NAME
from variants.base import Variant, copy_exactly


@dataclass(frozen=True)
class Adapter:
    """The learned state of one training, and the model that it belongs to."""

    variant: Variant
    model: Pretrained
    weights: str  # sha256 of the base's weights
    precision: str  # that the base's frozen matrices were held in
    state: dict[str, Tensor]  # the method's learned state
    head: dict[str, Tensor]  # empty where the adapter came without one
    num_outputs: int  # of the head; 0 without one
    names: list[str]  # of the classes; empty for a score, or where they are not known
    folder: Path = Path()  # where it was read from
    model_files: str | None = None  # sha256 of the base's config and tokenizer, where it is known
    digests: dict[str, str] = field(default_factory=dict)  # of the tensors, by name of their file


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


def write(adapter: Adapter, folder: Path) -> dict[str, str]:
    """Write the tensors, then the description that declares them complete.

    Returns the digests of the tensors by name of their file.
    """
    digests = {ADAPTER: write_tensors(folder / ADAPTER, adapter.state)}
    if adapter.head:
        digests[HEAD] = write_tensors(folder / HEAD, adapter.head)
    about = {
        "variant": describe_section(adapter.variant),
        "model": describe_section(adapter.model.located()),
        "weights": adapter.weights,
        "model_files": adapter.model_files or adapter.model.files_hash(),
        "precision": adapter.precision,
        "head": {"outputs": adapter.num_outputs, "names": adapter.names},
        "tensors": digests,
        "packages": package_versions(),
    }
    stored.write(folder, about)
    return digests


def read_adapter(folder: Path, other: kinds.Other = kinds.refuse) -> Adapter:
    """The adapter in a folder; `other` finds classes that are none of the project's.

    Raises ValueError if the folder holds none, or a file of it is damaged.
    """
    about = stored.read(folder)
    head = about["head"]
    with naming(folder / ABOUT, ""):
        variant = restore_section("variant", about["variant"], other)
        model = restore_section("model", about["model"], other)
        if not isinstance(variant, Variant) or not isinstance(model, Pretrained):
            raise ValueError("variant must be a method, and model a pretrained one.")
        if about["precision"] not in PRECISIONS:
            known = ", ".join(PRECISIONS)
            raise ValueError(f"precision must be one of {known}, got {about['precision']!r:.40}.")
    adapter = Adapter(
        variant=variant,
        model=model,
        weights=about["weights"],
        precision=about["precision"],
        state=tensors(folder / ADAPTER),
        head=tensors(folder / HEAD) if head["outputs"] else {},
        num_outputs=head["outputs"],
        names=head["names"],
        folder=folder,
        model_files=about.get("model_files"),
        digests=about.get("tensors", {}),
    )
    check_sizes(adapter)
    return adapter


def check_sizes(adapter: Adapter) -> None:
    """Raise ValueError for sizes that the tensors do not have, before memory is taken for them."""
    path = adapter.folder / ABOUT
    rank = getattr(adapter.variant, "rank", 1)
    if rank > max((size for tensor in adapter.state.values() for size in tensor.shape), default=1):
        raise ValueError(f"{path}: variant.rank is {rank}, and no tensor of {ADAPTER} has so many.")
    widths = [len(tensor) for tensor in adapter.head.values() if tensor.ndim]
    if adapter.num_outputs and adapter.num_outputs not in widths:
        raise ValueError(
            f"{path}: head.outputs is {adapter.num_outputs}, and no tensor of {HEAD} has so many."
        )
    if adapter.names and len(adapter.names) != adapter.num_outputs:
        raise ValueError(
            f"{path}: head.names has {len(adapter.names)} names for {adapter.num_outputs} outputs."
        )


def check_whole(adapter: Adapter) -> None:
    """Raise ValueError if the files of an adapter are not those that were written together."""
    for name, own in ((ADAPTER, adapter.state), (HEAD, adapter.head)):
        expected = adapter.digests.get(name)
        if expected is not None and digest(own) != expected:
            raise ValueError(
                f"{adapter.folder / name} holds other tensors than {ABOUT} says (its tensors.{name}"
                "): it is damaged, or another adapter's; the adapter must be made again."
            )
    if adapter.folder.is_dir() and (adapter.folder / ABOUT).exists():
        stored.check_intact(adapter.folder)


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
    """The adapter with its base in another folder; the weights must be the same.

    If its config or tokenizer is another, as one that was saved anew, that is said.
    """
    if base is None:
        return adapter
    model = replace(adapter.model, path=base, package=None)
    if adapter.model_files not in (None, model.files_hash()):
        print(
            f"{base} has another config or tokenizer than {adapter.folder} was trained with; "
            "it may answer otherwise.",
            file=sys.stderr,
        )
    return replace(adapter, model=model, model_files=None)


def load(adapter: Adapter, device: str = "cpu") -> Loaded:
    """The trained model, in evaluation mode.

    Raises ValueError if the base is not the one trained on, or the tensors do not fit it.
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
    check_whole(adapter)
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
    """Raise ValueError if the base's files are not those the adapter was trained on."""
    try:
        adapter.model.folder()
    except (ValueError, ConnectionError) as error:
        raise ValueError(
            f"The base in {adapter.folder / ABOUT} is not found: {error} If it has moved, --base "
            "names it."
        ) from None
    found = adapter.model.weights_hash()
    if found != adapter.weights:
        raise ValueError(
            f"{adapter.folder} was trained on weights with sha256 {adapter.weights}, "
            f"and model '{adapter.model.name}' now has {found} (weights in {ABOUT})."
        )
    if adapter.model_files not in (None, adapter.model.files_hash()):
        raise ValueError(
            f"{adapter.folder} was trained with another config.json or tokenizer than lies in "
            f"{adapter.model.folder()} now (model_files in {ABOUT}), and would answer otherwise; "
            "put those files back, or name the base by --base."
        )


@contextmanager
def naming(path: Path, what: str = " does not fit its model") -> Iterator[None]:
    """Put the file's name before what does not fit."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}{what}: {error}") from None


@dataclass(frozen=True)
class Trained:
    """A finished run with its model as it was at the end, in evaluation mode."""

    run: Run
    result: Result
    loaded: Loaded


def restore(
    folder: Path, device: str = "cpu", base: str | None = None, other: kinds.Other = kinds.refuse
) -> Trained:
    """The trained model of a finished run, with its base in another folder if one is named.

    `other` finds classes that are none of the project's.

    Raises ValueError if the folder is incomplete or damaged, or its base is not the one trained on.
    """
    result = read_result(folder)
    if result.failure:
        raise ValueError(f"{folder} holds a diverged run, which left no adapter: {result.failure}")
    with naming(folder / NAME, ""):
        run = restore_run(result.config, other)
    adapter = on_base(read_adapter(folder, other), base)
    # Adapters of earlier versions do not know it, and results do.
    known = adapter.model_files or result.fingerprint.get("model_files")
    loaded = load(replace(adapter, model_files=known), device)
    engine = run.compute.forward_passes(run.train.precision)
    loaded.model.engine = engine.prepare(loaded.model.backbone)
    return Trained(run, result, loaded)
