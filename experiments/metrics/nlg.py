"""Metrics of texts together: texts are tokenized once for all metrics that count the same words.

Those of the E2E NLG challenge are equal to its scorer's (github.com/tuetschek/e2e-metrics). Two
things belong to the whole set of references and stay as they are when examples are resampled:
NIST's weights and CIDEr's document frequencies.
"""

from collections.abc import Sequence

import numpy as np

from experiments.metrics.base import find_text_metrics, value_counts


def score(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[str]
) -> dict[str, float | None]:
    """Each metric over all examples; None if `missing` of the metric says why it cannot be had."""
    known = value_counts(statistics(hypotheses, references, metrics))
    return {metric: known.get(metric) for metric in metrics}


def statistics(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[str]
) -> dict[str, np.ndarray]:
    """One row for each example and metric [n, columns]; none of a metric that cannot be had.

    Raises ValueError if hypotheses and references do not belong together.
    """
    check(hypotheses, references)
    wanted = [metric for metric in find_text_metrics(metrics) if metric.missing() is None]
    rows = {}
    for words in dict.fromkeys(metric.words for metric in wanted):
        outputs = [words(text) for text in hypotheses]
        given = [[words(text) for text in texts] for texts in references]
        rows |= {one.name: one.rows(outputs, given) for one in wanted if one.words is words}
    return {metric.name: rows[metric.name] for metric in wanted}


def check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise ValueError for what no metric is defined for."""
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
