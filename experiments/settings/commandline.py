"""The command line as Hydra takes it, and its errors as a person reads them."""

import errno
import sys
from collections.abc import Iterable
from functools import cache
from os.path import abspath

from hydra._internal.utils import get_args_parser
from yaml import YAMLError

from experiments.settings.scalars import quote
from experiments.stored.roles import MOVED, rename_override

CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)


def sentence(error: BaseException) -> str:
    """Describe an error; if the system refuses a file, name the file and where else to write."""
    if isinstance(error, YAMLError):
        return f"{' '.join(str(error).split())}."
    if isinstance(error, MemoryError):
        return "There is too little memory for this run."
    if isinstance(error, UnicodeDecodeError):
        return f"A file of settings is not UTF-8: {error}."
    if not isinstance(error, OSError) or error.errno is None:
        return str(error)
    if error.errno not in CLOSED:
        return f"{error.filename} could not be written: {error.strerror}."
    return (
        f"{error.filename} could not be read or written: {error.strerror}. hydra.run.dir=FOLDER "
        "names another folder."
    )


def with_new_names(overrides: Iterable[str]) -> list[str]:
    """Overrides with the present names of settings; say so of each that has a former one."""
    found = []
    for text in overrides:
        key = text.lstrip("+~").partition("=")[0]
        if key in MOVED:
            tell_new_name(key)
        found.append(rename_override(text))
    return found


@cache
def tell_new_name(key: str) -> None:
    """Say once what a setting is called now."""
    print(f"{key} is called {MOVED[key]} now; the former name still works.", file=sys.stderr)


def list_overrides() -> list[str]:
    """The overrides on the command line, and the folder of settings that it adds, as one."""
    known, _ = get_args_parser().parse_known_args(sys.argv[1:])
    if known.config_dir is None:
        return known.overrides
    return [*known.overrides, f"hydra.searchpath=[{quote(f'file://{abspath(known.config_dir)}')}]"]


def add_overrides(overrides: list[str]) -> None:
    """Put overrides before those on the command line; Hydra wants them in a row."""
    given = (i for i, a in enumerate(sys.argv) if i and "=" in a and not a.startswith("-"))
    place = next(given, 1)
    sys.argv[place:place] = overrides
