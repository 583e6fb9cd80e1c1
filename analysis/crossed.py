"""How sure a mean difference is, given that other seeds and other examples might have been drawn.

Every seed is scored on the same examples, so the two are crossed, not nested: the difference of a
pair of methods under seed s on example i is

    d_si = delta + a_s + b_i + e_si,    Var(mean) = Va / S + Vb / n + Ve / (S n).

A bootstrap that draws examples anew within each drawn seed averages b away, the more so the more
seeds there are, and its intervals are too short. One that draws seeds and, once for all of them,
examples (the pigeonhole bootstrap, Owen, 2007, Ann. Appl. Stat. 1, 386) sees all three, but counts
Ve three times, has (S - 1) / S of Va, and knows no Student's t, which matters with five seeds. So
examples are resampled here, for any metric and the same ones for all runs; the seeds' share is
worked out from their spread; what both shares hold is taken off once; and Student's t with
Satterthwaite's degrees of freedom gives interval and p-value, which therefore agree. It is the
paired t test over seeds where seeds are all the noise, and the bootstrap over examples where
examples are. Every pair of methods has an error of its own, since seeds move some more than others.

The claim is about other seeds and other examples of the same task, with the same training set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True, kw_only=True)
class Crossed:
    """Mean differences and what is known of them; every field is an array [...] of pairs."""

    difference: np.ndarray
    error: np.ndarray  # standard error over seeds and examples
    degrees: np.ndarray  # of freedom
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray  # two-sided


def crossed(
    differences: np.ndarray, resampled: np.ndarray, examples: int, alpha: float = 0.05
) -> Crossed:
    """From differences [..., seeds], and [resamples, ..., seeds] of them on resampled examples.

    With one seed the error is infinite: nothing is known of how seeds differ.
    """
    seeds = differences.shape[-1]
    between = differences.var(axis=-1, ddof=1) / seeds if seeds > 1 else np.inf
    among, rest = shares(resampled, examples)
    variance = np.maximum(between + among - rest, np.maximum(between, among))
    degrees = satterthwaite(variance, between, among, seeds, examples)
    return concluded(differences.mean(axis=-1), variance, degrees, alpha)


def together(parts: Sequence[Crossed], alpha: float = 0.05) -> Crossed:
    """The mean over several tasks, each with seeds and examples of its own."""
    each = np.stack([part.error**2 for part in parts]) / len(parts) ** 2
    degrees = np.stack([part.degrees for part in parts])
    variance, doubt = each.sum(axis=0), (each**2 / degrees).sum(axis=0)
    known = (doubt > 0) & np.isfinite(doubt)
    return concluded(
        np.mean([part.difference for part in parts], axis=0),
        variance,
        np.divide(variance**2, doubt, out=np.array(degrees.min(axis=0)), where=known),
        alpha,
    )


def concluded(
    difference: np.ndarray, variance: np.ndarray, degrees: np.ndarray, alpha: float
) -> Crossed:
    """Interval and p-value by Student's t."""
    error = np.sqrt(variance)
    reach = stats.t.isf(alpha / 2, degrees) * error
    return Crossed(
        difference=difference,
        error=error,
        degrees=degrees,
        low=difference - reach,
        high=difference + reach,
        p=two_sided(difference, error, degrees),
    )


def shares(resampled: np.ndarray, examples: int) -> tuple[np.ndarray, np.ndarray]:
    """The examples' share of the variance of the mean, and what the seeds' share holds of it."""
    seeds = resampled.shape[-1]
    whole = examples / (examples - 1)
    among = resampled.mean(axis=-1).var(axis=0, ddof=1) * whole
    alone = resampled.var(axis=0, ddof=1).mean(axis=-1) * whole
    return among, (alone - among) / max(seeds - 1, 1)


def satterthwaite(
    variance: np.ndarray,
    between: np.ndarray | float,
    among: np.ndarray,
    seeds: int,
    examples: int,
) -> np.ndarray:
    """Degrees of freedom of a variance made of those of seeds and of examples."""
    if seeds == 1:
        return np.ones_like(variance)
    doubt = np.square(between) / (seeds - 1) + np.square(among) / (examples - 1)
    whole = np.full_like(variance, seeds - 1)
    return np.divide(np.square(variance), doubt, out=whole, where=doubt > 0)


def two_sided(difference: np.ndarray, error: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """The p-value of Student's t; 1 where there is neither difference nor error."""
    far = np.where(difference == 0, 0.0, np.inf)
    t = np.divide(np.abs(difference), error, out=far, where=error > 0)
    return 2 * stats.t.sf(t, degrees)


def pigeonhole(resampled: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mean differences [resamples, ...] on drawn seeds and examples, a bootstrap of both."""
    resamples, seeds = resampled.shape[0], resampled.shape[-1]
    picks = generator.integers(seeds, size=(resamples, seeds))
    counts = (picks[:, :, None] == np.arange(seeds)).sum(axis=1)
    return np.einsum("r...s,rs->r...", resampled, counts / seeds)
