"""List what may be chosen, with a line on each: `python -m experiments.list variants`."""

import argparse
import shutil
import textwrap

from experiments.explain.choices import explain_choices, explain_metrics
from experiments.settings.mistakes import list_groups
from experiments.stored.shown import fail, leave_pipe, near

METRICS = "metrics"
PLURALS = {"study": "studies", "data": "data"}


def list_names() -> dict[str, str]:
    """The groups by the names they are asked for: the folder's own, and its plural."""
    return plurals() | {group: group for group in list_groups()} | {METRICS: METRICS}


def plurals() -> dict[str, str]:
    """The groups by their plurals."""
    return {PLURALS.get(group, f"{group}s"): group for group in list_groups()}


def explain(name: str) -> dict[str, str]:
    """A line on each choice of a group, by its singular or plural; raises ValueError for none."""
    known = list_names()
    if name not in known:
        listed = ", ".join([*plurals(), METRICS])
        raise ValueError(f"There is no list of {name}.{near(name, known, 0.5)} There are {listed}.")
    return explain_metrics() if name == METRICS else explain_choices(known[name])


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.list", description=__doc__)
    parser.add_argument("group", help=f"{METRICS}, or a group: {', '.join(list_groups())}")
    try:
        lines = explain(parser.parse_args().group)
    except ValueError as error:
        fail(error)
    width = max(map(len, lines)) + 2
    columns = max(60, shutil.get_terminal_size().columns)
    told = [
        textwrap.fill(f"{name:{width}}{text}", columns, subsequent_indent=" " * width)
        for name, text in lines.items()
    ]
    try:
        print("\n".join(told), flush=True)
    except BrokenPipeError:
        leave_pipe()


if __name__ == "__main__":
    main()
