"""PEFT's checkpoint format, as PEFT 0.21 writes it: adapter_config.json beside one safetensors."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch.nn as nn
from torch import Tensor
from transformers import PreTrainedModel

from experiments.adapters import checks, foreign
from experiments.adapters.classifier import whole_head
from experiments.adapters.foreign import A
from experiments.adapters.merged import names_of_head
from experiments.adapters.saved import Adapter, load
from experiments.backbones.heads import as_in_transformers
from experiments.disk.files import (
    atomic_folder,
    read_object,
    read_tensors,
    save_tensors,
    write_json,
)
from experiments.families.base import family_of
from experiments.models.model import LanguageModel
from experiments.models.pretrained import Pretrained
from variants.base import Foreign, adapter_layers

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."
CLASSIFIER = "ForSequenceClassification"
# Fields that say nothing of the function, or that are read here or by a method.
READ = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode",
    "auto_mapping", "peft_version", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "modules_to_save", "fan_in_fan_out", "runtime_config", "megatron_core",
    "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "qalora_group_size", "init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2",
    "orth_reg_weight", "total_step", "projection_prng_key", "save_projection", "vera_dropout",
    "d_initial", "init_weights", "init_lora_weights", "bias", "ensure_weight_tying",
    # Settings of a way to start, which `init_lora_weights` names.
    "eva_config", "corda_config", "loftq_config", "lora_ga_config",
}  # fmt: skip
# Ways to start that leave the base as it was; the others move it, and need the moved one.
STARTS = (True, False, None, "gaussian", "orthogonal", "mica")


def write_peft(adapter: Adapter, out: Path) -> None:
    """Write the adapter, and its head, as PEFT would have.

    Raises ValueError if the method or the model has no exact form there.
    """
    model = load(adapter).model
    backbone = model.backbone
    for name, layer in adapter_layers(backbone):
        if not isinstance(layer.base, nn.Linear):
            raise ValueError(
                f"The base of {name} is quantised, and PEFT would put the adapter on the full one; "
                "merge the adapter instead."
            )
    form = foreign.fuse_projections(adapter.variant.to_peft(backbone), backbone)
    kind = "SEQ_CLS" if adapter.num_outputs else "FEATURE_EXTRACTION"
    if isinstance(model, LanguageModel):
        kind = "SEQ_2_SEQ_LM" if backbone.config.is_encoder_decoder else "CAUSAL_LM"
    family = family_of(backbone.config)
    inside = "" if kind == "FEATURE_EXTRACTION" else family.prefix(backbone)
    form = with_patterns(form, inside)
    names = names_of_head(adapter, backbone.config) if adapter.num_outputs else {}
    head = as_in_transformers(adapter.head, names)
    tensors = {
        **{
            f"{ROOT}{inside}{name}.{end}": tensor
            for name, layer in form.layers.items()
            for end, tensor in layer.items()
        },
        **{f"base_model.{name}": tensor for name, tensor in form.shared.items()},
        **{f"{ROOT}{name}": tensor for name, tensor in head.items()},
    }
    config = form.config | {
        "task_type": kind,
        "base_model_name_or_path": adapter.model.located().path,
        "revision": adapter.model.revision,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": family.transposed,
        "target_modules": targets(list(form.layers), backbone, inside),
        # The first names of the head's modules, such as classifier.
        "modules_to_save": list_saved_modules(names, backbone) if adapter.num_outputs else None,
    }
    with atomic_folder(out) as folder:
        write_json(folder / CONFIG, config)
        save_tensors(folder / TENSORS, tensors, {"format": "pt"})


def list_saved_modules(names: Mapping[str, str], backbone: PreTrainedModel) -> list[str]:
    """The modules of a classifier of transformers that its head is made of, as PEFT asks for."""
    inside = f"{backbone.base_model_prefix}."
    return sorted({name.removeprefix(inside).partition(".")[0] for name in names.values()})


def with_patterns(form: Foreign, inside: str) -> Foreign:
    """The form with ranks that differ said in PEFT's patterns; all layers have one scale."""
    if not all(A in tensors for tensors in form.layers.values()):
        return form
    config, ranks = form.config, {name: len(t[A]) for name, t in form.layers.items()}
    power = 0.5 if config["use_rslora"] else 1.0
    alphas = {n: config["lora_alpha"] * (rank / config["r"]) ** power for n, rank in ranks.items()}
    if len(set(ranks.values())) == 1:
        rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
        patterns = {}
    else:
        rank, alpha = config["r"], config["lora_alpha"]
        own = [name for name in ranks if ranks[name] != rank]
        patterns = {
            "rank_pattern": {f"{inside}{name}": ranks[name] for name in own},
            "alpha_pattern": {f"{inside}{name}": alphas[name] for name in own},
        }
    changed = config | {"r": rank, "lora_alpha": alpha} | patterns
    return Foreign(form.library, changed, form.layers, form.shared)


def targets(names: list[str], backbone: PreTrainedModel, inside: str) -> list[str]:
    """The last names of the layers if they match no others, else their full names."""
    last = {name.rpartition(".")[2] for name in names}
    names_of_head = family_of(backbone.config).head_names(backbone.config).values()
    head = [part for theirs in names_of_head for part in theirs.split(".")]
    matched = {name for name, _ in backbone.named_modules() if name.rpartition(".")[2] in last}
    if matched == set(names) and not last & set(head):
        return sorted(last)
    return [f"{inside}{name}" for name in names]


def read_peft(folder: Path, base: Pretrained) -> Adapter:
    """The adapter in a folder of PEFT's, on this base.

    Raises ValueError for a setting or a tensor that is not read here, and for a damaged file.
    """
    config, tensors = read_files(folder)
    backbone = base.backbone()
    found = foreign.sort_keys(tensors, backbone, folder / TENSORS)
    if found.head or found.head_layers:
        check_task(config, folder / CONFIG)
    prefix = f"{backbone.base_model_prefix}."
    inside = prefix if any(key.startswith(prefix) for key in tensors) else ""
    names = {layer: f"{inside}{layer}" for layer in found.layers}
    settings = by_layer(config, found.layers, names, folder / CONFIG)
    form = Foreign("peft", settings, found.layers, found.shared)
    head_names = family_of(backbone.config).head_names(backbone.config)
    settings = by_layer(config, found.head_layers, head_names, folder / CONFIG)
    adapters = Foreign("peft", settings, found.head_layers, found.shared)
    head = whole_head(found.head, adapters, base, folder / TENSORS)
    return foreign.adapter_from(foreign.split_projections(form, backbone), base, head, folder)


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config, and the tensors without PEFT's root."""
    config = check_config(read_object(folder / CONFIG), folder / CONFIG)
    stored = read_tensors(folder / TENSORS, "only safetensors are read")[1]
    places = frozenset[str]().union(*(cls.foreign_places for cls in foreign.methods()))
    checks.check_tensors(stored, folder / TENSORS, places)
    checks.check_ranks(config, stored, folder / CONFIG)
    return config, foreign.widen({strip(key): tensor for key, tensor in stored.items()})


def strip(key: str) -> str:
    """A key without PEFT's root; older versions gave the magnitudes a weight's name."""
    key = key.removeprefix(ROOT).removeprefix("base_model.")
    return key.removesuffix(".weight") if "magnitude_vector" in key else key


def check_config(config: dict[str, Any], where: Path) -> dict[str, Any]:
    """The config; raises ValueError for a field that changes the function and is not read here."""
    checks.check_config(config, where)
    read = READ.union(*(cls.foreign_fields for cls in foreign.methods()))
    further = sorted(key for key in config.keys() - read if config[key])
    if config.get("bias", "none") != "none":
        further = ["bias", *further]
    start = config.get("init_lora_weights", True)
    starts = {*STARTS}.union(*(cls.foreign_starts for cls in foreign.methods()))
    if (start.lower() if isinstance(start, str) else start) not in starts:
        raise ValueError(
            f"{where} has init_lora_weights='{start}', which moves the base's weights, and the "
            "moved ones are not in the file; let PEFT convert it: save_pretrained with "
            "path_initial_model_for_weight_conversion."
        )
    if further:
        raise ValueError(
            f"{where} has {further[0]}={config[further[0]]!r}, which is not read here."
        )
    return config


def check_task(config: Mapping[str, Any], where: Path) -> None:
    """Raise ValueError if the head is that of another task than classifying whole texts."""
    kind = config.get("task_type")
    model = (config.get("auto_mapping") or {}).get("base_model_class") or CLASSIFIER
    if kind not in (None, "SEQ_CLS") or not model.endswith(CLASSIFIER):
        told = f"task_type='{kind}'" if kind else f"base_model_class='{model}'"
        raise ValueError(f"{where} has {told}, and only heads of {CLASSIFIER} are read here.")


def by_layer(
    config: dict[str, Any],
    layers: Mapping[str, Mapping[str, Tensor]],
    names: Mapping[str, str],
    where: Path,
) -> dict[str, Any]:
    """The config with alpha by layer, given the layers' full names in the model PEFT adapted.

    Raises ValueError if a layer's tensors have another rank than the config gives it.
    """
    ranks, alphas = (config.get(key) or {} for key in ("rank_pattern", "alpha_pattern"))
    found: dict[str, float] = {}
    for layer, tensors in layers.items():
        rank = ranks.get(first_match(ranks, names[layer], where), config.get("r"))
        if A in tensors and rank != len(tensors[A]):
            raise ValueError(
                f"{where} gives rank {rank} to {names[layer]}, and its tensors have rank "
                f"{len(tensors[A])}."
            )
        pattern = first_match(alphas, names[layer], where)
        if pattern is not None:
            found[layer] = alphas[pattern]
    return config | {"alpha_pattern": found}


def first_match(patterns: Iterable[str], name: str, where: Path) -> str | None:
    """The first pattern that is the end of a full name, from a dot on, as PEFT compares them."""
    return next((one for one in patterns if checks.matches(one, name, where)), None)
