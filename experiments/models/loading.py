"""Read the folder of a pretrained model: its config, its tokenizer, and its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from experiments.backbones.heads import initialise
from experiments.backbones.layers import PRECISIONS, CastLinear, store_matrices
from experiments.disk.files import check_regular, read_object
from experiments.families.base import OUTPUT, families, family_of
from experiments.models import seq2seq
from experiments.models.files import PIECES, TOKENIZER_FILES, tokenizer_files, weight_files
from experiments.models.generation import language_model
from experiments.models.model import Loaded, assemble

READ = (".json", ".txt", ".safetensors", ".model")  # what is read of a model's folder


def load_model(
    folder: Path,
    config: PreTrainedConfig,
    num_outputs: int,
    reads: str | None,
    generator: torch.Generator,
    precision: str,
) -> Loaded:
    """The backbone, and a head from `generator`; with no outputs, what it is without one.

    The head is a projection of what it `reads`, or the family's own.
    """
    family = family_of(config)
    if num_outputs and config.is_encoder_decoder:  # before its weights are read
        family.head(config, num_outputs)
    predicts = num_outputs == 0 and family.predicts_tokens(config)
    model = assemble(load_plain(folder, config, precision, predicts), num_outputs, reads)
    if predicts:
        check_output(model.backbone)
    initialise(model.head, getattr(config, "initializer_range", 0.02), generator)
    if reads is None:
        load_head(folder, model.head, family.pretrained_head(config))
    tokenizer = read_tokenizer(folder, config.vocab_size)
    return Loaded(model, tokenizer, family.max_length(config))


def load_plain(
    folder: Path, config: PreTrainedConfig, precision: str, predicts: bool
) -> PreTrainedModel:
    """The backbone alone, with plain linears, its matrices held in this precision."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    backbone = load_backbone(folder, config, predicts)
    family_of(backbone.config).plain(backbone)
    store_matrices(backbone, PRECISIONS[precision])
    return backbone


def read_config(folder: Path) -> PreTrainedConfig:
    """Read the config of a model folder."""
    for path in sorted(folder.iterdir()):
        if path.suffix in READ and not path.is_dir():
            check_regular(path)  # transformers would wait for a pipe for ever
    path = folder / "config.json"
    kind = read_object(path).get("model_type")
    if kind not in CONFIG_MAPPING:
        raise ValueError(f"{path} is of a model of type '{kind}', which transformers lacks.")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, StrictDataclassError) as error:
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())}).") from None
    if config.is_encoder_decoder and not family_of(config).encoder_decoder:
        known = (kind for one in families().values() if one.encoder_decoder
                 for kind in one.model_types)  # fmt: skip
        raise ValueError(
            f"{path} is of an encoder-decoder of type '{kind}', and of those only "
            f"{', '.join(known)} have a family here, which says how they predict tokens."
        )
    return config


def read_tokenizer(folder: Path, size: int) -> PreTrainedTokenizerBase:
    """The tokenizer in a model folder, which may have no more tokens than the model's table.

    Without its files transformers would make an empty one, for which every word is unknown.
    """
    files = tokenizer_files(folder)
    if not files:
        raise ValueError(f"{folder} holds no tokenizer: there is no {TOKENIZER_FILES[0][0]} in it.")
    path = files[0]
    if path.name in PIECES:
        check_pieces(path)
    fast = path.name == TOKENIZER_FILES[0][0]
    if fast and not {"model", "added_tokens"} <= read_object(path).keys():
        raise ValueError(f"{path} does not describe a tokenizer.")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) > size:
        raise ValueError(
            f"The tokenizer in {folder} has {len(tokenizer)} tokens, and its model {size}."
        )
    return tokenizer


def check_pieces(path: Path) -> None:
    """Raise ValueError if a file is no model of SentencePiece, or nothing here reads one."""
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise ValueError(
            f"{path} is read by the package sentencepiece: pip install -e '.[sentencepiece]'."
        ) from None
    try:
        SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({' '.join(str(error).split())}).") from None


def set_dropout(config: PreTrainedConfig, probability: float) -> None:
    """Set every dropout probability of a model's config."""
    for key in list(config.to_dict()):
        if key.endswith(("dropout", "_pdrop", "dropout_prob", "dropout_rate")):
            setattr(config, key, probability)


def load_backbone(
    folder: Path, config: PreTrainedConfig, predicts: bool = False
) -> PreTrainedModel:
    """The pretrained model without pooler; a missing weight is an error.

    The layer that predicts tokens is part of it if it is asked for, and no embedding table.
    """
    own_output = predicts and (config.is_encoder_decoder or not config.tie_word_embeddings)
    predicting = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    cls: Any = predicting if own_output else AutoModel
    options = {} if own_output else family_of(config).loading(config)
    try:
        backbone, report = cls.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported too, and an error below
            **options,
        )
    except SafetensorError as error:
        raise ValueError(f"The weights in {folder} cannot be read ({error}).") from None
    for name, found, expected in sorted(report["mismatched_keys"]):
        raise ValueError(
            f"The weights in {folder} do not fit its config.json: {name} has shape {list(found)}, "
            f"and {list(expected)} was expected."
        )
    lost = sorted(report["missing_keys"])
    if lost:
        raise ValueError(f"The weights in {folder} lack {lost[0]} ({len(lost)} tensors in all).")
    return with_own_output(backbone) if own_output else backbone


def with_own_output(model: PreTrainedModel) -> PreTrainedModel:
    """The backbone of a language model, with the layer that predicts tokens as a part of it.

    Of an encoder-decoder that layer may be the embedding table, and is then left out.
    """
    backbone: Any = model.base_model
    if backbone is model:
        with torch.device("meta"):
            backbone = AutoModel.from_config(model.config)
        seq2seq.take_parts(backbone, model)
    theirs: Any = model.get_output_embeddings()
    if theirs.weight is backbone.get_input_embeddings().weight:
        return backbone
    output = CastLinear(theirs.in_features, theirs.out_features, bias=False, device="meta")
    output.weight = theirs.weight
    backbone.add_module(OUTPUT, output)
    return backbone


@torch.no_grad()
def check_output(backbone: PreTrainedModel) -> None:
    """Raise ValueError for a model that predicts tokens otherwise than by one product with states.

    Some scale or cap their logits, and would be trained on another loss.
    """
    token = torch.zeros(1, 1, dtype=torch.long, device=backbone.device)
    training = backbone.training
    backbone.eval()
    given = {"input_ids": token}
    if backbone.config.is_encoder_decoder:
        given["decoder_input_ids"] = token
    theirs = language_model(backbone)(**given).logits.float()
    scale = family_of(backbone.config).output_scale(backbone.config)
    states = backbone(**given).last_hidden_state * scale
    ours = family_of(backbone.config).output(backbone)(states).float()
    backbone.train(training)
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item()):
        raise ValueError(
            f"A model of type '{backbone.config.model_type}' with this config predicts tokens by "
            "more than a product with its last states (capped or scaled logits), which the "
            "loss here does not compute; as a classifier it can be trained."
        )


@torch.no_grad()
def load_head(folder: Path, head: nn.Module, names: Mapping[str, str]) -> None:
    """Take the modules of a head that are pretrained too from the checkpoint, if it has them."""
    wanted = {
        f"{theirs}.{part}": parameter
        for ours, theirs in names.items()
        if hasattr(head, ours)
        for part, parameter in head.get_submodule(ours).named_parameters()
    }
    if not wanted:
        return
    for file in weight_files(folder):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                for end, parameter in wanted.items():
                    if name.endswith(end):
                        parameter.copy_(tensors.get_tensor(name))
