"""Sizes of effects with intervals, for paired differences over seeds, or over tasks and seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from math import copysign, exp, inf, lgamma, sqrt

import numpy as np
from scipy import optimize, special, stats

WIDEST = 1e6  # noncentralities beyond say nothing
FAR = 1e4  # of a t, from which on chance is in the spread alone
TINY = 1e-12  # of a mean, below which a spread is rounding


@dataclass(frozen=True, kw_only=True)
class Effect:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float


def cohen(differences: np.ndarray, alpha: float = 0.05) -> Effect:
    """The mean in standard deviations, d_z with Hedges' correction; interval by noncentral t.

    Raises ValueError for fewer than three pairs, of which the correction would leave nothing.
    """
    pairs = len(differences)
    if pairs < 3:
        raise ValueError(f"A standardised difference needs three pairs at least, got {pairs}.")
    center, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if spread <= TINY * abs(center) and center != 0:
        return Effect(value=copysign(inf, center), low=-inf, high=inf)
    d = center / spread if center else 0.0
    t, root = d * sqrt(pairs), sqrt(pairs)
    return Effect(
        value=hedges(pairs - 1) * d,
        low=noncentrality(t, pairs - 1, 1 - alpha / 2) / root,
        high=noncentrality(t, pairs - 1, alpha / 2) / root,
    )


def hedges(degrees: int) -> float:
    """Factor that removes the bias of a standardised mean; Hedges, 1981, J. Educ. Stat. 6, 107."""
    return exp(lgamma(degrees / 2) - lgamma((degrees - 1) / 2)) * sqrt(2 / degrees)


def noncentrality(t: float, degrees: float, chance: float) -> float:
    """The noncentrality under which Student's t is at most `t` with this chance."""
    if abs(t) > FAR:
        square = stats.chi2.isf(chance, degrees) if t > 0 else stats.chi2.ppf(chance, degrees)
        return t * sqrt(float(square) / degrees)
    return root_near(lambda shift: float(special.nctdtr(degrees, shift, t)) - chance, t)


def root_near(function: Callable[[float], float], start: float) -> float:
    """The root of a falling function, sought ever wider about `start`."""
    width = 1.0
    while not function(start - width) > 0 > function(start + width):
        width *= 2
        assert width < WIDEST, f"no root within {width} of {start}"
    found = optimize.root_scalar(function, bracket=(start - width, start + width))
    return float(found.root)


def superiority(differences: np.ndarray, alpha: float = 0.05) -> Effect:
    """The chance that the first method wins a pair, a tie being half a win.

    Clopper and Pearson's interval, its low end with ties as defeats and its high end as wins.
    """
    pairs = len(differences)
    wins, ties = int((differences > 0).sum()), int((differences == 0).sum())
    return Effect(
        value=(wins + ties / 2) / pairs,
        low=float(stats.beta.ppf(alpha / 2, wins, pairs - wins + 1)) if wins else 0.0,
        high=float(stats.beta.isf(alpha / 2, wins + ties + 1, pairs - wins - ties))
        if wins + ties < pairs
        else 1.0,
    )
