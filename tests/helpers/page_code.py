"""What the pages of the docs tell a reader to type: commands and pieces of Python."""

import argparse
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:python|make|torchrun) [^`]+)`")
OPTIONAL = re.compile(r" \[(--[^\]]+)\]")  # what may be left out is tried
PROGRAMS = {"python", "python3", "make", "torchrun", "pytest", "pip", ".", "eval", "cp", "git"}


@dataclass(frozen=True)
class Command:
    """A command of a page, as words."""

    page: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: {' '.join(self.words)}"


def list_commands(page: Path) -> Iterator[Command]:
    """Each command of a page, in blocks of bash and inside sentences."""
    text = page.read_text(encoding="utf-8")
    lines = [line for lang, body in BLOCK.findall(text) if lang == "bash" for line in join(body)]
    lines += [" ".join(found.split()) for found in INLINE.findall(BLOCK.sub("", text))]
    for line in lines:
        words = shlex.split(OPTIONAL.sub(r" \1", line), comments=True)
        if words:
            yield Command(page.name, tuple(word for word in words if word != "..."))


def join(body: str) -> list[str]:
    """The lines of a block, with those that go on in the next as one."""
    return body.replace("\\\n", " ").splitlines()


def list_snippets(page: Path) -> list[str]:
    """The pieces of Python of a page, in order."""
    return [body for lang, body in BLOCK.findall(page.read_text("utf-8")) if lang == "python"]


class Parsed(BaseException):
    """The options of a program are read, and no more is wanted."""


@contextmanager
def parsing_only() -> Iterator[None]:
    """Programs read their options, with all checks of the parser, and stop there."""
    whole = argparse.ArgumentParser.parse_args

    def parse_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        whole(self, *args, **kwargs)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        yield


def parse(words: tuple[str, ...], root: Path) -> None:
    """Let `python -m MODULE ...` or `python FILE ...` read its options.

    One that reads none, or is only named, is imported and no more. Raises AssertionError with what
    the program says of a wrong option.
    """
    module = words[1] if words[0] == "-m" else None
    arguments = list(words[2:] if module else words[1:])
    path = find_file(module) if module else root / words[0]
    if not arguments or "parse_args" not in path.read_text(encoding="utf-8"):
        assert path.is_file(), words
        return
    with pytest.MonkeyPatch.context() as patch, parsing_only():
        patch.setattr(sys, "argv", [str(path), *arguments])
        patch.syspath_prepend(str(path.parent))
        try:
            if module:
                runpy.run_module(module, run_name="__main__")
            else:
                runpy.run_path(str(path), run_name="__main__")
        except Parsed:
            return
        except SystemExit as end:
            raise AssertionError(f"It ends with {end.code}.") from None
    raise AssertionError("It has ended without reading its options.")


def find_file(module: str) -> Path:
    """The file that `python -m MODULE` runs."""
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None, f"There is no module {module}."
    path = Path(spec.origin)
    return path.with_name("__main__.py") if path.name == "__init__.py" else path
