"""Files written whole or not at all, and read without trust: whoever wrote them, a mistake in one
is one sentence with its name.

torch is imported where tensors are handled only, so that reading results stays quick.
"""

import csv
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor

NOT_JSON = "is not valid JSON"
CHECKSUM = "sha256"  # in the metadata of a safetensors file, and the last key of a record
# Escapes of JSON for a character in two halves; the first group is a whole one.
SURROGATE = re.compile(r"(\\u[dD][89abAB]\w\w\\u[dD][c-fC-F]\w\w)|(?<!\\)\\u[dD][89a-fA-F]\w\w")
STALE = 3600.0  # seconds without a write after which an unfinished file is a dead writer's


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary path that takes the place of `path` when the block ends well.

    Every writer has a name of its own that nobody can foresee, and a link in the place of `path`
    is replaced, not followed. Raises OSError naming the file if it cannot be written, on a full
    disk for example.
    """
    unfinished = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(path.parent, path.name, STALE)
        made = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o666)
        mode = stat.S_IMODE(os.fstat(made).st_mode)
        os.close(made)
        yield unfinished
        # Whoever wrote it may have put another file there, for nobody else to read.
        unfinished.chmod(mode)
        unfinished.replace(path)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends well.

    Raises ValueError if `path` holds something already, OSError if it cannot be written.
    """
    if path.is_symlink() or (path.exists() and (not path.is_dir() or any(path.iterdir()))):
        raise ValueError(f"{path} exists and is not empty; choose another folder, or delete it.")
    unfinished = beside(path)
    try:
        remove_unfinished(path.parent, path.name, STALE, folders=True)
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


def beside(path: Path) -> Path:
    """A path in the same folder that no other writer has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.unfinished")


def remove_unfinished(
    folder: Path, name: str = "*", older: float = 0.0, folders: bool = False
) -> None:
    """Remove the files that writers of `name` left that were killed, or the folders.

    Only what nobody has written to for at least so many seconds.
    """
    for path in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.unfinished"):
        try:
            folder_of_files = path.is_dir() and not path.is_symlink()
            if time.time() - last_written(path) < older or folder_of_files != folders:
                continue
            if folders:
                shutil.rmtree(path)
            else:
                path.unlink()
        except FileNotFoundError:
            continue  # its writer has moved it meanwhile


def last_written(path: Path) -> float:
    """When a file, or any in a folder, was last written to."""
    inside = path.iterdir() if path.is_dir() and not path.is_symlink() else ()
    return max(path.lstat().st_mtime, *(file.lstat().st_mtime for file in inside), 0.0)


def check_regular(path: Path, way_on: str = "") -> None:
    """Raise ValueError unless `path` is a file of bytes; reading a pipe or a device may not end."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error, way_on) from None
    if not stat.S_ISREG(mode):
        raise unreadable(path, "it is no regular file", way_on)


def hash_file(path: Path) -> str:
    """The sha256 of a file. Raises ValueError for one that is no regular file."""
    check_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unreadable(path: Path, reason: object, way_on: str = "") -> ValueError:
    """The error for a file that cannot be read, with the way on if there is one."""
    if isinstance(reason, PermissionError):  # which making it again would not mend
        return ValueError(f"{path} cannot be read: permission denied.")
    return ValueError(f"{path} cannot be read ({reason}){f'; {way_on}' if way_on else ''}.")


def write_tensors(
    path: Path, tensors: "dict[str, Tensor]", about: dict[str, str] | None = None
) -> str:
    """Write a safetensors file with a checksum of all that it holds; returns `digest(tensors)`.

    Without `about` its bytes follow from the tensors alone: safetensors writes several entries of
    metadata in any order, and the checksum is the only one.
    """
    content = digest(tensors)
    metadata = dict(about or {})
    save_tensors(path, tensors, metadata | {CHECKSUM: with_metadata(content, metadata)})
    return content


def save_tensors(path: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str]) -> None:
    """Write a safetensors file with just this metadata."""
    from safetensors.torch import save_file

    cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as file:
        save_file(cpu, file, metadata=metadata)
        set_default_mode(file)


def set_default_mode(path: Path) -> None:
    """Let those read a file who may read any other; safetensors lets its owner alone."""
    mask = os.umask(0o077)  # which cannot be asked for without setting it
    os.umask(mask)
    with suppress(OSError):  # a file system without modes
        path.chmod(0o666 & ~mask)


def read_tensors(path: Path, way_on: str) -> "tuple[dict[str, str], dict[str, Tensor]]":
    """Return the metadata and the tensors of a safetensors file.

    Raises ValueError, ending in the way on, if the file is missing, truncated or something else,
    or no longer what was written.
    """
    check_regular(path, way_on)
    try:
        path.open("rb").close()  # safetensors takes what may not be read for what is not there
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except PermissionError:
        raise ValueError(f"{path} cannot be read: permission denied.") from None
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error, way_on) from None
    about = {key: text for key, text in metadata.items() if key != CHECKSUM}
    stored = metadata.get(CHECKSUM)
    if stored is not None and stored != with_metadata(digest(tensors), about):
        raise ValueError(
            f"{path} is damaged: its content does not have the checksum that was written with it; "
            f"{way_on}."
        )
    return metadata, tensors


def digest(tensors: "Mapping[str, Tensor]") -> str:
    """The sha256 of tensors: of their names, types, shapes and bytes, whatever file they are in."""
    import torch

    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        found.update(raw.numpy().data)
    return found.hexdigest()


def with_metadata(content: str, metadata: Mapping[str, str]) -> str:
    """The checksum of a file with this digest of its tensors, and this metadata."""
    text = json.dumps([content, metadata], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def read_object(path: Path, otherwise: str = "cannot be read") -> dict[str, Any]:
    """The content of a JSON file that holds one object.

    Raises ValueError naming the file if it is no file, no JSON or no object.
    """
    text = read_text(path)
    try:
        content = parse(text)
    except ValueError as error:
        raise ValueError(f"{path} {otherwise} ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one JSON object.")
    return content


def read_text(path: Path, errors: str = "strict") -> str:
    """The text of a UTF-8 file; raises ValueError naming the file if it is none."""
    check_regular(path)
    try:
        return path.read_text(encoding="utf-8", errors=errors)
    except (OSError, ValueError) as error:
        raise unreadable(path, error) from None


def parse(text: str) -> Any:
    """JSON; raises ValueError for halves of characters too, which no program could print."""
    for found in SURROGATE.finditer(text) if "\\u" in text else ():
        if found[1] is None:
            raise ValueError(f"{found[0]} is half of a character")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file; a value that is not a number has no place in it."""
    with atomic_write(path) as file:
        file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def write_record(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file whose last key is a checksum of the others."""
    write_json(path, {**content, CHECKSUM: checksum(content)})


def check_record(path: Path, content: Mapping[str, Any]) -> None:
    """Raise ValueError if a record has a checksum and is not what it was written with."""
    if CHECKSUM in content and content[CHECKSUM] != checksum(content):
        raise ValueError(
            f"{path} is not as it was written: it does not have the checksum in its "
            f"'{CHECKSUM}'. Restore the file, or remove that line if the change is meant."
        )


def checksum(content: Mapping[str, Any]) -> str:
    """The sha256 of a record, its own checksum left out."""
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a JSON-lines file; raises ValueError naming the line that is none."""
    records = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        try:
            record = parse(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise ValueError(f"{path}: line {number} is no JSON object.")
        records.append(record)
    return records


def write_lines(path: Path, records: list[dict[str, float]]) -> None:
    """Write a JSON-lines file anew."""
    with atomic_write(path) as file:
        file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def append_line(path: Path, record: dict[str, float]) -> None:
    """Add one record to a JSON-lines file."""
    try:
        with open_to_append(path) as file:
            file.write((json.dumps(record) + "\n").encode())
    except OSError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def csv_reader(lines: Iterable[str], **how: Any) -> Any:
    """csv's reader, for fields of any length."""
    csv.field_size_limit(2**31 - 1)  # a setting of the whole process, and 131,072 by default
    return csv.reader(lines, **how)


def open_to_append(path: Path) -> Any:
    """A file to add bytes to; a link in its place is an error, and not followed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK
    return os.fdopen(os.open(path, flags, 0o666), "ab")


def flatten(groups: "dict[str, dict[str, Tensor]]") -> "dict[str, Tensor]":
    """`{group: {name: tensor}}` as `{group.name: tensor}`."""
    return {f"{g}.{name}": t for g, tensors in groups.items() for name, t in tensors.items()}


def unflatten(tensors: "dict[str, Tensor]") -> "dict[str, dict[str, Tensor]]":
    """The inverse of `flatten`."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, key = name.partition(".")
        groups.setdefault(group, {})[key] = tensor
    return groups
