"""adapter.json: which method, on which base, and checksums of the tensors beside it."""

from pathlib import Path
from typing import Any, NotRequired, TypedDict

from experiments.disk.files import NOT_JSON, check_record, read_object, write_record
from experiments.stored import result
from experiments.stored.kinds import with_kinds
from experiments.stored.typed import check_finite, fit

NAME, TENSORS, HEAD = "adapter.json", "adapter.safetensors", "head.safetensors"
FORMAT = 2  # 1 named classes by dotted path, and had no checksums
READ = (1, FORMAT)


class Head(TypedDict):
    """The task head."""

    outputs: int
    names: list[str]


class Stored(TypedDict):
    """The whole file."""

    format: int
    variant: dict[str, Any]
    model: dict[str, Any]
    weights: str
    model_files: NotRequired[str | None]
    precision: str
    head: Head
    packages: NotRequired[dict[str, str]]
    tensors: NotRequired[dict[str, str]]  # digests by name of the file


def read(folder: Path) -> dict[str, Any]:
    """The content of an adapter.json of any version that is read, in the terms of the latest.

    Raises ValueError naming the file and the key of what is wrong, also if the result of the run
    beside it says something else.
    """
    path = folder / NAME
    if not path.exists():
        raise ValueError(f"{folder} holds no adapter: there is no {NAME} in it.")
    content = read_object(path, NOT_JSON)
    version = content.get("format")
    if version not in READ or isinstance(version, bool | float):
        readable = " and ".join(map(str, READ))
        raise ValueError(f"{path} has format {version!r:.40}, and this version reads {readable}.")
    missing = Stored.__required_keys__ - content.keys()
    if missing:
        raise ValueError(f"{path} has no '{min(missing)}'.")
    try:
        check_finite(content)
        found = fit(content, Stored, "")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for section in ("variant", "model"):
        found[section] = with_kinds(found[section])
    if (folder / result.NAME).exists():
        check_against(path, found, result.read(folder / result.NAME))
    return found


def check_against(path: Path, adapter: dict[str, Any], run: dict[str, Any]) -> None:
    """Raise ValueError unless an adapter is that of the run whose result lies beside it.

    A base may have been moved, so where it lies is not compared; its hash is, with the base itself.
    """
    config = run["config"]
    pairs = {
        "precision": (adapter["precision"], config["train"].get("precision")),
        "head.names": (adapter["head"]["names"], config["task"].get("names")),
    }
    for section, places in (("variant", ()), ("model", ("path", "package", "revision"))):
        own, theirs = adapter[section], config[section]
        pairs |= {
            f"{section}.{key}": (own.get(key), theirs.get(key))
            for key in sorted(own.keys() | theirs.keys())
            if key not in places
        }
    for name, stored in run["files"].items():
        if name in (TENSORS, HEAD):
            pairs[f"tensors.{name}"] = (adapter.get("tensors", {}).get(name), stored)
    for key, (own, theirs) in pairs.items():
        if own != theirs:
            raise ValueError(
                f"{path} is not of the run it lies with: {key} is {own!r:.80}, and {theirs!r:.80} "
                f"in {result.NAME}."
            )


def write(folder: Path, content: dict[str, Any]) -> None:
    """Write a description of the latest version."""
    write_record(folder / NAME, {"format": FORMAT, **content})


def check_intact(folder: Path) -> None:
    """Raise ValueError if adapter.json is not as it was written."""
    check_record(folder / NAME, read_object(folder / NAME))
