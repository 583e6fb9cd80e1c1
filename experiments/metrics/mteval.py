"""BLEU and NIST as mteval-v13a.pl computes them by default.

Papineni et al., 2002, doi:10.3115/1073083.1073135; Doddington, 2002, doi:10.3115/1289189.1289273.
"""

import math
from collections import Counter
from itertools import chain

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from experiments.metrics.base import TextMetric, Words
from experiments.metrics.challenge import repair_text
from experiments.metrics.grams import Gram, grams, runs

BLEU_ORDERS, NIST_ORDERS = 4, 5
BLEU_COLUMNS = (
    *(f"matches_{n}" for n in range(1, BLEU_ORDERS + 1)),
    *(f"grams_{n}" for n in range(1, BLEU_ORDERS + 1)),
    "closest_reference_words",
)
NIST_COLUMNS = (
    *(f"information_{n}" for n in range(1, NIST_ORDERS + 1)),
    *(f"grams_{n}" for n in range(1, NIST_ORDERS + 1)),
    "reference_words",
    "references",
)
LOWER = str.maketrans({chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)})
BETA = math.log(0.5) / math.log(1.5) ** 2  # two thirds of the length halve NIST
TOKENIZER = Tokenizer13a()


def tokenize(text: str) -> Words:
    """The tokens of mteval-v13a; letters beyond A-Z keep their case, as they do there."""
    return TOKENIZER(text).translate(LOWER).split()


def tokenize_repaired(text: str) -> Words:
    """The tokens of a text as the E2E challenge's scorer reads it."""
    return tokenize(repair_text(text))


def bleu_rows(hypotheses: list[Words], references: list[list[Words]]) -> np.ndarray:
    """Matches and number of n-grams, and words of the reference closest in length [n, 9]."""
    bleu = BLEU(tokenize="none", max_ngram_order=BLEU_ORDERS, effective_order=True)
    found = [
        bleu.sentence_score(" ".join(words), [" ".join(reference) for reference in given])
        for words, given in zip(hypotheses, references, strict=True)
    ]
    return np.array([[*s.counts, *s.totals, s.ref_len] for s in found], dtype=float)


def bleu_score(sums: np.ndarray) -> np.ndarray:
    """Smoothed as mteval-v13a does it: orders without a match count 1/2, 1/4, ... of one.

    sacrebleu's smoothing is the same, but it gives 0 where no order matches or one has no n-gram.
    """
    matches, totals = sums[..., :BLEU_ORDERS], sums[..., BLEU_ORDERS:-1]
    words, reference_words = totals[..., 0], sums[..., -1]
    unmatched = (matches == 0) & (totals > 0)
    hits = np.where(unmatched, 0.5 ** np.cumsum(unmatched, axis=-1), matches)
    logs = np.log(np.where(totals > 0, hits, 1.0)) - np.log(np.maximum(totals, 1.0))
    brevity = np.minimum(0.0, 1.0 - reference_words / np.maximum(words, 1.0))
    return np.where(words > 0, np.exp(np.mean(logs, axis=-1) + brevity), 0.0)


def nist_rows(hypotheses: list[Words], references: list[list[Words]]) -> np.ndarray:
    """Information of matches and number of n-grams, words and number of references [n, 12]."""
    every = chain.from_iterable(references)
    weights = information(Counter(chain.from_iterable(runs(w, NIST_ORDERS) for w in every)))
    rows = np.zeros((len(hypotheses), len(NIST_COLUMNS)))
    for row, words, given in zip(rows, hypotheses, references, strict=True):
        counts = [grams(reference, NIST_ORDERS) for reference in given]
        for gram, count in grams(words, NIST_ORDERS).items():
            if matches := min(count, max(known.get(gram, 0) for known in counts)):
                row[len(gram) - 1] += matches * weights[gram]
        row[NIST_ORDERS:-2] = [max(len(words) - n, 0) for n in range(NIST_ORDERS)]
        row[-2:] = sum(map(len, given)), len(given)
    return rows


def information(counts: Counter[Gram]) -> dict[Gram, float]:
    """Return each n-gram's information: of its last word, given those before it, in bits."""
    words = sum(count for gram, count in counts.items() if len(gram) == 1)
    # The Perl program takes a lone "0" before a word for nothing at all.
    before = {gram: words if gram[:-1] in ((), ("0",)) else counts[gram[:-1]] for gram in counts}
    return {gram: math.log2(before[gram] / count) for gram, count in counts.items()}


def nist_score(sums: np.ndarray, examples: int) -> np.ndarray:
    """Doddington, 2002, Eq. (3), with the mean length of a reference over the whole set."""
    weights, totals = sums[..., :NIST_ORDERS], sums[..., NIST_ORDERS:-2]
    length = totals[..., 0] * sums[..., -1] / (sums[..., -2] * examples)
    penalty = np.exp(BETA * np.log(np.clip(length, 1e-300, 1.0)) ** 2)
    return np.sum(weights / np.maximum(totals, 1.0), axis=-1) * penalty


METRICS = (
    TextMetric(
        name="BLEU", words=tokenize_repaired, columns=BLEU_COLUMNS,
        rows=bleu_rows, of_sums=lambda sums, examples: bleu_score(sums),
    ),
    TextMetric(
        name="NIST", words=tokenize_repaired, columns=NIST_COLUMNS,
        rows=nist_rows, of_sums=nist_score, bounds=(0.0, np.inf), raw=True,
    ),
)  # fmt: skip
