"""The files of a pretrained model: where they lie, and their hashes."""

import hashlib
from importlib.util import find_spec
from pathlib import Path

from experiments.disk.files import check_regular, hash_file

# The sets of files that one tokenizer is made from: the fast one's, GPT-2's and RoBERTa's, BERT's.
TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",))
# SentencePiece's, by the names that repositories give it; read where there is no other.
PIECES = ("spm.model", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model")


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a model folder from which its tokenizer may be made; none if it has no such."""
    found = [
        folder / name
        for names in TOKENIZER_FILES
        for name in names
        if all((folder / other).is_file() for other in names)
    ]
    return found or [folder / name for name in PIECES if (folder / name).is_file()]


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


def hash_files(files: list[Path]) -> str:
    """The sha256 of one file, or of the hashes of several in order."""
    digests = [hash_file(path) for path in files]
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )
