"""Files written whole or not at all: first beside their place, then moved into it."""

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well.

    Raises OSError naming the file where it cannot be written, on a full disk for example.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        yield unfinished
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        unfinished.unlink(missing_ok=True)
        raise OSError(f"{path} could not be written: {error}") from error


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends well.

    Raises ValueError where `path` holds something already, OSError where it cannot be written.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(f"{path} exists and is not empty; choose another folder, or delete it.")
    unfinished = path.with_name(f".{path.name}.unfinished")
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        yield unfinished
        for file in unfinished.rglob("*.safetensors"):
            set_default_mode(file)
        if path.is_dir():
            path.rmdir()
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_tensors(
    path: Path, tensors: dict[str, Tensor], about: dict[str, str] | None = None
) -> None:
    """Write a safetensors file."""
    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with whole(path) as file:
        save_file(cpu, file, metadata={"format": "pt", **(about or {})})
        set_default_mode(file)


def set_default_mode(path: Path) -> None:
    """Let those read a file who may read any other; safetensors lets its owner alone."""
    mask = os.umask(0o077)  # which cannot be asked for without setting it
    os.umask(mask)
    with suppress(OSError):  # a file system without modes
        path.chmod(0o666 & ~mask)


def read_tensors(path: Path, way_on: str) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What a safetensors file says of itself, and its tensors.

    Raises ValueError, ending in the way on, where the file is missing, truncated or something else.
    """
    try:
        path.open("rb").close()  # safetensors takes what may not be read for what is not there
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except PermissionError:
        raise ValueError(f"{path} cannot be read: permission denied.") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read ({error}); {way_on}.") from None


def read_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that holds one object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one JSON object.")
    return content


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; a value that is not a number has no place in it."""
    with whole(path) as file:
        file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_lines(path: Path, records: list[dict[str, float]]) -> None:
    """Write a JSON-lines file anew."""
    with whole(path) as file:
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def append_line(path: Path, record: dict[str, float]) -> None:
    """Add one record to a JSON-lines file."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    except OSError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def csv_reader(lines: Iterable[str], **how: Any) -> Any:
    """csv's reader, for fields of any length."""
    csv.field_size_limit(2**31 - 1)  # a setting of the whole process, and 131,072 by default
    return csv.reader(lines, **how)


def flatten(groups: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    """`{group: {name: tensor}}` as `{group.name: tensor}`."""
    return {f"{g}.{name}": t for g, tensors in groups.items() for name, t in tensors.items()}


def unflatten(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """The inverse of `flatten`."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, key = name.partition(".")
        groups.setdefault(group, {})[key] = tensor
    return groups
