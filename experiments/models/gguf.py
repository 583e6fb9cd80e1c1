"""GGUF files: made once into a folder that is read as any other model's.

transformers reads the file, with the package `gguf`, and undoes its quantisation: what is trained
is a model in float32 whose weights have the values that the file's few bits can say.
"""

import struct
from contextlib import redirect_stderr
from functools import lru_cache
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

from experiments.disk.files import (
    atomic_folder,
    check_regular,
    hash_file,
    save_tensors,
    unreadable,
)
from experiments.disk.locks import in_turn
from experiments.disk.userfolders import own_cache

SUFFIX = ".gguf"
VERSION = 1  # of what is made of a file; a new one is another folder
NEEDED = "reading it takes the package gguf: make setup EXTRAS=gguf"


def converted(path: Path, sha256: str | None) -> Path:
    """The folder with config, tokenizer and float32 weights that a GGUF file is made into.

    It lies in the user's cache, under the file's hash, and is made once. Raises ValueError if the
    file has another sha256 than this, or cannot be read.
    """
    check_regular(path)
    about = path.stat()
    digest = hash_once(path, about.st_size, about.st_mtime_ns)
    if sha256 is not None and digest != sha256:
        raise ValueError(f"{path} has sha256 {digest}, and {sha256} was expected.")
    folder = own_cache("gguf", f"the model made of {path}") / f"{digest[:16]}-{VERSION}"
    with in_turn(folder.with_suffix(".lock")):
        if not (folder / "config.json").exists():
            if find_spec("gguf") is None:
                raise ValueError(f"{path} is a GGUF file, and {NEEDED}.")
            print(f"{path.name} is made into float32 weights, once: {folder}")
            with atomic_folder(folder) as unfinished:
                convert(path, unfinished)
    return folder


@lru_cache
def hash_once(path: Path, size: int, changed: int) -> str:
    """The sha256 of a file that has not changed since."""
    return hash_file(path)


def convert(path: Path, folder: Path) -> None:
    """Write config, tokenizer and float32 weights.

    Raises ValueError naming the file if it is damaged, or of an architecture that is not read.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    asked: Any = {"gguf_file": path.name, "local_files_only": True}
    try:
        with redirect_stderr(StringIO()):  # a bar for each tensor
            model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **asked)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **asked)
    except (ValueError, KeyError, IndexError, NotImplementedError, OSError, struct.error) as error:
        raise unreadable(path, f"{type(error).__name__}: {' '.join(str(error).split())}") from None
    vars(model.config).pop("quantization_config")  # they are plain numbers now
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tied = model.config.tie_word_embeddings
    tensors = {
        name: tensor.contiguous()
        for name, tensor in model.state_dict().items()
        if not (tied and name in model.all_tied_weights_keys)
    }
    save_tensors(folder / "model.safetensors", tensors, {"format": "pt"})
