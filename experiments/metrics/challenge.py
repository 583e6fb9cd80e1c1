"""The files of the E2E NLG challenge: meaning representations with references or outputs."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from experiments.disk.files import atomic_write, csv_reader

# What the official scorer takes for a column of its own, by how the header begins.
SOURCE = re.compile("mr|src|source|meaning|da|dial", re.IGNORECASE)
OUTPUT = re.compile("out|ref|sys", re.IGNORECASE)
HEADER = ("MR", "output")
# Texts that were decoded wrongly; the scorer reads them so, in outputs and references.
REPAIRS = {
    "\u0141": "\u00a3",
    "\u00c2\u00a3": "\u00a3",
    "\u00c3\u00a9": "\u00e9",
    "\u00e3\u00a9": "\u00e9",
}


def repair_text(text: str) -> str:
    """A text as the official scorer reads it: on one line, with its pounds and accents mended."""
    for wrong, right in REPAIRS.items():
        text = text.replace(wrong, right)
    return " ".join(text.split())


def group(mrs: Sequence[str], references: Sequence[str]) -> dict[str, list[str]]:
    """The references of each meaning representation, in the order of its first one."""
    groups: dict[str, list[str]] = {}
    for mr, reference in zip(mrs, references, strict=True):
        groups.setdefault(mr, []).append(reference)
    return groups


def write_outputs(path: Path, mrs: Sequence[str], outputs: Sequence[str]) -> None:
    """Write one output for each meaning representation, as a .tsv that the official scorer reads.

    Everything is quoted: the scorer takes a line that ends in a bare tab for a missing column.
    """
    rows = zip(mrs, (" ".join(text.split()) for text in outputs), strict=True)
    with (
        atomic_write(path) as unfinished,
        unfinished.open("w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerows([HEADER, *rows])


def read_outputs(path: Path) -> tuple[list[str], list[str]]:
    """Meaning representations and their outputs, or references, from a .tsv or .csv file.

    Any other file has one output in each line and no meaning representations, which are empty then.
    Raises ValueError if the header of a table does not name one column of each.
    """
    if path.suffix.lower() not in (".tsv", ".csv"):
        texts = [text.strip() for text in path.read_text(encoding="utf-8").split("\n")]
        texts = texts if texts[-1] else texts[:-1]
        return [""] * len(texts), texts
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = file.readlines()
    delimiter = "\t" if lines and "\t" in lines[0] else ","
    header, *rows = [row for row in csv_reader(lines, delimiter=delimiter) if row] or [[]]
    sources = [i for i, name in enumerate(header) if SOURCE.match(name)]
    outputs = [i for i, name in enumerate(header) if OUTPUT.match(name)]
    if len(sources) != 1 or len(outputs) != 1:
        raise ValueError(
            f"The first line of {path} must name a column of meaning representations and one of "
            f"outputs, such as {HEADER[0]} and {HEADER[1]}, not {', '.join(header) or 'nothing'}."
        )
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ValueError(f"Row {number} of {path} has {len(row)} columns, not {len(header)}.")
    return [row[sources[0]] for row in rows], [row[outputs[0]] for row in rows]
