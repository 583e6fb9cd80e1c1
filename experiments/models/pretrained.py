"""Where a pretrained backbone lies, what is known of it, and the model that is made of it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.data.sources import Source
from experiments.disk import hub
from experiments.disk.userfolders import expand_home
from experiments.models import gguf
from experiments.models.files import (
    TOKENIZER_FILES,
    hash_files,
    package_folder,
    tokenizer_files,
    weight_files,
)

if TYPE_CHECKING:  # settings do not wait for torch
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from experiments.models.model import Loaded

READS = ("first", "last", "mean")  # what a head sees: one token's state, or the mean over all


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """The source and the properties of a backbone."""

    name: str  # under which results are listed
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

    def doubt(self, data: Source) -> str | None:
        """A sentence on why this model will learn little from such data, if that is known."""
        return None

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
        folder = expand_home(self.path, "model.path")
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
        """Return whether the weights come from a GGUF file."""
        named = self.named_folder() or Path(self.package or "")
        return named.suffix == gguf.SUFFIX

    def files_hash(self) -> str:
        """The sha256 of what makes the weights a model, its config and its tokenizer's files."""
        folder = self.folder()
        names = {"config.json", "tokenizer_config.json", "special_tokens_map.json"}
        names.update(*TOKENIZER_FILES)
        found = [path for name in names if (path := folder / name).exists()]
        return hash_files(sorted({*found, *tokenizer_files(folder)}))

    def config(self) -> "PreTrainedConfig":
        """The model's config, with the dropout that was asked for."""
        from experiments.models.loading import read_config, set_dropout

        config = read_config(self.folder())
        if self.dropout is not None:
            set_dropout(config, self.dropout)
        return config

    def backbone(self, precision: str = "fp32", predicts: bool = False) -> "PreTrainedModel":
        """The backbone alone, with plain linears, its matrices held in this precision.

        If it `predicts` tokens and does so by more than its embedding table, with that layer.
        """
        from experiments.models.loading import load_plain

        return load_plain(self.folder(), self.config(), precision, predicts)

    def load(self, num_outputs: int, generator: "torch.Generator", precision: str) -> "Loaded":
        """The backbone, and a head from `generator`; with no outputs, what it is without one."""
        from experiments.models.loading import load_model

        return load_model(
            self.folder(), self.config(), num_outputs, self.head, generator, precision
        )
