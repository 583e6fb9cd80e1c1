"""Data, models, the loop, measurement and results; no method by name.

from experiments import load_results, run, run_study

run("variant=dora", "task=sst2").primary
run_study("first").groups
load_results("outputs")
"""

import os
import sys
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.api import load_results, run, run_study

__all__ = ["load_results", "run", "run_study"]

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
# `python -m` puts the working folder before all else, and that may be a folder someone handed
# over: no module is taken from there, unless it is this project itself. `run.py` is like that too.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and os.path.realpath(sys.path[0]) != ROOT:
    del sys.path[0]

# How long a thread that waits for others spins before it gives its core away. By default it is for
# ever: beside one busy process on two cores a step took fifty times as long; so, seven times.
# OpenMP reads this once, when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

# A character that the terminal's encoding lacks is shown as an escape, and ends no command.
if isinstance(sys.stdout, TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")


def __getattr__(name: str) -> Any:
    """Import what the package offers when it is asked for: torch takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("experiments.api"), name)
