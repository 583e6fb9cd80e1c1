"""How the command line ends where the system refuses something to Hydra itself.

Hydra makes a run's folder, its log and a copy of the settings before this program starts. A
traceback is all that it has for a folder that may not be written to, or for a full disk.
"""

import errno
import sys
from collections.abc import Callable
from typing import Any

from hydra._internal import utils
from hydra.errors import CompactHydraException
from yaml import YAMLError

CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Hydra leaves the folder alone.
NO_FILES = ["hydra.output_subdir=null", "hydra/job_logging=stdout"]


def carry_out(main: Callable[[], Any]) -> None:
    """Call Hydra's `main`; an error of the system, also one that Hydra meets, ends in one line.

    A folder that may not be written to can hold a finished run: there Hydra's files are left out.
    """
    # Hydra's report shows a traceback of what is not its own, so it gets to see what that is here.
    report, utils.run_and_report = utils.run_and_report, lambda function: function()
    try:
        report(lambda: attempt(main))
    finally:
        utils.run_and_report = report


def attempt(main: Callable[[], Any], again: bool = False) -> None:
    """Call `main`, and once more without Hydra's files if they may not be written."""
    try:
        main()
    except YAMLError as error:
        raise CompactHydraException(f"{' '.join(str(error).split())}.") from error
    except UnicodeDecodeError as error:
        raise CompactHydraException(f"A file of settings is not UTF-8: {error}.") from error
    except (OSError, ValueError) as error:
        cause = of_the_system(error)
        if cause is None:
            raise
        if again or cause.errno not in CLOSED:
            raise CompactHydraException(sentence(cause)) from error
        add_overrides(NO_FILES)
        attempt(main, again=True)


def of_the_system(error: BaseException) -> OSError | None:
    """The error of the system that is this one, or the cause of it, as it is of logging's."""
    for found in (error, error.__cause__):
        if isinstance(found, OSError) and found.errno is not None:
            return found
    return None


def sentence(error: OSError) -> str:
    """What the system refuses, and where else results may lie."""
    hint = " hydra.run.dir=FOLDER names another folder." if error.errno in CLOSED else ""
    return f"{error.filename} could not be written: {error.strerror}.{hint}"


def add_overrides(overrides: list[str]) -> None:
    """Put overrides before those on the command line; Hydra wants them in a row."""
    given = (i for i, a in enumerate(sys.argv) if i and "=" in a and not a.startswith("-"))
    place = next(given, 1)
    sys.argv[place:place] = overrides
