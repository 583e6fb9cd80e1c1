"""Data, models, the loop, measurement and results; no method by name."""

import os
import sys
from io import TextIOWrapper

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
