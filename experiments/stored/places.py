"""Absolute paths, which name a machine and its user, as something that names neither."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

# A path of two parts or more that begins at the root, alone or inside a text; also as a URL.
PATH = re.compile(r"(?<![\w.~/\\-])(?:file://)?((?:/[^\s/'\"\[\]{}(),;:=]+){2,}/?)")
RELEASE = re.compile(r"^(\w+)-.*?-?((?:x86_64|amd64|aarch64|arm64|ppc64le|riscv64|s390x).*)$")


def mask_path(path: str) -> str:
    """The last name of a path with a short hash of all of it: GLUE@0a1b2c3d."""
    clean = path.rstrip("/")
    return f"{clean.rpartition('/')[2]}@{hashlib.sha256(clean.encode()).hexdigest()[:8]}"


def mask_text(text: str) -> str:
    """A text with every absolute path in it masked; doing so twice changes nothing more."""
    return PATH.sub(lambda found: mask_path(found[1]), text) if "/" in text else text


def mask_paths(node: Any) -> Any:
    """Plain data with the absolute paths in its texts masked; names of its keys stay."""
    if isinstance(node, str):
        return mask_text(node)
    if isinstance(node, dict):
        return {key: mask_paths(item) for key, item in node.items()}
    return [mask_paths(item) for item in node] if isinstance(node, list | tuple) else node


def paths_in(node: Any) -> set[str]:
    """The absolute paths in plain data."""
    if isinstance(node, Mapping):
        return {path for item in node.values() for path in paths_in(item)}
    if isinstance(node, list | tuple):
        return {path for item in node for path in paths_in(item)}
    return {found[1] for found in PATH.finditer(node)} if isinstance(node, str) else set()


def without_release(system: str) -> str:
    """A platform without its kernel's release, which may name the machine: Linux-x86_64-..."""
    found = RELEASE.match(system)
    return f"{found[1]}-{found[2]}" if found else system.partition("-")[0]
