"""METEOR 1.5, counted by its own program: Denkowski and Lavie, 2014, aclanthology.org/W14-3348.

The program is Java and lies in the package pycocoevalcap. What it counts in each example is kept,
and the score is worked out here, Eq. (1)-(5) with the parameters of the ranking task for English.
"""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from experiments.metrics.base import TextMetric
from experiments.metrics.ptb import tokenize_repaired
from experiments.metrics.resampling import ratio

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
WEIGHTS = np.array([1.0, 0.6, 0.8, 0.6])  # of equal words, stems, synonyms, paraphrases
SIDES = ("output", "reference")
# As the program prints them. A content word is any that is not a function word.
COLUMNS = (
    *(f"{side}_words" for side in SIDES),
    *(f"{side}_function_words" for side in SIDES),
    *(
        f"{side}_{words}_{kind}_matches"
        for kind in ("word", "stem", "synonym", "paraphrase")
        for words in ("content", "function")
        for side in SIDES
    ),
    "chunks",
    *(f"{side}_matches" for side in SIDES),
)


def missing() -> str | None:
    """Say what METEOR needs and this machine lacks, in one sentence; None if nothing."""
    if find_spec("pycocoevalcap") is None:
        return 'METEOR is left out: it needs the extra e2e, pip install -e ".[e2e]".'
    if shutil.which("java") is None:
        return "METEOR is left out: it needs Java, and there is no java on PATH."
    return None


def statistics(hypotheses: list[list[str]], references: list[list[list[str]]]) -> np.ndarray:
    """Return the program's counts for each example [n, 23], against its best reference.

    It takes words, not texts. Raises OSError if the program fails.
    """
    lines = [
        " ||| ".join(["SCORE", *(line(reference) for reference in given), line(hypothesis)])
        for hypothesis, given in zip(hypotheses, references, strict=True)
    ]
    counted = [[float(count) for count in answer.split()] for answer in answers(lines)]
    if len(counted) != len(lines) or any(len(counts) != len(COLUMNS) for counts in counted):
        raise OSError(f"METEOR's program answered {len(counted)} of {len(lines)} lines.")
    rows = np.array(counted)
    # One chunk that is all of both texts is not broken, and does not count in a sum either.
    whole = (rows[:, 20] == 1) & np.all(rows[:, 21:23] == rows[:, 0:2], axis=-1)
    rows[whole, 20] = 0.0
    return rows


def line(words: list[str]) -> str:
    """Words as the program reads them."""
    return " ".join(words).replace("|||", "")


def answers(lines: list[str]) -> list[str]:
    """Return the program's reply to each line."""
    options = ["-", "-", "-stdio", "-l", "en", "-norm"]
    command = ["java", "-Xmx2G", "-jar", str(program()), *options]
    text = "".join(f"{line}\n" for line in lines)
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
    if done.returncode:
        raise OSError(f"METEOR's program failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout.decode().splitlines()


def program() -> Path:
    """The program's file, in the package that brings it."""
    package = find_spec("pycocoevalcap")
    assert package is not None and package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "meteor" / "meteor-1.5.jar"


def score(sums: np.ndarray) -> np.ndarray:
    """The score of counts summed over any number of examples [..., 23]."""
    words, function_words = sums[..., 0:2], sums[..., 2:4]
    matches = sums[..., 4:20].reshape(*sums.shape[:-1], 4, 2, 2)
    weighted = np.einsum("...kws,k->...ws", matches, WEIGHTS)
    hits = DELTA * weighted[..., 0, :] + (1 - DELTA) * weighted[..., 1, :]
    size = DELTA * (words - function_words) + (1 - DELTA) * function_words
    precision, recall = np.moveaxis(ratio(hits, size), -1, 0)
    mean = ratio(precision * recall, ALPHA * precision + (1 - ALPHA) * recall)
    chunks, matched = sums[..., 20], sums[..., 21:23]
    return mean * (1 - GAMMA * ratio(chunks, np.mean(matched, axis=-1)) ** BETA)


METRICS = (
    TextMetric(
        name="METEOR", words=tokenize_repaired, columns=COLUMNS, rows=statistics,
        of_sums=lambda sums, examples: score(sums), missing=missing,
    ),
)  # fmt: skip
