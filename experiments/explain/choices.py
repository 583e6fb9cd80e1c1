"""One line on every file of `conf/`, and on every metric."""

import re
import sys
from pathlib import Path

from experiments.settings.mistakes import CONF
from experiments.settings.schema import Schema, read_schema
from experiments.stored import kinds

PACKAGE = "@package"
SENTENCE = re.compile(r"(?:(?<=[^.\W]{3}\.)|(?<=\)\.)|(?<=[?!]))\s")  # no abbreviation ends one


def explain_choices(group: str) -> dict[str, str]:
    """One line on every choice of a group, by name."""
    return {path.stem: explain_choice(path) for path in sorted((CONF / group).glob("*.yaml"))}


def explain_choice(path: Path) -> str:
    """One line on a file: of a method its class's, of any other what its first comment says."""
    schema = schema_of(path)
    if path.parent.name == kinds.METHODS and schema is not None:
        return schema.explanation
    return first_sentence(path.read_text(encoding="utf-8"))


def schema_of(path: Path) -> Schema | None:
    """The schema of the class that a file names, if it names one."""
    targets = kinds.LINE.findall(path.read_text(encoding="utf-8"))
    return read_schema(targets[0]) if targets else None


def first_sentence(text: str) -> str:
    """The first sentence, or line, of the comment that a file begins with."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("# "):
            break
        if PACKAGE not in line:
            lines.append(line.lstrip("# "))
    return SENTENCE.split(" ".join(lines).strip())[0].rstrip(":")


def explain_metrics() -> dict[str, str]:
    """The first line of the file that each metric stands in, by name."""
    from experiments.metrics.base import list_metrics

    found = {}
    for name, metric in list_metrics().items():
        # What computes it: the counts of a text, or else the value.
        own = vars(metric)
        computes = own.get("rows") or own.get("value") or own["of_sums"]
        found[name] = (sys.modules[computes.__module__].__doc__ or "").partition("\n")[0]
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
