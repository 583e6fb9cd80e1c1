"""How far words without composition go on the built-in tasks.

A logistic regression (for scores, a ridge regression) on the words, pairs of neighbouring words
and, for two texts, how many they share: python benchmarks/mini_bag_of_words.py
"""

import argparse

import numpy as np
from scipy.sparse import csr_matrix, hstack
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression, Ridge

from experiments.metrics.accuracy import accuracy
from experiments.metrics.correlations import pearson
from experiments.metrics.matthews import matthews
from experiments.mini.tasks import FIELDS, LABELS, SPLITS, ceiling, rows

TASKS = [task for task in FIELDS if task != "e2e"]
TRAIN, TEST = 2048, 512


def features(texts: list[list[str]], vectorizers: list[CountVectorizer]) -> csr_matrix:
    """Words and neighbours of each text, and of two texts what they share and only one has."""
    parts = [v.transform(column) for v, column in zip(vectorizers, texts, strict=True)]
    if len(texts) == 2:
        pairs = [
            [set(text.lower()[:-1].split()) for text in pair] for pair in zip(*texts, strict=True)
        ]
        sizes = [[len(a & b), len(a - b), len(b - a), len(a & b) / len(a | b)] for a, b in pairs]
        parts.append(csr_matrix(np.array(sizes, dtype=float)))
    return csr_matrix(hstack(parts))


def score(task: str, split: str, seed: int, noise: float, size: int) -> float:
    """The task's first metric on a split, trained on the rows of its train split."""
    train, test = rows(task, "train", size, seed, noise), rows(task, split, TEST, seed, noise)
    *texts, labels = train.values()
    *others, truth = test.values()
    vectorizers = [CountVectorizer(ngram_range=(1, 2), binary=True).fit(text) for text in texts]
    seen, unseen = features(texts, vectorizers), features(others, vectorizers)
    if task == "stsb":
        model = Ridge(alpha=10.0).fit(seen, np.array(labels, dtype=float))
        return float(pearson(np.array(truth, dtype=float), model.predict(unseen)))
    codes, true = (
        np.array([LABELS[task].index(label) for label in side]) for side in (labels, truth)
    )
    told = LogisticRegression(C=0.3, max_iter=2000).fit(seen, codes).predict(unseen)
    return float((matthews if task == "cola" else accuracy)(true, told))


def scores(noise: float, size: int = TRAIN, seeds: int = 3) -> dict[str, list[float]]:
    """Per task and scored split the test scores of every seed."""
    return {
        f"{task} {split}": [score(task, split, seed, noise, size) for seed in range(seeds)]
        for task in TASKS
        for split in SPLITS[task]
        if split.startswith("test")
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--train", type=int, default=TRAIN)
    given = parser.parse_args()
    print(f"{'task':<24}{'bag of words':>14}{'ceiling':>10}")
    for name, values in scores(given.noise, given.train).items():
        best = ceiling(name.split()[0], given.noise)
        print(f"{name:<24}{100 * np.mean(values):>14.1f}{100 * best:>10.1f}")
