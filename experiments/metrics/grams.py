"""Runs of words, counted."""

from collections import Counter

from experiments.metrics.base import Words

Gram = tuple[str, ...]


def runs(words: Words, orders: int) -> list[Gram]:
    """Every run of 1 to `orders` words."""
    return [
        tuple(words[start : start + n])
        for n in range(1, orders + 1)
        for start in range(len(words) - n + 1)
    ]


def grams(words: Words, orders: int) -> Counter[Gram]:
    """How often each run of 1 to `orders` words occurs."""
    return Counter(runs(words, orders))
