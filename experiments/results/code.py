"""The hash of the code that a run's numbers pass through.

Comments and docstrings do not count, nor does what only shows or plans: a mended sentence or a new
panel leaves the hash as it is. A method has a hash of its own, so that a new method changes nothing
for the others.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

from experiments.stored import kinds

ROOT = Path(__file__).parents[2]
ROOMS = ("experiments", "variants")
# Planning, showing, and the built-in suite, whose rows and weights have hashes of their own.
BESIDE = (
    "experiments/study", "experiments/mini", "experiments/running/console.py",
    "experiments/running/showing.py",
    "experiments/running/progress.py", "experiments/running/remarks.py",
    "experiments/stored/said.py",
    "experiments/settings/tracking.py", "experiments/settings/commandline.py",
    "experiments/disk/userfolders.py", "experiments/disk/outputs.py",
    "experiments/running/memory.py", "variants/hf.py",
    "experiments/explain", "experiments/list.py", "experiments/settings/mistakes.py",
    "variants/promises.py",
)  # fmt: skip
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def read_sources() -> dict[str, bytes]:
    """The files that can decide a number, by path below the project's root."""
    paths = (path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py")))
    sources = {path.relative_to(ROOT).as_posix(): path.read_bytes() for path in paths}
    return {
        name: source
        for name, source in sources.items()
        if not any(name == part or name.startswith(f"{part}/") for part in BESIDE)
    }


# Of the code that is running, whatever is edited meanwhile.
SOURCES = read_sources()


@cache
def hash_shared_code() -> str:
    """The sha256 of the code that all methods share."""
    own = set(method_files())
    return hash_sources(name for name in SOURCES if name not in own)


@cache
def hash_method_code(module: str) -> str:
    """The sha256 of the code of one method, with that of the methods it builds on.

    The module of a method from outside the project has no file here, and the hash of nothing.
    """
    own, files, waiting = set(method_files()), set(), [file_of(module)]
    while waiting:
        name = waiting.pop()
        if name in own and name not in files:
            files.add(name)
            waiting += map(file_of, list_imports(ast.parse(SOURCES[name])))
    return hash_sources(files)


def method_files() -> Iterator[str]:
    """The file of every method."""
    targets = kinds.table()[kinds.METHODS].values()
    return (file_of(target.rpartition(".")[0]) for target in targets)


def file_of(module: str) -> str:
    """The path of a module below the project's root."""
    return f"{module.replace('.', '/')}.py"


def list_imports(tree: ast.Module) -> Iterator[str]:
    """The modules from which a module imports names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def hash_sources(names: Iterable[str]) -> str:
    """The sha256 of the syntax trees of files."""
    found = hashlib.sha256()
    for name in sorted(names):
        found.update(f"{name}\n{what_runs(SOURCES[name])}\n".encode())
    return found.hexdigest()


def what_runs(source: bytes) -> str:
    """The syntax tree of a source without comments, docstrings and positions."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, Documented) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)
