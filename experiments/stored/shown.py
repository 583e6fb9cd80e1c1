"""Text that others wrote, as it may be shown: on a terminal, in a spreadsheet, as a file's name."""

import os
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any, NoReturn

from rich.text import Text

# Control characters, line separators, and what turns the direction of writing.
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")  # what a spreadsheet works out begins with these
NO_NAME = re.compile(r"[^\w.+=,-]+")


def visible(value: Any) -> str:
    """A text with every control character written out, so that a terminal obeys none."""
    return CONTROL.sub(lambda found: escape(found[0]), str(value))


def escape(character: str) -> str:
    """One character as Python would write it in quotes."""
    return repr(character)[1:-1] if character != "\x7f" else "\\x7f"


def plain(value: Any, style: str = "") -> Text:
    """A text as rich shows it: no markup in it counts."""
    return Text(visible(value), style=style)


def near(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A hint at the known word that was probably meant, or nothing.

    >>> near("acuracy", ["accuracy", "matthews"])
    " Did you mean 'accuracy'?"
    """
    matches = [m for m in get_close_matches(word, list(known), n=1, cutoff=cutoff) if m != word]
    return f" Did you mean '{matches[0]}'?" if matches else ""


def fail(error: BaseException) -> NoReturn:
    """End a command with one line that says why."""
    if isinstance(error, BrokenPipeError):
        leave_pipe()
    sys.exit(f"error: {visible(error)}")


def leave_pipe() -> NoReturn:
    """End a command quietly whose output nobody reads any more, as after `| head`."""
    # Python would try to write the rest at its end, and complain again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


def in_one_line(text: str) -> str:
    """A text without line breaks, as it fits into a cell."""
    return visible(re.sub(r"\s+", " ", text))


def no_formula(value: Any) -> Any:
    """A cell of a table in one line, that no spreadsheet works out; numbers stay as they are."""
    if not isinstance(value, str):
        return value
    return f"'{visible(value)}" if value.startswith(FORMULA) else visible(value)


def without_formulas(frame: Any) -> Any:
    """A data frame as it may be opened in a spreadsheet: texts in it are only texts."""
    return frame.map(no_formula).rename(columns=no_formula)


def file_name(text: str) -> str:
    """A text as the name of a file, and never a way to another folder."""
    return NO_NAME.sub("_", text).strip(".") or "_"


def spell(value: Any) -> str:
    """A plain value as an override has it."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{spell(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(spell, value)) + "]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value) or "''"
