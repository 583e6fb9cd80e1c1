"""Docstrings are plain sentences, and functions are named by what they do."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("experiments", "analysis", "variants", "benchmarks", "docs/tools")
FILES = [ROOT / "run.py", *(path for name in FOLDERS for path in (ROOT / name).rglob("*.py"))]
Named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef

# Adverbs, participles and verbs that say nothing without their object. Each names a setting or a
# local variable at most, and no function, method, property or class.
RIDDLES = [
    "again",
    "alone",
    "asked",
    "asking",
    "begun",
    "carry_out",
    "further",
    "help_out",
    "hopeless",
    "kept",
    "leave",
    "look",
    "over",
    "own",
    "raced",
    "told",
    "unlearned",
    "whole",
    "Continued",
    "Job",
    "Watch",
]


def documented() -> Iterator[tuple[str, ast.Module | Named]]:
    """Yield every module, class and function, each with its place."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | Named):
                yield f"{path.relative_to(ROOT)}: {getattr(node, 'name', 'module')}", node


def test_no_docstring_begins_with_a_question_word() -> None:
    words = ("What", "Whether", "Which")
    riddles = [
        where for where, node in documented() if (ast.get_docstring(node) or "").startswith(words)
    ]
    assert not riddles, "A docstring says what a thing is or does, as 'Return ...'."


def test_no_function_or_class_is_named_by_a_riddle() -> None:
    riddles = [
        where for where, node in documented() if isinstance(node, Named) and node.name in RIDDLES
    ]
    assert not riddles, "A function is a verb with its object, a class a noun."
