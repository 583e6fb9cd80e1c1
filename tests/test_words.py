"""Docstrings are plain sentences."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("experiments", "analysis", "variants", "benchmarks")
FILES = [ROOT / "run.py", *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))]
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documented() -> Iterator[tuple[str, Documented]]:
    """Yield every module, class and function, with its place."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, Documented):
                yield f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}", node


def test_no_docstring_begins_with_what() -> None:
    riddles = [
        where for where, node in documented() if (ast.get_docstring(node) or "").startswith("What")
    ]
    assert not riddles, "A docstring says what a thing is or does, as 'Return ...'."
