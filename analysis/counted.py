"""Metrics of generated texts from what was counted in each example, as predictions keep it.

Sums [..., k] over examples and their number make a score, so a bootstrap takes counts and no texts.
They are those of `experiments.metrics`, which says where they come from, and tests hold the two
together. METEOR is never what methods are compared by.
"""

import math

import numpy as np

from analysis.resampling import FromSums

BLEU_ORDERS, NIST_ORDERS = 4, 5
BETA = math.log(0.5) / math.log(1.5) ** 2  # two thirds of the length halve NIST


def bleu(sums: np.ndarray, examples: int) -> np.ndarray:
    """Of matches and numbers of n-grams, and the words of the closest reference [..., 9].

    Orders without a match count 1/2, 1/4, ... of one.
    """
    matches, totals = sums[..., :BLEU_ORDERS], sums[..., BLEU_ORDERS:-1]
    words, reference_words = totals[..., 0], sums[..., -1]
    unmatched = (matches == 0) & (totals > 0)
    hits = np.where(unmatched, 0.5 ** np.cumsum(unmatched, axis=-1), matches)
    logs = np.log(np.where(totals > 0, hits, 1.0)) - np.log(np.maximum(totals, 1.0))
    brevity = np.minimum(0.0, 1.0 - reference_words / np.maximum(words, 1.0))
    return np.where(words > 0, np.exp(np.mean(logs, axis=-1) + brevity), 0.0)


def nist(sums: np.ndarray, examples: int) -> np.ndarray:
    """Of information and numbers of n-grams, and words and number of the references [..., 12]."""
    weights, totals = sums[..., :NIST_ORDERS], sums[..., NIST_ORDERS:-2]
    length = totals[..., 0] * sums[..., -1] / (sums[..., -2] * examples)
    penalty = np.exp(BETA * np.log(np.clip(length, 1e-300, 1.0)) ** 2)
    return np.sum(weights / np.maximum(totals, 1.0), axis=-1) * penalty


def mean(sums: np.ndarray, examples: int) -> np.ndarray:
    """Of one number per example [..., 1]."""
    return sums[..., 0] / examples


COUNTED: dict[str, FromSums] = {"BLEU": bleu, "NIST": nist, "ROUGE_L": mean, "CIDEr": mean}
