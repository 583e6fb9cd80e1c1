"""Several tasks at once: interquartile mean, performance profile, probability of improvement.

Agarwal et al., 2021, arXiv:2108.13264. Scores are [..., runs, tasks], on a scale that tasks share;
run i of every method has the same seed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from experiments.metrics.resampling import RESAMPLES

AT_ONCE = 200  # resamples
Statistic = Callable[[np.ndarray], np.ndarray]


def iqm(scores: np.ndarray) -> np.ndarray:
    """The mean [...] of the middle half of all runs on all tasks."""
    flat = scores.reshape(*scores.shape[:-2], -1)
    return np.asarray(stats.trim_mean(flat, 0.25, axis=-1))


def standardise(scores: np.ndarray) -> np.ndarray:
    """Scores of every task less their mean, in standard deviations of all its runs.

    `scores` are [methods, runs, tasks]. Raw scores of several tasks taken together are those of the
    task whose runs lie furthest apart. A task on which all runs are equal has 0 everywhere.
    """
    center = scores.mean(axis=(0, 1))
    spread = (
        scores.std(axis=(0, 1), ddof=1) if scores.shape[0] * scores.shape[1] > 1 else 0 * center
    )
    return np.divide(scores - center, spread, out=np.zeros_like(scores), where=spread > 0)


def profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of runs [thresholds, ...] above each threshold, every task weighing the same."""
    return np.stack([np.mean(scores > at, axis=(-2, -1)) for at in thresholds])


@dataclass(frozen=True)
class Profile:
    """The statistic `profile` at these thresholds."""

    thresholds: np.ndarray

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Return the profile [thresholds, ...] of scores [..., runs, tasks]."""
        return profile(scores, self.thresholds)

    def resampled(self, scores: np.ndarray, picks: np.ndarray) -> np.ndarray:
        """Return the profiles [thresholds, methods, resamples] of runs drawn anew.

        How often each run was drawn and whether it lies above each threshold is all it takes.
        """
        methods, runs, tasks = scores.shape
        counts = np.stack([count_picks(picks[..., task], runs) for task in range(tasks)], axis=-1)
        above = (scores > self.thresholds[:, None, None, None]).astype(float)
        flat = above.reshape(-1, runs * tasks) @ counts.reshape(len(picks), -1).T
        return flat.reshape(len(self.thresholds), methods, -1) / (runs * tasks)


def count_picks(picks: np.ndarray, runs: int) -> np.ndarray:
    """How often each run is among the picks [resamples, runs] of each resample."""
    places = np.arange(len(picks))[:, None] * runs + picks
    return np.bincount(places.ravel(), minlength=len(picks) * runs).reshape(-1, runs).astype(float)


def improvement(scores: np.ndarray) -> np.ndarray:
    """The chance that a run of the first of two methods [2, ..., runs, tasks] beats the second's.

    Every run meets every run of the same task, a tie is half a win, and tasks weigh the same.
    """
    first, second = scores[0][..., :, None, :], scores[1][..., None, :, :]
    return np.mean((first > second) + 0.5 * (first == second), axis=(-3, -2, -1))


def improvement_of(scores: np.ndarray, picks: np.ndarray) -> np.ndarray:
    """The improvement [resamples] of runs drawn anew, by their numbers [resamples, runs, tasks].

    Every run met every other once already, so it is enough to count how often each was drawn.
    """
    first, second = scores[0][:, None, :], scores[1][None, :, :]
    wins = (first > second) + 0.5 * (first == second)  # [runs, runs, tasks]
    resamples, runs, tasks = picks.shape
    found = np.zeros(resamples)
    for task in range(tasks):
        counts = count_picks(picks[..., task], runs)
        found += ((counts @ wins[..., task]) * counts).sum(axis=1)
    return found / (runs**2 * tasks)


def stratified(
    scores: np.ndarray,
    statistic: Statistic,
    generator: np.random.Generator,
    resamples: int = RESAMPLES,
    alpha: float = 0.05,
) -> tuple[np.ndarray, np.ndarray]:
    """Ends [...] of the interval of a statistic, with runs drawn anew in each task.

    The same runs for all methods, as they share seeds. Tasks are not drawn: the interval is about
    other seeds on these tasks. The ends are percentiles, moved away from the statistic by what a
    bootstrap of few runs lacks: (runs - 1) / runs of the variance, and Student's t. One run has
    no interval (NaN).
    """
    *_, runs, tasks = scores.shape
    picks = generator.integers(runs, size=(resamples, runs, tasks))
    if statistic is improvement:
        found = improvement_of(scores, picks)
    elif isinstance(statistic, Profile):
        found = statistic.resampled(scores, picks)
    else:
        # A few at a time: all of them would take as much memory as everything else together.
        parts = (picks[i : i + AT_ONCE] for i in range(0, resamples, AT_ONCE))
        drawn = [statistic(scores[..., part, np.arange(tasks)]) for part in parts]
        found = np.concatenate(drawn, axis=-1)
    ends = np.quantile(found, [alpha / 2, 1 - alpha / 2], axis=-1)
    if runs == 1:
        low, high = np.full_like(ends, np.nan)
        return low, high
    tails = stats.t.isf(alpha / 2, tasks * (runs - 1)) / stats.norm.isf(alpha / 2)
    center = statistic(scores)
    low, high = center + (ends - center) * tails * np.sqrt(runs / (runs - 1))
    return low, high
