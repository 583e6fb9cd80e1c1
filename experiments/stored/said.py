"""Lines for a person who waits: on the screen, and in the log of the run or the study."""

from experiments.disk.folders import ONLY_LOG
from experiments.stored.shown import visible

EVERY = 15.0  # seconds between two lines on how something goes


def say(line: str) -> None:
    """Print a line at once, and write it into the log."""
    print(visible(line), flush=True)
    note(line)


def note(line: str) -> None:
    """Write a line into the log alone."""
    ONLY_LOG.info("%s", visible(line))
