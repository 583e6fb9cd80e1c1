"""PEFT's checkpoint format, as PEFT 0.21 writes it: adapter_config.json beside one safetensors."""

import re
from pathlib import Path
from typing import Any

import torch.nn as nn
from torch import Tensor
from transformers import PreTrainedModel

from experiments.adapters import foreign
from experiments.adapters.foreign import A
from experiments.adapters.saved import Adapter, load
from experiments.files import read_object, read_tensors, whole_folder, write_json, write_tensors
from experiments.heads import IN_TRANSFORMERS, as_in_transformers
from experiments.models import LanguageModel, Pretrained
from variants.base import Foreign, adapter_layers

CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"
ROOT = "base_model.model."
# Fields that say nothing of the function, or that are read here or by a method.
READ = {
    "peft_type", "task_type", "base_model_name_or_path", "revision", "inference_mode",
    "auto_mapping", "peft_version", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "modules_to_save", "fan_in_fan_out", "runtime_config", "megatron_core",
    "r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora",
    "qalora_group_size", "init_r", "target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2",
    "orth_reg_weight", "total_step", "projection_prng_key", "save_projection", "vera_dropout",
    "d_initial", "init_weights", "init_lora_weights", "bias", "ensure_weight_tying",
}  # fmt: skip
# Ways to start that leave the base as it was; the others move it, and need the moved one.
STARTS = (True, False, None, "gaussian", "orthogonal")


def write_peft(adapter: Adapter, out: Path) -> None:
    """Write the adapter, and its head, as PEFT would have.

    Raises ValueError where the method or the model has no exact form there.
    """
    model = load(adapter).model
    backbone = model.backbone
    for name, layer in adapter_layers(backbone):
        if not isinstance(layer.base, nn.Linear):
            raise ValueError(
                f"The base of {name} is quantised, and PEFT would put the adapter on the full one; "
                "merge the adapter instead."
            )
    form = foreign.fused(adapter.variant.to_peft(backbone), backbone)
    kind = "SEQ_CLS" if adapter.num_outputs else "FEATURE_EXTRACTION"
    kind = "CAUSAL_LM" if isinstance(model, LanguageModel) else kind
    inside = "" if kind == "FEATURE_EXTRACTION" else f"{backbone.base_model_prefix}."
    form = with_patterns(form, inside)
    family = backbone.config.model_type
    head = as_in_transformers(adapter.head, family)
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
        "base_model_name_or_path": adapter.model.path,
        "revision": adapter.model.revision,
        "inference_mode": True,
        "bias": "none",
        "fan_in_fan_out": family == "gpt2",
        "target_modules": targets(list(form.layers), backbone, inside),
        # The first names of the head's modules, such as classifier.
        "modules_to_save": saved_modules(family) if adapter.num_outputs else None,
    }
    with whole_folder(out) as folder:
        write_json(folder / CONFIG, config)
        write_tensors(folder / TENSORS, tensors)


def saved_modules(family: str) -> list[str]:
    """The modules of a classifier of transformers that its head is made of, as PEFT asks for."""
    names = [theirs.split(".") for theirs in IN_TRANSFORMERS[family].values()]
    return sorted({parts[1] if parts[0] == family else parts[0] for parts in names})


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
    """The last names of the layers where they match no others, else their full names."""
    last = {name.rpartition(".")[2] for name in names}
    family = backbone.config.model_type
    head = [part for theirs in IN_TRANSFORMERS[family].values() for part in theirs.split(".")]
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
    layers, head, shared = foreign.sort_keys(tensors, backbone, folder / TENSORS)
    form = Foreign("peft", by_layer(config, list(layers)), layers, shared)
    return foreign.adapter_from(foreign.unfused(form, backbone), base, head, folder)


def read_files(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The config, and the tensors without PEFT's root."""
    config = check_config(read_object(folder / CONFIG), folder / CONFIG)
    stored = read_tensors(folder / TENSORS, "only safetensors are read")[1]
    return config, {strip(key): tensor for key, tensor in stored.items()}


def strip(key: str) -> str:
    """A key without PEFT's root; older versions gave the magnitudes a weight's name."""
    key = key.removeprefix(ROOT).removeprefix("base_model.")
    return key.removesuffix(".weight") if "magnitude_vector" in key else key


def check_config(config: dict[str, Any], where: Path) -> dict[str, Any]:
    """The config; raises ValueError for a field that changes the function and is not read here."""
    if "peft_type" not in config:
        raise ValueError(f"{where} has no 'peft_type'.")
    read = READ.union(*(cls.foreign_fields for cls in foreign.methods()))
    further = sorted(key for key in config.keys() - read if config[key])
    if config.get("bias", "none") != "none":
        further = ["bias", *further]
    starts = {*STARTS}.union(*(cls.foreign_starts for cls in foreign.methods()))
    if config.get("init_lora_weights", True) not in starts:
        further = ["init_lora_weights", *further]
    if further:
        raise ValueError(
            f"{where} has {further[0]}={config[further[0]]!r}, which is not read here."
        )
    return config


def by_layer(config: dict[str, Any], layers: list[str]) -> dict[str, Any]:
    """The config with alpha by full name of the layer, where PEFT matches ends of names."""
    patterns = config.get("alpha_pattern") or {}
    found: dict[str, float] = {}
    for name in layers:
        # Patterns may begin with the name that the backbone has inside a classifier.
        for pattern, alpha in patterns.items():
            ends = [pattern.split(".", i)[-1] for i in range(2)]
            if any(re.match(rf"(.*\.)?({end})$", name) for end in ends):
                found.setdefault(name, alpha)
    return config | {"alpha_pattern": found}
