"""checkpoint.safetensors: all that continuing an unfinished run needs, in one file with a checksum.

The tensors lie in groups (learned, buffer, head, optimizer, random0, clock ...); what is no tensor
is JSON in the file's metadata. The checksum is over both, so a file that was changed, cut or
mixed with another is refused and never continued as another run.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from experiments.disk.files import CHECKSUM, read_tensors, unflatten, write_tensors
from experiments.stored.result import upgrade_fingerprint
from experiments.stored.typed import fit

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 2  # 1 had no checksum
START_OVER = "delete it to start over"


class Stored(TypedDict):
    """The metadata of a checkpoint: everything that is not a tensor."""

    format: int
    step: int
    key: dict[str, Any]  # the run's fingerprint
    processes: int
    prepare: dict[str, float | None]
    restarts: int
    history: list[dict[str, float]]
    schedule: int
    processor_seconds: float
    tokens: list[int]
    epochs: list[dict[str, Any]]
    scoring: dict[str, float | None]
    peak: float
    codes: list[str]
    products: str


def write(path: Path, tensors: "dict[str, Tensor]", about: dict[str, Any]) -> None:
    """Write a checkpoint of the latest version; `tensors` are named GROUP.NAME."""
    write_tensors(path, tensors, {"about": json.dumps({"format": FORMAT, **about})})


def read(path: Path) -> "tuple[dict[str, Any], dict[str, dict[str, Tensor]]]":
    """Return a checkpoint's metadata, and its tensors by group.

    Raises ValueError, with the way on, for a file that is damaged, of another version, or none.
    """
    text, tensors = read_tensors(path, START_OVER)
    if "about" not in text:
        raise ValueError(f"{path} is no checkpoint of a run; {START_OVER}.")
    try:
        about = json.loads(text["about"])
        version = about.get("format") if isinstance(about, dict) else None
        if version != FORMAT or CHECKSUM not in text:
            raise ValueError("it is of another version, or has lost its checksum")
        about = fit(about, Stored, "about")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be continued ({error}); {START_OVER}.") from None
    about["key"] = upgrade_fingerprint(about["key"])
    return about, unflatten(tensors)
