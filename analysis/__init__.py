"""Finished runs as tables, figures and a report; reads files, trains nothing.

import analysis
found = analysis.compare("outputs/studies/first")   # or any folder of runs
runs = analysis.load_results("outputs")
"""

import sys
from importlib import import_module
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

from experiments.disk import files  # noqa: F401 (first: it keeps modules of the working folder out)

if TYPE_CHECKING:
    from analysis.front import compare, judge, load_results

__all__ = ["compare", "judge", "load_results"]

# A character that the terminal's encoding lacks is shown as an escape, and ends no command.
if isinstance(sys.stdout, TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")


def __getattr__(name: str) -> Any:
    """The public functions, imported when they are asked for: not every command needs figures."""
    if name not in __all__:
        raise AttributeError(f"module 'analysis' has no attribute '{name}'")
    return getattr(import_module("analysis.front"), name)
