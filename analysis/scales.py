"""How scores of a metric are read: what they can be, and in which unit they are printed."""

import numpy as np

RAW = ("NIST", "CIDEr")  # metrics that are no shares of one
BOUNDS = {
    **dict.fromkeys(("accuracy", "f1", "BLEU", "ROUGE_L"), (0.0, 1.0)),
    **dict.fromkeys(("matthews", "pearson", "spearman"), (-1.0, 1.0)),
}


def bounds(metric: str) -> tuple[float, float]:
    """The lowest and the highest that a score can be."""
    return BOUNDS.get(metric, (0.0, np.inf))


def scale(metric: str) -> float:
    """The factor from a score to what is printed: 100 for shares, which are printed in points."""
    return 1.0 if metric in RAW else 100.0
