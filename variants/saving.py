"""Save an adapter as a folder: the learned tensors, and their settings and base beside them.

`adapter.safetensors` holds the learned state and `adapter.json` what it belongs to. A run's folder
has two files of these names too; `experiments.adapters.saved` writes them, and knows a base by its
files where this one hashes its tensors.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import Variant, adapter_layers
from variants.defaults import build_method, find_class
from variants.guard import Structure, find_notes
from variants.state import check_fit, collect_buffers, copy_exactly
from variants.surface import find_adaptation, put_into
from variants.wrapper import BaseWrapper

FORMAT = 1
ABOUT, ADAPTER = "adapter.json", "adapter.safetensors"
NEEDED = ("variant", "module", "beside", "base")
FREE = ("lr",)  # settings that a learned state does not depend on


def learned_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors that, loaded over the adapted pretrained model, restore the trained one.

    These are all that train, in adapters and outside of them, and buffers that training may move.
    Raises ValueError for a model that is not adapted.
    """
    state = find_adaptation(model)[2].variant.learned_state(model)
    return state | collect_rest(model, state)


def load_learned_state(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Restore `learned_state` in a model that is adapted with the same settings.

    Raises ValueError, with nothing copied, if the tensors are not those of this model.
    """
    variant = find_adaptation(model)[2].variant
    rest = collect_rest(model, variant.learned_state(model))
    others = {name: tensor for name, tensor in state.items() if name in rest}
    check_fit(rest, others)
    variant.load_state(model, {n: tensor for n, tensor in state.items() if n not in rest})
    copy_exactly(rest, others)


def collect_rest(model: nn.Module, known: Iterable[str]) -> dict[str, Tensor]:
    """Return what trains or moves outside of adapter layers and is not among the known tensors."""
    known = set(known)
    inside = {id(p) for _, layer in adapter_layers(model) for p in layer.parameters()}
    found = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in inside
    }
    return {n: t for n, t in (found | collect_buffers(model)).items() if n not in known}


def save(model: nn.Module, folder: str | os.PathLike[str], base_sha256: str | None = None) -> None:
    """Write what was learned, with the method's settings and the hash of the base.

    If you save often, give `base_sha256`, the result of `hash_base`: the base is frozen, so one
    hash is enough. Raises ValueError for a model that is not adapted, or has no values yet.
    """
    from safetensors.torch import save_file

    name, _, note = find_adaptation(model)
    state = learned_state(model)
    for key, tensor in state.items():
        if tensor.is_meta:
            raise ValueError(f"{key} is on the meta device: there are no values to save.")
    cls = type(note.variant)
    about = {
        "format": FORMAT,
        "variant": {"_target_": f"{cls.__module__}.{cls.__qualname__}", **asdict(note.variant)},
        "module": name,
        "beside": list(note.beside),
        "base": base_sha256 or hash_base(model),
        "packages": {package: version(package) for package in ("lora-assay", "torch")},
    }
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    (place / ABOUT).unlink(missing_ok=True)  # it declares what lies beside it complete
    whole = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    save_file(whole, place / f".{ADAPTER}", metadata={"format": "pt"})
    os.replace(place / f".{ADAPTER}", place / ADAPTER)
    (place / f".{ABOUT}").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    os.replace(place / f".{ABOUT}", place / ABOUT)


def load(
    model: nn.Module, folder: str | os.PathLike[str], method: type[Variant] | None = None
) -> Variant:
    """Adapt a pretrained model as the saved one was, and restore what was learned.

    A model that is adapted already must have the same settings. `method` is the class of a method
    that is not the project's own. Raises ValueError, with the model as it was, if settings or
    tensors differ, or the base is not the one trained on.
    """
    place = Path(folder)
    about, state = read_folder(place)
    variant = parse_method(about["variant"], method, place)
    before = Structure(model)
    try:
        if any(True for _ in find_notes(model)):
            check_settings(model, variant, about)
        else:
            with torch.random.fork_rng(devices=[]):  # whatever is drawn here is overwritten
                put_into(find_module(model, about["module"]), variant, about["beside"])
        check_base(model, about["base"])
        load_learned_state(model, state)
    except ValueError as error:
        before.restore()
        raise ValueError(f"{place} does not fit this model: {error}") from None
    except BaseException:
        before.restore()
        raise
    return variant


def read_folder(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the description and the tensors of an adapter; raise ValueError for a damaged one."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / ABOUT
    if not path.is_file():
        raise ValueError(f"{folder} holds no adapter: there is no {ABOUT} in it.")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        state = load_file(folder / ADAPTER)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"{folder} holds no whole adapter ({error}).") from None
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        raise ValueError(f"{path} is not of format {FORMAT}, which this version reads.")
    missing = [key for key in NEEDED if key not in about]
    if missing:
        raise ValueError(
            f"{path} has no '{missing[0]}': the adapter of a run is read by experiments.adapters."
        )
    return about, state


def parse_method(about: dict[str, Any], method: type[Variant] | None, folder: Path) -> Variant:
    """The method that a file describes; raises ValueError for one that is not known."""
    target = str(about["_target_"])
    cls = method or find_class(target)
    if cls is None:
        raise ValueError(
            f"{folder} is of the method {target}, which is not the project's own: give its class "
            "as `method`."
        )
    settings = {key: value for key, value in about.items() if key != "_target_"}
    return build_method(str(folder / ABOUT), cls, settings)


def find_module(model: nn.Module, name: str) -> nn.Module:
    """The part of a model that an adapter belongs to; raises ValueError if there is none."""
    found = dict(model.named_modules()).get(name)
    if found is None:
        raise ValueError(f"the adapter belongs to its part '{name}', which it does not have.")
    return found


def check_settings(model: nn.Module, variant: Variant, about: dict[str, Any]) -> None:
    """Raise ValueError if a model is adapted with other settings than the saved one was."""
    name, _, note = find_adaptation(model)
    theirs = {"method": type(variant).__name__, "module": about["module"], **vars(variant)}
    ours = {"method": type(note.variant).__name__, "module": name, **vars(note.variant)}
    theirs["also_train"], ours["also_train"] = about["beside"], list(note.beside)
    other = [
        f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} here"
        for key in dict.fromkeys([*theirs, *ours])
        if key not in FREE and theirs.get(key) != ours.get(key)
    ]
    if other:
        raise ValueError(f"{', '.join(other)}.")


def check_base(model: nn.Module, expected: str) -> None:
    """Raise ValueError for a base that is not the one trained on."""
    if hash_base(model) != expected:
        raise ValueError("its frozen weights are not those that the adapter was trained on.")


def hash_base(model: nn.Module) -> str:
    """The sha256 of all that is neither learned nor the adapters' own, with names and dtypes."""
    learned = learned_state(model).keys()
    own = {
        id(getattr(*place))
        for module in model.modules()
        if isinstance(module, BaseWrapper)
        for place in module.list_own_tensors()
    }
    digest = hashlib.sha256()
    for name, tensor in sorted(list_tensors(model).items()):
        if name in learned or id(tensor) in own:
            continue
        if tensor.is_meta:
            raise ValueError(f"{name} is on the meta device: there are no values to hash.")
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def list_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and every persistent buffer of a model by name."""
    buffers = {
        f"{name}.{key}".removeprefix("."): buffer
        for name, module in model.named_modules()
        for key, buffer in module._buffers.items()
        if buffer is not None and key not in module._non_persistent_buffers_set
    }
    return dict(model.named_parameters()) | buffers
