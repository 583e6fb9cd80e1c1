"""The loss of tokens."""

from typing import Any

import numpy as np

from experiments.backbones.compiled.base import compile_kernel, get, largest, power, put


@compile_kernel
def cross_entropy(
    first: int, step: int, like: Any, logits: Any, targets: Any, smoothing: float, losses: Any,
    means: Any,
) -> None:  # fmt: skip
    """losses [m] = -log softmax(logits) at the targets, means [m] that of all tokens; the logits
    [m, tokens] become the gradient of (1 - smoothing) losses + smoothing means.
    """
    m, tokens = logits.shape
    kind = like.dtype
    row, flat = np.empty(tokens, kind), kind.type(smoothing / tokens)
    for i in range(first, m, step):
        total, inside = kind.type(0), kind.type(0)
        for j in range(tokens):
            row[j] = get(logits, i, j)
        for j in range(tokens):
            total += row[j]
        most, target = largest(row, tokens), row[targets[i]]
        for j in range(tokens):
            row[j] = power(row[j] - most)
        for j in range(tokens):
            inside += row[j]
        log = most + np.log(inside)
        losses[i] = log - target
        means[i] = log - total / kind.type(tokens)
        share = 1 / inside
        row[targets[i]] -= kind.type(1 - smoothing) * inside
        for j in range(tokens):
            put(logits, i, j, row[j] * share - flat)
