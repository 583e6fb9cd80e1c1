"""ROUGE-L and CIDEr as the COCO captions are scored, and with them the E2E NLG challenge."""

import math
from collections import Counter
from itertools import chain
from typing import NamedTuple

import numpy as np

from experiments.metrics.base import TextMetric, Words
from experiments.metrics.grams import Gram, grams
from experiments.metrics.ptb import tokenize_repaired

ORDERS = 4
BETA = 1.2  # how much more recall counts than precision in ROUGE-L
SIGMA = 6.0  # pairs of words more or less that cost CIDEr a factor of exp(-1/2)


class Profile(NamedTuple):
    """The weights of a text's n-grams, their length for each order, and its number of pairs."""

    weights: dict[Gram, float]
    norms: list[float]
    pairs: int


def rouge_rows(hypotheses: list[Words], references: list[list[Words]]) -> np.ndarray:
    """ROUGE-L of each example [n, 1]: best precision and best recall need not share a reference."""
    return np.array(
        [
            [rouge(words or [""], [reference or [""] for reference in given])]
            for words, given in zip(hypotheses, references, strict=True)
        ]
    )


def rouge(words: Words, references: list[Words]) -> float:
    """Lin, 2004, Eq. (2)-(4), with the weight that the captioning scorers give to recall."""
    common = [longest_common(words, reference) for reference in references]
    precision = max(common) / len(words)
    recall = max(c / len(reference) for c, reference in zip(common, references, strict=True))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def longest_common(first: Words, second: Words) -> int:
    """The length of the longest common subsequence, by bits: Hyyrö, 2004, Sec. 3."""
    places: dict[str, int] = {}
    for place, word in enumerate(first):
        places[word] = places.get(word, 0) | 1 << place
    everything = (1 << len(first)) - 1
    row = everything
    for word in second:
        shared = row & places.get(word, 0)
        row = (row + shared | row - shared) & everything
    return len(first) - row.bit_count()


def cider_rows(hypotheses: list[Words], references: list[list[Words]]) -> np.ndarray:
    """CIDEr-D of each example [n, 1]: Vedantam et al., 2015, arXiv:1411.5726, Sec. 5 and Eq. (5).

    A document is the references of one example, so their frequencies belong to the whole set.
    """
    counted = [[grams(words, ORDERS) for words in given] for given in references]
    documents = Counter(chain.from_iterable(set().union(*counts) for counts in counted))
    rarity = {gram: math.log(len(references) / count) for gram, count in documents.items()}
    # An n-gram in no reference weighs as much as one in a single document.
    unseen = math.log(len(references))
    rows = []
    for words, counts in zip(hypotheses, counted, strict=True):
        output = profile(grams(words, ORDERS), rarity, unseen)
        given = [profile(count, rarity, unseen) for count in counts]
        rows.append([10 * sum(alike(output, reference) for reference in given) / len(given)])
    return np.array(rows)


def profile(counts: Counter[Gram], rarity: dict[Gram, float], unseen: float) -> Profile:
    """Each n-gram's count, weighted by how rare it is."""
    weights = {gram: count * rarity.get(gram, unseen) for gram, count in counts.items()}
    squares, pairs = [0.0] * ORDERS, 0
    for gram, weight in weights.items():
        squares[len(gram) - 1] += weight * weight
        pairs += counts[gram] if len(gram) == 2 else 0
    return Profile(weights, [math.sqrt(square) for square in squares], pairs)


def alike(output: Profile, reference: Profile) -> float:
    """The mean over orders of the clipped cosine, less if the lengths differ."""
    products = [0.0] * ORDERS
    for gram, weight in output.weights.items():
        if other := reference.weights.get(gram):
            products[len(gram) - 1] += min(weight, other) * other
    sizes = [a * b for a, b in zip(output.norms, reference.norms, strict=True)]
    cosine = sum(p / size for p, size in zip(products, sizes, strict=True) if size) / ORDERS
    return cosine * math.exp(-((output.pairs - reference.pairs) ** 2) / (2 * SIGMA**2))


def mean(sums: np.ndarray, examples: int) -> np.ndarray:
    """The mean over examples of one number."""
    return sums[..., 0] / examples


METRICS = (
    TextMetric(
        name="ROUGE_L", words=tokenize_repaired, columns=("score",), rows=rouge_rows, of_sums=mean
    ),
    TextMetric(
        name="CIDEr", words=tokenize_repaired, columns=("score",), rows=cider_rows, of_sums=mean,
        bounds=(0.0, np.inf), raw=True,
    ),
)  # fmt: skip
