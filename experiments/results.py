"""One folder per run: what it says, what it holds, and whether it is complete."""

import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache, cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.code import shared_hash
from experiments.files import atomic_write, read_lines
from experiments.folders import tidy
from experiments.identity import NOT_IDENTITY
from experiments.locks import holder
from experiments.processor import bfloat16_products
from experiments.stored import result as stored
from experiments.stored.result import NAME, PREDICTIONS, SCHEMA

PACKAGES = (
    "torch", "numba", "transformers", "tokenizers", "datasets", "numpy", "scipy", "scikit-learn",
    "hydra-core", "safetensors",
)  # fmt: skip
CHOSEN = ("variant", "model", "task", "data", "train", "tracker")  # one file each
# Overrides that leave a published setting what it is: which seed, and where it runs.
HARMLESS = ("seed", "data.dir", "hydra", "forgetting", *NOT_IDENTITY)


@dataclass(frozen=True)
class Origin:
    """How a run was asked for: Hydra's choices of group files, and the overrides as typed."""

    choices: dict[str, str] = field(default_factory=dict)
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        for group in CHOSEN:
            # Hydra knows of no choice for variant=[lora,dora], and puts the second over the first.
            if self.choices and self.choices.get(group) is None:
                raise ValueError(f"{group} takes one file; several are a multirun: -m {group}=A,B.")

    def keeps_paper(self) -> bool:
        """Whether a published setting was taken as it is, but for its seed and where it runs."""
        parts = [part.lstrip("+~").partition("=") for part in self.overrides]
        return all(
            # Several presets at once are none of them, and a copy of the data is the data.
            (key == "experiment" and not value.startswith("["))
            or (key, value) == ("data", "local")
            or any(key == name or key.startswith(f"{name}.") for name in HARMLESS)
            for key, _, value in parts
        )


@dataclass(frozen=True)
class Result:
    """The result of a run, with everything that is needed to judge and repeat it."""

    status: str  # complete | diverged
    label: dict[str, str]
    seed: int
    primary: dict[str, Any]  # metric, score, interval, examples
    scores: dict[str, dict[str, float]]  # by split
    cost: dict[str, Any]
    telemetry: dict[str, float]
    examples: dict[str, Any]  # counts and origins by split
    fingerprint: dict[str, Any]  # settings, data hashes, weights hash
    config: dict[str, Any]
    choices: dict[str, str]
    overrides: list[str]
    paper: str | None
    provenance: dict[str, Any]
    failure: str | None = None
    epochs: list[dict[str, Any]] = field(default_factory=list)  # epoch, step, score, settled
    files: dict[str, str] = field(default_factory=dict)  # sha256 of predictions, and of tensors
    forgetting: dict[str, Any] | None = None  # losses of general text, where they were asked for
    schema: int = SCHEMA
    folder: Path = field(default=Path(), compare=False)

    @property
    def title(self) -> str:
        """The labels and the seed in one line."""
        return title(self.label, self.seed)

    @cached_property
    def predictions(self) -> pd.DataFrame:
        """One row per evaluated example."""
        return stored.read_predictions(self.folder / PREDICTIONS, self.files.get(PREDICTIONS))

    @cached_property
    def history(self) -> pd.DataFrame:
        """One row per logged step."""
        return pd.DataFrame(read_lines(self.folder / "history.jsonl"))

    def write(self) -> None:
        """Write result.json, the last file of a run, and take away what marks it unfinished."""
        content = asdict(self)
        del content["folder"]
        stored.write(self.folder, content)
        tidy(self.folder, LEFTOVERS)


def title(label: Mapping[str, str], seed: int) -> str:
    """The name of a run in one line."""
    return "/".join([*label.values(), f"s{seed}"])


UNFINISHED = "UNFINISHED"
# What a run that is over no longer needs; the mark is last, so that who finds it tidies again.
LEFTOVERS = ("checkpoint.safetensors", "best-*.safetensors", UNFINISHED)


def mark_unfinished(folder: Path) -> None:
    """Say in the folder that it holds no result yet."""
    with atomic_write(folder / UNFINISHED) as file:
        file.write_text(
            "This run has no result yet. The same command takes it up where it stopped.\n",
            encoding="utf-8",
        )


def read_result(folder: Path) -> Result:
    """The result of a finished run; what one left that was killed while it tidied is removed.

    Raises ValueError for a folder without one, or with one that cannot be read.
    """
    path = folder / NAME
    if not path.exists():
        raise ValueError(f"{folder} holds no finished run: there is no {NAME} in it.")
    result = Result(**stored.read(path), folder=folder)
    if (folder / UNFINISHED).exists() and holder(folder) is None:
        tidy(folder, LEFTOVERS)
    return result


def write_predictions(folder: Path, frame: pd.DataFrame) -> str:
    """Write one row per evaluated example; returns the sha256 of the file."""
    with atomic_write(folder / PREDICTIONS) as file:
        frame.to_parquet(file, index=False)
    return stored.hash_file(folder / PREDICTIONS)


def provenance(device: torch.device) -> dict[str, Any]:
    """Code, packages and machine behind a result."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": GIT,
        "code": shared_hash(),
        "packages": package_versions(),
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "float32_products": torch.get_float32_matmul_precision(),
        "bfloat16_products": bfloat16_products(device),
    }


@cache
def package_versions() -> dict[str, str]:
    """The versions of what a result or an adapter depends on."""
    return {name: version(name) for name in PACKAGES}


def git_state() -> dict[str, Any] | None:
    """Commit and whether the tree differs from it; None outside a git checkout."""

    def ask(*command: str) -> str:
        root = Path(__file__).parent
        return subprocess.run(
            ["git", *command], cwd=root, capture_output=True, encoding="utf-8", check=True
        ).stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


GIT = git_state()  # of the code that is running, whatever is edited meanwhile


def device_name(device: torch.device) -> str:
    """The processor's own name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
