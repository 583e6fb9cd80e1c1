"""Studies of known truth: what a procedure finds in many of them says whether to believe it.

Method m with seed s gets example i right where

    z_m + u_i + v_s + b_mi + a_ms + e_msi > 0,    all but z normal, e of standard deviation 1,

so its accuracy over endless seeds and examples is Phi(z_m / sd of the rest).
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from analysis import resampling
from analysis.outcomes import Outcomes
from analysis.power import Design


@dataclass(frozen=True, kw_only=True)
class Study:
    """How many of what, and standard deviations of what moves scores; methods by true accuracy."""

    accuracies: tuple[float, ...]
    seeds: int
    examples: int
    difficulty: float = 2.0  # u: of examples, for all methods alike
    luck: float = 0.1  # v: of seeds, for all methods alike
    taste: float = 0.5  # b: of a method for examples
    chance: float = 0.08  # a: of a method for seeds

    def right(self, generator: np.random.Generator) -> np.ndarray:
        """Who got what right in one study, [examples, methods, seeds]."""
        k, s, n = len(self.accuracies), self.seeds, self.examples
        shapes = [(n, 1, 1), (1, 1, s), (n, k, 1), (1, k, s), (n, k, s)]
        spreads = [self.difficulty, self.luck, self.taste, self.chance, 1.0]
        z = stats.norm.ppf(self.accuracies) * np.linalg.norm(spreads)
        moved = zip(spreads, shapes, strict=True)
        noise = sum(spread * generator.standard_normal(shape) for spread, shape in moved)
        return z[:, None] + noise > 0

    def draw(self, generator: np.random.Generator) -> Outcomes:
        """One study of this kind."""
        return self.outcomes(self.right(generator))

    def outcomes(self, right: np.ndarray) -> Outcomes:
        """A study as it is judged."""
        return Outcomes(
            task="simulated",
            metric="accuracy",
            methods=tuple(f"method {number}" for number in range(len(self.accuracies))),
            seeds=tuple(range(self.seeds)),
            scorer=resampling.mean(right),
        )

    def design(self, generator: np.random.Generator, comparisons: int = 1) -> Design:
        """How the first two methods compare, with the spreads of a far larger study."""
        large = replace(self, accuracies=self.accuracies[:2], seeds=200, examples=5000)
        right = large.right(generator).astype(float)
        seeds, examples, rest = components(right[:, 0] - right[:, 1])
        return Design(
            seeds=self.seeds, examples=self.examples, comparisons=comparisons,
            sd_seeds=seeds, sd_examples=examples, sd_rest=rest,
        )  # fmt: skip


def components(differences: np.ndarray) -> tuple[float, float, float]:
    """Standard deviations by seeds, by examples and the rest, of [examples, seeds]: ANOVA's.

    One that would be the root of a negative number is 0.
    """
    n, s = differences.shape
    by_example, by_seed = differences.mean(axis=1), differences.mean(axis=0)
    rest = differences - by_example[:, None] - by_seed + differences.mean()
    left = np.sum(rest**2) / ((n - 1) * (s - 1))
    found = np.array([by_seed.var(ddof=1) - left / n, by_example.var(ddof=1) - left / s, left])
    seeds, examples, both = np.sqrt(np.maximum(found, 0)).tolist()
    return seeds, examples, both
