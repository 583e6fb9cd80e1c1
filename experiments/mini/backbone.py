"""A stand-in backbone for the built-in sentences: small, of random weights, made on the spot.

It lets every command run on a bare machine. Nothing it scores says anything about a method.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, RobertaConfig, RobertaModel
from transformers.utils import logging as transformers_logging

from experiments.mini import sentences
from experiments.models import Pretrained

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
SEED = 1  # it names the folder too: another recipe takes another seed


@dataclass(frozen=True, kw_only=True)
class StandIn(Pretrained):
    """A RoBERTa of random weights over the words of the built-in sentences."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.path or self.package or self.revision:
            raise ValueError(
                f"model={self.name} is made on the spot and reads no files: leave path, package "
                "and revision empty, or choose another model, such as model=roberta_base."
            )

    @property
    def note(self) -> str:
        return (
            "A stand-in backbone of random weights on generated sentences: the score means nothing."
        )

    def folder(self) -> Path:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "lora-assay" / f"{self.name}-{SEED}"
        if not (folder / "model.safetensors").is_file():
            build(folder)
        return folder


def build(folder: Path) -> None:
    """Write the tokenizer, then the model, into a folder."""
    words = [*SPECIAL, *sentences.vocabulary()]
    ids = {word: position for position, word in enumerate(words)}
    tokenizer(ids).save_pretrained(folder)
    config = RobertaConfig(
        vocab_size=len(words),
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=130,
        type_vocab_size=1,
        pad_token_id=1,
        initializer_range=0.1,  # large enough for attention to tell words apart
    )
    transformers_logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]), TemporaryDirectory(dir=folder) as beside:
        torch.manual_seed(SEED)
        try:
            RobertaModel(config, add_pooling_layer=False).save_pretrained(beside)
        except SafetensorError as error:
            raise OSError(f"{folder} could not be written: {error}") from error
        # The weights last, and whole: they are what says that the folder is complete.
        for name in ("config.json", "model.safetensors"):
            (Path(beside) / name).replace(folder / name)


def tokenizer(ids: dict[str, int]) -> PreTrainedTokenizerFast:
    """One token per word, in RoBERTa's frame of <s> ... </s>."""
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.RobertaProcessing(("</s>", ids["</s>"]), ("<s>", ids["<s>"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    )
