"""Finished runs as tables, figures and a report; reads files, trains nothing."""

import sys
from io import TextIOWrapper

from experiments.disk import files  # noqa: F401 (first: it keeps modules of the working folder out)

# A character that the terminal's encoding lacks is shown as an escape, and ends no command.
if isinstance(sys.stdout, TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")
