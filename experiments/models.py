"""Pretrained backbones with plain linear layers, and the task head beside them.

Backbone and head are built apart: a method sees the backbone only, and the head is the same for
every method at one seed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from torch import Tensor
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

from experiments import gguf, hub, seq2seq
from experiments.backbones.language import next_token_loss
from experiments.batches import IGNORED, Batch
from experiments.engine import Engine
from experiments.families.base import OUTPUT, families, family_of
from experiments.files import check_regular, read_object
from experiments.generation import language_model
from experiments.heads import READS, NoHead, PooledHead, initialise
from experiments.layers import PRECISIONS, CastLinear, store_matrices
from experiments.userfolders import expanded
from variants.base import at_least_float32

# The sets of files that one tokenizer is made from: the fast one's, GPT-2's and RoBERTa's, BERT's.
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
READ = (".json", ".txt", ".safetensors", ".model")  # what is read of a model's folder


class Model(nn.Module):
    """A backbone, the head on its last hidden states, and how the backbone is run."""

    def __init__(self, backbone: PreTrainedModel, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        unpacked = family_of(backbone.config).unsupported(backbone.config)
        self.engine = Engine("packed" if unpacked is None else "transformers")

    def states(self, batch: Batch, places: np.ndarray) -> Tensor:
        """The last hidden states [m, width] of the tokens at these places [m], at least float32."""
        return at_least_float32(self.engine.states(self.backbone, batch, places))

    def summaries(self, batch: Batch) -> Tensor:
        """Return the head's input of each text [n, width]: one token's last state, or the mean."""
        ends = np.cumsum(batch.lengths)
        if self.head.reads != "mean":
            last = self.head.reads == "last"
            return self.states(batch, ends - 1 if last else ends - batch.lengths)
        states = self.states(batch, np.arange(batch.tokens))
        lengths = torch.from_numpy(batch.lengths).to(states.device)
        rows = torch.arange(len(lengths), device=states.device).repeat_interleave(lengths)
        sums = states.new_zeros(len(lengths), states.shape[1]).index_add(0, rows, states)
        return sums / lengths[:, None]

    def forward(self, batch: Batch) -> Tensor:
        """Outputs [n, num_outputs], or without a head the states of all tokens."""
        if isinstance(self.head, NoHead):
            return self.states(batch, np.arange(batch.tokens))
        return self.head(self.summaries(batch))

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the examples' losses, and the outputs [n, num_outputs]."""
        outputs = self(batch)
        if batch.labels is None:
            raise ValueError("A batch without labels has no loss.")
        if outputs.shape[1] == 1:
            return F.mse_loss(outputs[:, 0], batch.labels, reduction="sum"), outputs
        return F.cross_entropy(outputs, batch.labels, reduction="sum"), outputs


class LanguageModel(Model):
    """A backbone whose embedding table predicts the next token; it has no head to train."""

    def __init__(self, backbone: PreTrainedModel) -> None:
        super().__init__(backbone, NoHead())
        self.smoothing = 0.0  # of the labels, in the loss that is trained on

    def forward(self, batch: Batch) -> Tensor:
        """Per example [n, 2]: the summed negative log-likelihood of its targets, their number."""
        return self.loss(batch)[1]

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The sum of the targets' smoothed losses, and what `forward` gives."""
        if batch.labels is None:
            raise ValueError("A batch without targets has no loss.")
        places = (batch.labels != IGNORED).nonzero()[:, 0]
        where = places.cpu().numpy()
        # Only at the targets are the many logits computed.
        hidden = self.target_states(batch, where)
        table = family_of(self.backbone.config).output(self.backbone).weight
        total, losses = next_token_loss(hidden, table, batch.labels[places], self.smoothing)
        rows = np.repeat(np.arange(len(batch.rows)), batch.lengths)[where]
        rows = torch.from_numpy(rows).to(batch.device)
        counts = torch.stack((losses, torch.ones_like(losses)), dim=1)
        return total, losses.new_zeros(len(batch.rows), 2).index_add(0, rows, counts)

    def target_states(self, batch: Batch, places: np.ndarray) -> Tensor:
        """The states [m, d] that predict the tokens at these places [m] of the stream."""
        if self.backbone.config.is_encoder_decoder:
            return seq2seq.target_states(self.backbone, batch)
        return self.engine.states(self.backbone, batch, places - 1)


def assembled(backbone: PreTrainedModel, num_outputs: int, reads: str | None) -> Model:
    """The backbone with a new head of this width, or, with none, what it is without one.

    The head is a projection of what it `reads`, or the family's own.
    """
    family = family_of(backbone.config)
    if num_outputs == 0 and family.predicts_tokens(backbone.config):
        return LanguageModel(backbone)
    if not num_outputs:
        return Model(backbone, NoHead())
    if reads is not None:
        return Model(backbone, PooledHead(backbone.config.hidden_size, num_outputs, reads))
    return Model(backbone, family.head(backbone.config, num_outputs))


@dataclass(frozen=True)
class Loaded:
    """A model ready to be adapted, and its tokenizer."""

    model: Model
    tokenizer: PreTrainedTokenizerBase
    max_length: int  # tokens that the backbone has positions for

    @property
    def width(self) -> int:
        """Of the hidden states."""
        return self.model.backbone.config.hidden_size


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """Where a backbone comes from and what is known of it."""

    name: str
    path: str  # a folder, or a hub id
    package: str | None  # MODULE/FOLDER of an installed package with the weights, or a GGUF file
    revision: str | None  # of the hub id
    sha256: str | None  # of the weights, or of the GGUF file, checked where it is given
    dropout: float | None  # the backbone's and the head's; null: as in the checkpoint's config
    lr_scale: float  # multiplies every variant's learning rate
    linears: dict[str, list[str]]  # named groups of linear layers, for a variant's targets
    head: str | None = None  # a projection of the first or last token or of the mean; null: its own

    def __post_init__(self) -> None:
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout must be null or lie in [0, 1), got {self.dropout}.")
        if self.head is not None and self.head not in READS:
            raise ValueError(
                f"model.head must be null or one of {', '.join(READS)}, got '{self.head}'."
            )
        if self.lr_scale <= 0:
            raise ValueError(f"model.lr_scale must be positive, got {self.lr_scale}.")

    def folder(self) -> Path:
        """The local folder with config, tokenizer and weights, downloaded if need be.

        A folder that is named comes before the package, and that before the hub. A GGUF file in its
        place is made into a folder in the user's cache.
        """
        folder = self.named_folder()
        if folder is not None:
            return folder if folder.is_dir() else gguf.converted(folder, self.sha256)
        missing = f"model.path: there is no folder '{self.path}'."
        if self.path.startswith((".", "/", "~")) or self.path.count("/") > 1:
            raise ValueError(missing)
        if self.package is not None and (packaged := package_folder(self.package)) is not None:
            return packaged if packaged.is_dir() else gguf.converted(packaged, self.sha256)
        if not self.path:
            raise ValueError(missing)
        patterns = ["*.json", "*.txt", "*.safetensors", "*.model"]
        return hub.snapshot(self.path, "model", patterns, self.revision)

    def named_folder(self) -> Path | None:
        """The folder, or the GGUF file, that `path` names from here, if there is one."""
        folder = expanded(self.path, "model.path")
        named = folder.is_dir() or (folder.suffix == gguf.SUFFIX and folder.exists())
        return folder if self.path and named else None

    def located(self) -> "Pretrained":
        """The same model, found from any working directory if its path names a folder."""
        folder = self.named_folder()
        return self if folder is None else replace(self, path=str(folder.absolute()))

    def weights_hash(self) -> str:
        """The sha256 of the weights; raises ValueError if it is not the expected one."""
        folder = self.folder()
        files = weight_files(folder)
        digest = hash_files(files)
        # Of a model made of a GGUF file it is the file that was expected.
        if self.sha256 is not None and digest != self.sha256 and not self.is_gguf():
            raise ValueError(f"{files[0]} has sha256 {digest}, and {self.sha256} was expected.")
        return digest

    def is_gguf(self) -> bool:
        """Whether the weights come from a GGUF file."""
        named = self.named_folder() or Path(self.package or "")
        return named.suffix == gguf.SUFFIX

    def files_hash(self) -> str:
        """The sha256 of what makes the weights a model, its config and its tokenizer's files."""
        names = {"config.json", "tokenizer_config.json", "special_tokens_map.json"}
        names.update(*TOKENIZER_FILES)
        return hash_files([path for n in sorted(names) if (path := self.folder() / n).exists()])

    def config(self) -> PreTrainedConfig:
        """The model's config, with the dropout that was asked for."""
        config = read_config(self.folder())
        if self.dropout is not None:
            set_dropout(config, self.dropout)
        return config

    def backbone(self, precision: str = "fp32", predicts: bool = False) -> PreTrainedModel:
        """The backbone alone, with plain linears, its matrices held in this precision.

        If it `predicts` tokens and does so by more than its embedding table, with that layer.
        """
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
        backbone = load_backbone(self.folder(), self.config(), predicts)
        family_of(backbone.config).plain(backbone)
        store_matrices(backbone, PRECISIONS[precision])
        return backbone

    def load(self, num_outputs: int, generator: torch.Generator, precision: str) -> Loaded:
        """The backbone, and a head from `generator`; with no outputs, what it is without one."""
        folder, config = self.folder(), self.config()
        if num_outputs and config.is_encoder_decoder:  # before its weights are read
            family_of(config).head(config, num_outputs)
        predicts = num_outputs == 0 and family_of(config).predicts_tokens(config)
        model = assembled(self.backbone(precision, predicts), num_outputs, self.head)
        if predicts:
            check_output(model.backbone)
        initialise(model.head, getattr(config, "initializer_range", 0.02), generator)
        if self.head is None:
            load_head(folder, model.head, family_of(config).pretrained_head(config))
        tokenizer = read_tokenizer(folder, config.vocab_size)
        return Loaded(model, tokenizer, family_of(config).max_length(config))


def package_folder(package: str) -> Path | None:
    """The folder or file MODULE/PATH of an installed package, or None without the package.

    Nothing of the package is imported: only its first part is looked for, the rest are folders.
    """
    module, _, inside = package.partition("/")
    top, *parents = module.split(".")
    if not top or ".." in Path(inside).parts:
        raise ValueError(f"model.package must be MODULE/FOLDER, got '{package}'.")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)), *parents, inside)


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
    if not any(all((folder / name).is_file() for name in names) for names in TOKENIZER_FILES):
        raise ValueError(f"{folder} holds no tokenizer: there is no {TOKENIZER_FILES[0][0]} in it.")
    path = folder / TOKENIZER_FILES[0][0]
    if path.is_file() and not {"model", "added_tokens"} <= read_object(path).keys():
        raise ValueError(f"{path} does not describe a tokenizer.")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    if len(tokenizer) > size:
        raise ValueError(
            f"The tokenizer in {folder} has {len(tokenizer)} tokens, and its model {size}."
        )
    return tokenizer


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


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder."""
    single = folder / "model.safetensors"
    if single.exists():
        check_regular(single)
    files = [single] if single.is_file() else sorted(folder.glob("model-*-of-*.safetensors"))
    if not files:
        raise ValueError(
            f"{folder} holds no model.safetensors; weights in other formats are not read."
        )
    return files


def hash_files(files: list[Path]) -> str:
    """The sha256 of one file, or of the hashes of several in order."""
    digests = []
    for path in files:
        check_regular(path)
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )
