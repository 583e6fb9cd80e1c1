"""ROUGE of summaries, as the package rouge-score counts it: F1 of stems, the best reference's.

Lin, 2004, aclanthology.org/W04-1013. ROUGE_L of `captions` is another: of words, and with recall
weighed more than precision.
"""

import sys
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from experiments.metrics.base import TextMetric, Words


def missing() -> str | None:
    """Say how to install the package, in one sentence; None if it is installed."""
    if find_spec("rouge_score") is None:
        return 'ROUGE needs the extra summary: pip install -e ".[summary]".'
    return None


@cache
def scorer() -> Any:
    """The package's own scorer."""
    from absl import logging
    from rouge_score.rouge_scorer import RougeScorer

    # absl logs to what is stderr now, and would close it, as where a notebook shows it, at its end.
    logging.get_absl_handler().python_handler.stream = sys.__stderr__
    return RougeScorer(["rouge1", "rouge2", "rougeLsum"], use_stemmer=True)


def as_single_word(text: str) -> Words:
    """A text as one: the package finds the words, and a line is a sentence."""
    return [text]


def rows(kind: str, outputs: list[Words], references: list[list[Words]]) -> np.ndarray:
    """F1 against the best reference [n, 1]."""
    found = [
        scorer().score_multi([text for (text,) in given], output[0])[kind].fmeasure
        for output, given in zip(outputs, references, strict=True)
    ]
    return np.array(found, dtype=float)[:, None]


METRICS = tuple(
    TextMetric(
        name=kind.replace("rouge", "ROUGE"),
        words=as_single_word,
        columns=("f1",),
        rows=lambda outputs, references, kind=kind: rows(kind, outputs, references),
        of_sums=lambda sums, examples: sums[..., 0] / examples,
        missing=missing,
    )
    for kind in ("rouge1", "rouge2", "rougeLsum")
)
