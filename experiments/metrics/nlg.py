"""The metrics of the E2E NLG challenge, equal to its scorer's (github.com/tuetschek/e2e-metrics).

Each is worked out from rows of counts, one for each example, so that a bootstrap over examples
takes rows instead of texts and is exact. Two things belong to the whole set of references and stay
as they are when examples are resampled: NIST's weights and CIDEr's document frequencies.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from experiments.metrics import captions, meteor, mteval, ptb
from experiments.metrics.challenge import repaired
from experiments.metrics.grams import Words

# What the rows of `statistics` hold, in the order in which the metrics are reported.
COLUMNS: dict[str, tuple[str, ...]] = {
    "BLEU": mteval.BLEU_COLUMNS,
    "NIST": mteval.NIST_COLUMNS,
    "METEOR": meteor.COLUMNS,
    "ROUGE_L": ("score",),
    "CIDEr": ("score",),
}
METRICS = tuple(COLUMNS)
Rows = Callable[[list[Words], list[list[Words]]], np.ndarray]
MTEVAL: dict[str, Rows] = {"BLEU": mteval.bleu_rows, "NIST": mteval.nist_rows}
CAPTIONS: dict[str, Rows] = {
    "METEOR": meteor.statistics,
    "ROUGE_L": captions.rouge_rows,
    "CIDEr": captions.cider_rows,
}
# From sums over examples [..., columns] and the number of examples.
SCORES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "BLEU": lambda sums, examples: mteval.bleu_score(sums),
    "NIST": mteval.nist_score,
    "METEOR": lambda sums, examples: meteor.score(sums),
    "ROUGE_L": lambda sums, examples: sums[..., 0] / examples,
    "CIDEr": lambda sums, examples: sums[..., 0] / examples,
}


def score(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Iterable[str] = METRICS,
) -> dict[str, float | None]:
    """Each metric over all examples; None where `meteor.missing` says why it cannot be had."""
    rows = statistics(hypotheses, references, metrics)
    return {
        metric: float(from_statistics(metric, rows[metric])) if metric in rows else None
        for metric in known(metrics)
    }


def statistics(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Iterable[str] = METRICS,
) -> dict[str, np.ndarray]:
    """One row for each example and metric [n, columns], as in COLUMNS; no METEOR without Java.

    Raises ValueError where hypotheses and references do not belong together.
    """
    check(hypotheses, references)
    wanted = known(metrics)
    if meteor.missing():
        wanted = [metric for metric in wanted if metric != "METEOR"]
    rows = {}
    for words, counters in ((mteval.tokenize, MTEVAL), (ptb.tokenize, CAPTIONS)):
        chosen = [metric for metric in wanted if metric in counters]
        if chosen:
            outputs = [words(repaired(text)) for text in hypotheses]
            given = [[words(repaired(text)) for text in texts] for texts in references]
            rows |= {metric: counters[metric](outputs, given) for metric in chosen}
    return {metric: rows[metric] for metric in wanted}


def from_statistics(metric: str, rows: np.ndarray) -> np.ndarray:
    """A metric over examples [..., examples, columns] -> [...].

    So `rows[indices]` with indices [resamples, examples] gives a score for each resample, and
    `rows[:, None]` one for each example.
    """
    return SCORES[metric](np.sum(rows, axis=-2), rows.shape[-2])


def known(metrics: Iterable[str]) -> list[str]:
    """The metrics asked for, in the order in which they are reported."""
    asked = set(metrics)
    if asked - set(METRICS):
        raise ValueError(
            f"Metrics are {', '.join(METRICS)}, not {', '.join(sorted(asked - set(METRICS)))}."
        )
    return [metric for metric in METRICS if metric in asked]


def check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Refuse what no metric is defined for."""
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            f"As many outputs as lists of references are needed, and one at least, "
            f"got {len(hypotheses)} and {len(references)}."
        )
    for index, texts in enumerate(references):
        if isinstance(texts, str) or not texts or not all(text.strip() for text in texts):
            raise ValueError(
                f"Example {index} needs a list of references with text in each, got {texts!r}."
            )
