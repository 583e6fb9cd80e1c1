"""What a study could have seen: power and smallest difference of a paired comparison.

By the noncentral t distribution, with the variance of `analysis.crossed`: seeds, examples and the
rest of both. A study of too little power that finds nothing says nothing.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from analysis.crossed import satterthwaite
from analysis.effects import root_near


@dataclass(frozen=True, kw_only=True)
class Design:
    """A comparison of two methods; spreads are standard deviations of paired differences.

    The score is a mean over examples. Of `comparisons` in one family the first step of Holm's
    procedure is reckoned with, which asks the most.
    """

    seeds: int
    examples: int
    sd_seeds: float  # between seeds, were the test set endless
    sd_examples: float  # between examples, each the mean over endless seeds
    sd_rest: float  # of one example under one seed, beyond both
    alpha: float = 0.05
    comparisons: int = 1

    def __post_init__(self) -> None:
        if self.seeds < 2 or self.examples < 2:
            raise ValueError(
                f"Two seeds and two examples are needed at least, got {self.seeds} and "
                f"{self.examples}."
            )

    def error(self) -> tuple[float, float]:
        """Standard error of the mean difference, and its degrees of freedom."""
        rest = self.sd_rest**2 / (self.seeds * self.examples)
        between = self.sd_seeds**2 / self.seeds + rest
        among = np.array(self.sd_examples**2 / self.examples + rest)
        variance = between + among - rest
        degrees = satterthwaite(variance, between, among, self.seeds, self.examples)
        return float(np.sqrt(variance)), float(degrees)


def power(design: Design, difference: float) -> float:
    """The chance that this true difference is found."""
    error, degrees = design.error()
    return found(difference / error, degrees, design.alpha / design.comparisons)


def smallest_difference(design: Design, power: float = 0.8) -> float:
    """The true difference that is found with this chance."""
    error, degrees = design.error()
    return error * shift(degrees, design.alpha / design.comparisons, power)


def found(shift: float, degrees: float, alpha: float) -> float:
    """The power of a two-sided t test of a mean that lies `shift` standard errors from 0."""
    edge = stats.t.isf(alpha / 2, degrees)
    # By the square, noncentral F: far out the noncentral t distribution of scipy is no number.
    return float(1 - special.ncfdtr(1, degrees, shift**2, edge**2))


def shift(degrees: float, alpha: float, power: float) -> float:
    """How many standard errors from 0 a mean must lie to be found with this chance.

    Raises ValueError for a power that needs no difference at all.
    """
    if not alpha < power < 1:
        raise ValueError(f"power must lie between alpha={alpha} and 1, got {power}.")
    edge = float(stats.t.isf(alpha / 2, degrees))
    # Sought on one side only: about 0 the power falls and rises again.
    return root_near(lambda size: power - found(max(size, 0.0), degrees, alpha), edge)
