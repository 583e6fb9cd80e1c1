"""Studies of known truth: what a procedure finds in many of them says whether to believe it.

Method m with seed s gets example i right where

    z_m + u_i + v_s + b_mi + a_ms + e_msi > 0,    all but z normal, e of standard deviation 1,

so its accuracy over endless seeds and examples is Phi(z_m / sd of the rest). A run may also
collapse to one answer, and seeds may have heavy tails.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import stats

from analysis.power import Design
from analysis.task_scores import TaskScores, of_scorer
from experiments.metrics.base import find_label_metric
from experiments.metrics.resampling import mean


@dataclass(frozen=True, kw_only=True)
class SimulatedStudy:
    """How many of what, and standard deviations of what moves scores; methods by true accuracy."""

    accuracies: tuple[float, ...]
    seeds: int
    examples: int
    difficulty: float = 2.0  # u: of examples, for all methods alike
    luck: float = 0.1  # v: of seeds, for all methods alike
    taste: float = 0.5  # b: of a method for examples
    chance: float | tuple[float, ...] = 0.08  # a: of a method for seeds; one for each, or for all
    degrees: float = np.inf  # of a's Student's t distribution; endless is normal
    collapse: float = 0.0  # share of the runs that give the more frequent label to all examples
    positive: float = 0.5  # share of the examples with label 1
    metric: str = "accuracy"

    @property
    def labels(self) -> np.ndarray:
        """The labels [n]."""
        return (np.arange(self.examples) < self.positive * self.examples).astype(int)

    def right(self, generator: np.random.Generator) -> np.ndarray:
        """Who got what right in one study, [examples, methods, seeds]."""
        k, s, n = len(self.accuracies), self.seeds, self.examples
        shapes = [(n, 1, 1), (1, 1, s), (n, k, 1), (n, k, s)]
        spreads = [self.difficulty, self.luck, self.taste, 1.0]
        chance = np.broadcast_to(self.chance, k)
        sd = np.sqrt(np.square(spreads).sum() + chance**2)
        moved = zip(spreads, shapes, strict=True)
        noise = sum(spread * generator.standard_normal(shape) for spread, shape in moved)
        own = chance[:, None] * self.seed_effects(generator, (k, s))
        found = (stats.norm.ppf(self.accuracies) * sd)[:, None] + noise + own > 0
        if self.collapse:
            lost = generator.random((k, s)) < self.collapse
            usual = self.labels == round(self.labels.mean())
            found = np.where(lost, usual[:, None, None], found)
        return found

    def seed_effects(self, generator: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
        """Draw the effects of seeds on a method, in standard deviations, or in t's own unit."""
        if np.isinf(self.degrees):
            return generator.standard_normal(shape)
        return generator.standard_t(self.degrees, shape)

    def draw(self, generator: np.random.Generator) -> TaskScores:
        """One study of this kind."""
        return self.judged(self.right(generator))

    def judged(self, right: np.ndarray) -> TaskScores:
        """A study as it is judged."""
        names = tuple(f"method {number}" for number in range(len(self.accuracies)))
        if self.metric == "accuracy":
            return of_scorer(mean(right), "simulated", "accuracy", names)
        labels = self.labels[:, None, None]
        told = np.where(right, labels, 1 - labels)
        scorer = find_label_metric(self.metric).scorer(self.labels, told)
        return of_scorer(scorer, "simulated", self.metric, names)

    def design(self, generator: np.random.Generator, comparisons: int = 1) -> Design:
        """How the first two methods compare, with the spreads of a far larger study."""
        chance = self.chance[:2] if isinstance(self.chance, tuple) else self.chance
        two = replace(self, accuracies=self.accuracies[:2], chance=chance)
        large = replace(two, seeds=200, examples=5000)
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
