"""A trained model without its adapter: a folder that transformers' `from_pretrained` reads."""

from pathlib import Path

import torch
import torch.nn as nn
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from experiments.adapters.saved import Adapter, load
from experiments.files import whole_folder
from experiments.heads import as_in_transformers
from experiments.layers import as_loaded
from experiments.models import read_config
from variants.base import adapter_layers, replace_module

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def write_merged(adapter: Adapter, out: Path, dtype: str = "float32") -> None:
    """Write model, head and tokenizer; merged in float32 and rounded once, to `dtype`.

    Raises ValueError where the folder is not empty, or the adapter does not fit its base.
    """
    loaded = load(adapter)
    backbone = loaded.model.backbone
    make_plain(backbone)
    config = read_config(adapter.model.folder())
    tokenizer = loaded.tokenizer
    if tokenizer.pad_token_id is None:  # GPT-2's: transformers' classifier finds the end by it
        tokenizer.pad_token = tokenizer.eos_token
    config.pad_token_id = tokenizer.pad_token_id
    # On the meta device, since every tensor is given.
    with torch.device("meta"):
        if adapter.num_outputs:
            config.num_labels = adapter.num_outputs
            config.problem_type = (
                "regression" if adapter.num_outputs == 1 else "single_label_classification"
            )
            if adapter.names:
                config.id2label = dict(enumerate(adapter.names))
                config.label2id = {name: code for code, name in enumerate(adapter.names)}
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
        else:
            options = {} if config.model_type == "gpt2" else {"add_pooling_layer": False}
            model = AutoModel.from_config(config, **options)
    inner = model.base_model
    prefix = f"{model.base_model_prefix}." if inner is not model else ""
    state = {f"{prefix}{name}": tensor for name, tensor in as_loaded(backbone, inner).items()}
    if adapter.num_outputs:
        state |= as_in_transformers(loaded.model.head.state_dict(), config.model_type)
    rounded = {name: tensor.float().to(DTYPES[dtype]) for name, tensor in state.items()}
    model.load_state_dict(rounded, assign=True)
    with whole_folder(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


@torch.no_grad()
def make_plain(backbone: nn.Module) -> None:
    """Replace every adapter layer by a float32 linear layer, also where the base is quantised."""
    for name, layer in list(adapter_layers(backbone)):
        weight = layer.merged_weight().float()
        linear = nn.Linear(weight.shape[1], len(weight), bias=False, device="meta")
        linear.weight = nn.Parameter(weight, requires_grad=False)
        linear.register_parameter("bias", layer.bias)
        replace_module(backbone, name, linear)
