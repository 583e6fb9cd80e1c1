"""The code, packages and machine behind a result."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from experiments.machine.processor import bfloat16_products
from experiments.results.code import hash_shared_code

PACKAGES = (
    "torch", "numba", "transformers", "tokenizers", "datasets", "numpy", "scipy", "scikit-learn",
    "hydra-core", "safetensors",
)  # fmt: skip


def provenance(device: torch.device) -> dict[str, Any]:
    """Code, packages and machine behind a result."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": GIT,
        "code": hash_shared_code(),
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
