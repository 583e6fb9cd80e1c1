"""Settings classes as their source files describe them: names, types, defaults, explanations.

A class of settings is a dataclass, and the comment beside a field explains it. Reading the source
imports nothing, so that help, spelling mistakes and values of a wrong type need no torch. What a
class checks of its values beside their types, it checks when it is built.
"""

import ast
import io
import tokenize
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, make_dataclass
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

from experiments.stored import kinds

ROOT = Path(__file__).parents[2]
PLAIN: dict[str, Any] = {
    "str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict,
    "Any": Any,
}  # fmt: skip
NO_DEFAULT = object()
UNREAD = object()  # a default that is no plain value


@dataclass(frozen=True)
class Setting:
    """One field of a settings class."""

    name: str
    type: ast.expr  # its annotation
    module: str  # in which the annotation's names are found
    explanation: str  # the comment beside the field, or above it; may be empty
    default: Any = NO_DEFAULT


@dataclass(frozen=True)
class Schema:
    """One settings class; its fields are in the order of the dataclass."""

    path: str  # dotted
    explanation: str  # the first line of its docstring
    settings: dict[str, Setting]

    @property
    def name(self) -> str:
        """The name of the class."""
        return self.path.rpartition(".")[2]


@cache
def read_schema(target: str) -> Schema | None:
    """The schema of the class with this dotted path; None if the project has no such dataclass."""
    module, _, name = kinds.current_path(target).rpartition(".")
    found = find_class(module, name)
    if found is None or not is_dataclass(found[1]):
        return None
    module, node = found
    settings: dict[str, Setting] = {}
    for base in node.bases:
        inherited = read_schema(f"{module}.{base.id}") if isinstance(base, ast.Name) else None
        settings |= inherited.settings if inherited else {}
    settings |= {setting.name: setting for setting in list_fields(module, node)}
    text = ast.get_docstring(node) or ""
    return Schema(f"{module}.{name}", text.partition("\n")[0], settings)


@cache
def stand_in(target: str) -> type | None:
    """A dataclass with the fields of this one, made from its source; None if that cannot be read.

    It has names, types and defaults, and neither methods nor checks of its own.
    """
    schema = read_schema(target)
    if schema is None:
        return None
    parts = []
    for setting in schema.settings.values():
        kind = read_type(setting.module, setting.type)
        if kind is None or setting.default is UNREAD:
            return None
        parts.append((setting.name, kind, read_field(setting.default)))
    return make_dataclass(schema.name, parts, kw_only=True)


def read_field(default: Any) -> Any:
    """The field of a dataclass with this default."""
    if default is NO_DEFAULT:
        return field()
    return field(default_factory=lambda: deepcopy(default))


def read_default(node: ast.expr | None) -> Any:
    """The default that is written in a source."""
    try:
        return NO_DEFAULT if node is None else ast.literal_eval(node)
    except ValueError:
        return UNREAD


def read_parts(setting: Setting) -> Schema | None:
    """The schema of the settings that a setting is made of, if it is of a settings class."""
    for node in ast.walk(setting.type):
        if isinstance(node, ast.Name) and (found := read_schema(f"{setting.module}.{node.id}")):
            return found
    return None


def describe_type(setting: Setting) -> str:
    """The type of a setting as it is written."""
    return ast.unparse(setting.type)


def read_type(module: str, node: ast.expr) -> Any:
    """The type that an annotation stands for, with stand-ins in it; None if it is none of those."""
    match node:
        case ast.Constant(value=None):
            return NoneType
        case ast.BinOp(op=ast.BitOr()):
            sides = read_type(module, node.left), read_type(module, node.right)
            return None if None in sides else sides[0] | sides[1]
        case ast.Subscript():
            inside = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            kinds = [read_type(module, part) for part in (node.value, *inside)]
            return None if None in kinds else kinds[0][tuple(kinds[1:])]
        case ast.Name():
            return PLAIN.get(node.id) or stand_in(f"{module}.{node.id}")
    return None


def list_fields(module: str, node: ast.ClassDef) -> Iterator[Setting]:
    """The fields that a class itself declares."""
    comments = read_comments(module)
    for part in node.body:
        if not isinstance(part, ast.AnnAssign) or not isinstance(part.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(part.annotation):
            continue
        lines = range(part.lineno, (part.end_lineno or part.lineno) + 1)
        beside = " ".join(comments[line][1] for line in lines if line in comments)
        text = beside or above(comments, part.lineno)
        yield Setting(part.target.id, part.annotation, module, text, read_default(part.value))


def above(comments: dict[int, tuple[bool, str]], line: int) -> str:
    """The comment on the lines just above this one, where they hold nothing else."""
    texts = []
    while (alone := comments.get(line := line - 1)) is not None and alone[0]:
        texts.insert(0, alone[1])
    return " ".join(texts)


@cache
def read_comments(module: str) -> dict[int, tuple[bool, str]]:
    """The comments of a module by line: whether the line holds nothing else, and the text."""
    found = {}
    for token in tokenize.generate_tokens(io.StringIO(read_source(module)).readline):
        if token.type == tokenize.COMMENT:
            alone = not token.line[: token.start[1]].strip()
            found[token.start[0]] = (alone, token.string.lstrip("# ").strip())
    return found


def find_class(module: str, name: str) -> tuple[str, ast.ClassDef] | None:
    """A class of the project, and the module it stands in, which may be one that is imported."""
    for node in read_tree(module).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return find_class(node.module, alias.name)
    return None


def is_dataclass(node: ast.ClassDef) -> bool:
    """Return whether a class is decorated as a dataclass."""
    return any(ast.unparse(mark).partition("(")[0] == "dataclass" for mark in node.decorator_list)


@cache
def read_tree(module: str) -> ast.Module:
    """The syntax tree of a module of the project; of any other an empty one."""
    return ast.parse(read_source(module))


@cache
def read_source(module: str) -> str:
    """The text of a module of the project, or nothing."""
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path.read_text(encoding="utf-8") if path.is_file() else ""
