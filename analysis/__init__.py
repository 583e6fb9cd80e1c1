"""Finished runs as tables, figures and a report; nothing here trains."""

import sys
from io import TextIOWrapper

# A character that the terminal's encoding lacks is shown as an escape, and ends no command.
if isinstance(sys.stdout, TextIOWrapper):
    sys.stdout.reconfigure(errors="backslashreplace")
