"""Ways in which a stored file can be wrong: as bytes, as JSON, as tensors, as a table."""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Harm = Callable[[Path], None]
VALUES: dict[str, Any] = {
    "gone": ..., "null": None, "false": False, "zero": 0, "minus one": -1,
    "ten to the ninth": 10**9, "half": 0.5, "not a number": float("nan"),
    "infinite": float("inf"), "a text": "x",
    "an empty text": "", "a number as text": "0.5", "a reference": "${oc.env:HOME}",
    "a list": [], "a list of null": [None], "an object": {}, "a long text": "x" * 100_000,
    "a number beyond floats": 10**400, "control characters": "\x1b[31m\n\r",
}  # fmt: skip


MOST = 150  # values of one file that one command is tried with


@dataclass(frozen=True)
class Case:
    """One file of a folder, and what is done to it."""

    file: str
    what: str
    harm: Harm
    edit: bool = False  # whether it may be taken as meant: a value of JSON, its checksum gone

    @property
    def name(self) -> str:
        return f"{self.file}: {self.what}"


def cases(folder: Path, file: str, another: Path | None, seed: str) -> Iterator[Case]:
    """Ways to damage one file; `another` is a file of the kind that belongs elsewhere.

    Values of a JSON file are replaced by drawn ones, once with its checksum left and once without,
    as somebody who edits it might.
    """
    dice = random.Random(f"{file}{seed}")
    for what, harm in as_bytes(6).items():
        yield Case(file, what, harm)
    if another is not None:
        yield Case(file, "that of another", lambda path: copied(another, path))
    if file.endswith(".json"):
        content = json.loads((folder / file).read_text())
        found = list(paths_of(content))
        for path in dice.sample(found, min(MOST, len(found))):
            for signed in (True, False):
                yield json_case(file, path, dice.choice(list(VALUES)), signed)
        for what, harm in OF_JSON.items():
            yield Case(file, what, harm)
    if file.endswith(".safetensors"):
        for what, harm in as_tensors(folder / file).items():
            yield Case(file, what, harm)


def copied(source: Path, path: Path) -> None:
    shutil.copy(source, path)


def as_bytes(flips: int) -> dict[str, Harm]:
    """What can happen to any file."""
    dice = random.Random(0)
    places = [dice.random() for _ in range(flips)]
    return {
        "missing": lambda path: path.unlink(),
        "empty": lambda path: _write(path, b""),
        "cut to half": lambda path: _write(path, _read(path)[: len(_read(path)) // 2]),
        "cut by a byte": lambda path: _write(path, _read(path)[:-1]),
        "junk": lambda path: _write(path, random.Random(1).randbytes(3000)),
        "zeros": lambda path: _write(path, bytes(len(_read(path)))),
        "more behind it": lambda path: _write(path, _read(path) + b"\0more"),
        "a pipe": _pipe,
        "a folder": _folder,
        "a link to nothing": lambda path: _link(path, "nowhere"),
        "a link to itself": lambda path: _link(path, path.name),
        "a link to a device": lambda path: _link(path, "/dev/zero"),
        **{f"a bit at {place:.2f}": _flipper(place) for place in places},
    }


def _read(path: Path) -> bytes:
    return path.read_bytes()


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def _flipper(place: float) -> Harm:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(place * len(data))] ^= 1 << int(place * 997) % 8
        path.write_bytes(data)

    return flip


def paths_of(node: Any, path: tuple = ()) -> Iterator[tuple]:
    """Where there is a value in plain data."""
    if path:
        yield path
    if isinstance(node, dict):
        for key, item in node.items():
            yield from paths_of(item, (*path, key))
    elif isinstance(node, list):
        for place, item in enumerate(node[:2]):
            yield from paths_of(item, (*path, place))


def json_case(file: str, path: tuple, what: str, signed: bool) -> Case:
    """One value of a JSON file as another."""
    name = f"{'.'.join(map(str, path))} {what}{'' if signed else ', unsigned'}"
    return Case(file, name, _changer(path, VALUES[what], signed), edit=not signed)


def _changer(where: tuple, value: Any, signed: bool = True) -> Harm:
    def change(path: Path) -> None:
        content = json.loads(path.read_text())
        if not signed and where != ("sha256",):
            content.pop("sha256", None)
        node = content
        for key in where[:-1]:
            node = node[key]
        if value is ...:
            del node[where[-1]]
        else:
            node[where[-1]] = value
        path.write_text(json.dumps(content))

    return change


OF_JSON: dict[str, Harm] = {
    "a further key": _changer(("more",), 1),
    "a list": lambda path: _write(path, b"[1]"),
    "nested deeply": lambda path: _write(path, b"[" * 100_000),
    "in another encoding": lambda path: _write(path, path.read_text().encode("utf-16")),
}


def as_tensors(path: Path) -> dict[str, Harm]:
    """What can be wrong with tensors in a file that is one."""
    with safe_open(path, "pt") as file:
        names = sorted(file.keys())
        about = file.metadata() or {}
    tensors = load_file(path)
    name = next(n for n in names if tensors[n].dtype == torch.float32 and tensors[n].numel() > 1)
    last = names[-1]

    def changed(**changes: Any) -> Harm:
        return lambda path: _save(path, changes)

    found = {
        "a tensor gone": changed(drop=name),
        "the last tensor gone": changed(drop=last),
        "a tensor more": changed(put={"more": torch.zeros(2)}),
        "not a number": changed(put={name: torch.full_like(tensors[name], float("nan"))}),
        "zeros": changed(put={name: torch.zeros_like(tensors[name])}),
        "another shape": changed(put={name: tensors[name].reshape(-1)}),
        "half precision": changed(put={name: tensors[name].half()}),
        "double precision": changed(put={name: tensors[name].double()}),
        "bytes": changed(put={name: tensors[name].to(torch.uint8)}),
        "nothing": changed(drop=""),
        "no metadata": changed(about={}),
    }
    for key in about:
        found[f"metadata {key} changed"] = changed(about=about | {key: about[key] + " "})
        found[f"metadata {key} is no JSON"] = changed(about=about | {key: "{"})
        found[f"metadata {key} gone"] = changed(about={k: v for k, v in about.items() if k != key})
    return found


def _save(path: Path, changes: dict[str, Any]) -> None:
    """A safetensors file with something else in it, its metadata kept unless they are changed."""
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    tensors = load_file(path)
    drop = changes.get("drop")
    kept = {k: t for k, t in tensors.items() if drop is None or (drop != "" and k != drop)}
    save_file(kept | changes.get("put", {}), path, changes.get("about", about))
