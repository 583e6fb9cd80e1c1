"""Tuning in a race: one trial at every point, more at the best two, both kept if they are close.

The best of many single trials is partly lucky. Two more trials at each of the two best points
reduce this luck; if they do not settle the choice, the study carries out its final runs
at both points, and a claim must hold for both. All methods get the same number of trials. The
functions take scores, so that a simulation decides as a study does.

With halving (Jamieson and Talwalkar, 2016, arXiv:1502.07943) the first trials pause after half of
their steps, each on its own unchanged schedule, and the worse half of a method's points stops
there. One rule holds for all methods: how many points go on depends on how many there are.
"""

from collections.abc import Iterable, Sequence
from statistics import fmean, variance

MORE = 2  # further trials at each of the best two points
PAUSE = 0.5  # share of the steps after which points are compared by halving


def choose_survivors(halfway: Sequence[float | None]) -> set[int]:
    """The places of the points that go on after half their steps: the better half, two at least.

    None is a trial that failed or diverged, before or after; another one continues in its place.
    """
    known = [(score, -place) for place, score in enumerate(halfway) if score is not None]
    return {-place for _, place in sorted(known, reverse=True)[: count_survivors(len(halfway))]}


def count_survivors(points: int) -> int:
    """The number of points that continue after half their steps."""
    return max(2, (points + 1) // 2)


def best_two(scores: Sequence[float | None]) -> list[int]:
    """The places of the two highest scores, the highest first; None is a trial that diverged."""
    known = [(score, -place) for place, score in enumerate(scores) if score is not None]
    return [-place for _, place in sorted(known, reverse=True)[:2]]


def pool_error(pairs: Iterable[tuple[Sequence[float], Sequence[float]]]) -> float | None:
    """The standard error of the difference of two points, from the trials of every method.

    Each pair holds the scores of a method's two best points with the same tuning seeds. Three
    trials say little about their spread, and the trials of all methods together say more. None if
    there is no pair.
    """
    spreads, trials = [], []
    for first, second in pairs:
        apart = [a - b for a, b in zip(first, second, strict=True)]
        if len(apart) > 1:
            spreads.append(variance(apart))
            trials.append(len(apart))
    return (fmean(spreads) / fmean(trials)) ** 0.5 if spreads else None


def are_close(first: Sequence[float], second: Sequence[float], error: float | None) -> bool:
    """Return whether the means of two points lie within one standard error of their difference."""
    return error is not None and abs(fmean(first) - fmean(second)) <= error
