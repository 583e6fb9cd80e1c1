"""How likely reference texts are; no text is generated for that."""

import numpy as np

from experiments.metrics.base import TokenMetric


def token_probability(sums: np.ndarray, examples: int) -> np.ndarray:
    """The geometric mean of the probabilities of reference tokens: one over the perplexity."""
    return np.exp(sums[..., 0] / sums[..., 1])


METRICS = (
    TokenMetric(
        name="token_probability", columns=("log_probability", "tokens"), of_sums=token_probability
    ),
)  # fmt: skip
