"""A trained model without its adapter: a folder that transformers' `from_pretrained` reads."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn as nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)

from experiments.adapters.saved import Adapter, load
from experiments.backbones.heads import as_in_transformers
from experiments.disk.files import atomic_folder
from experiments.families.base import OUTPUT, family_of
from experiments.models.generation import language_model
from experiments.models.loading import read_config
from experiments.models.model import LanguageModel, Model
from variants.base import adapter_layers, replace_module

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def write_merged(adapter: Adapter, out: Path, dtype: str = "float32") -> None:
    """Write model, head and tokenizer; merged in float32 and rounded once, to `dtype`.

    Raises ValueError if the folder is not empty, or the adapter does not fit its base.
    """
    loaded = load(adapter)
    make_plain(loaded.model.backbone)
    tokenizer = loaded.tokenizer
    if tokenizer.pad_token_id is None:  # GPT-2's: transformers' classifier finds the end by it
        tokenizer.pad_token = tokenizer.eos_token
    config = read_config(adapter.model.folder())
    config.pad_token_id = tokenizer.pad_token_id
    model = in_transformers(adapter, loaded.model, config, DTYPES[dtype])
    with atomic_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def in_transformers(
    adapter: Adapter, trained: Model, config: PreTrainedConfig, dtype: torch.dtype
) -> PreTrainedModel:
    """The model as transformers has it: a classifier, a language model, or neither."""
    family = family_of(config)
    # On the meta device, since every tensor is given.
    with torch.device("meta"):
        if adapter.num_outputs:
            name_outputs(config, adapter)
            model = AutoModelForSequenceClassification.from_config(config)
        else:
            model = AutoModel.from_config(config, **family.loading(config))
    inner = model.base_model
    prefix = f"{model.base_model_prefix}." if inner is not model else ""
    plain = family.as_loaded(trained.backbone, inner)
    state = {f"{prefix}{name}": tensor for name, tensor in plain.items()}
    if adapter.num_outputs:
        state |= as_in_transformers(trained.head.state_dict(), names_of_head(adapter, config))
    rounded = {name: tensor.float().to(dtype) for name, tensor in state.items()}
    model.load_state_dict(rounded, assign=True)
    if config.is_encoder_decoder:  # both parts share one table
        model.tie_weights()
    if not isinstance(trained, LanguageModel):
        return model
    predicting = language_model(model)
    if hasattr(trained.backbone, OUTPUT):
        output = family.output(trained.backbone)
        output.weight = nn.Parameter(output.weight.float().to(dtype), requires_grad=False)
        predicting.set_output_embeddings(output)
    return predicting


def names_of_head(adapter: Adapter, config: PreTrainedConfig) -> Mapping[str, str]:
    """The modules of an adapter's head by our name: their name in a classifier of transformers.

    Raises ValueError if transformers has no such classifier.
    """
    if adapter.model.head is not None:
        raise ValueError(
            f"model.head={adapter.model.head} makes a head that transformers' classifiers do not "
            "have, so none can be written; a run with model.head=null can be."
        )
    return family_of(config).head_names(config)


def name_outputs(config: PreTrainedConfig, adapter: Adapter) -> None:
    """Say in a config what the outputs of the head are."""
    config.num_labels = adapter.num_outputs
    regression = adapter.num_outputs == 1
    config.problem_type = "regression" if regression else "single_label_classification"
    if adapter.names:
        config.id2label = dict(enumerate(adapter.names))
        config.label2id = {name: code for code, name in enumerate(adapter.names)}


@torch.no_grad()
def make_plain(backbone: nn.Module) -> None:
    """Replace every adapter layer by a float32 linear layer, also where the base is quantised."""
    for name, layer in list(adapter_layers(backbone)):
        weight = layer.merged_weight().float()
        linear = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.register_parameter("bias", layer.frozen_bias())
        replace_module(backbone, name, linear)
