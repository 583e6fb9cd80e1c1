"""Numbers about the change of a weight, from W0 and delta, as tidy tables.

A table has one row per matrix, or per singular value, per pair (i, j) and so on, and in each row
the matrix's name, layer and type.  Weights are [d_out, d_in], so a row is an output neuron.

LoRA's subspaces: Hu et al., 2021, arXiv:2106.09685, Sec. 7.2, 7.3.  Effective rank: Roy & Vetterli,
2007.  Intruder dimensions: Shuttleworth et al., 2024, arXiv:2410.21228.  Magnitude and direction:
Liu et al., 2024, arXiv:2402.09353, Sec. 3.2.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from numpy import ndarray
from scipy import stats

from analysis.names import place

SIDES = ("right", "left", "A", "B")
LAYERS = 2  # fewer give no interval


@dataclass(frozen=True)
class Change:
    """W = W0 + delta, all [d_out, d_in]; delta itself, or its factors B [d_out, r] and A [r, d_in].

    W0 is None if the pretrained weight is not at hand.
    """

    W0: ndarray | None
    update: ndarray | tuple[ndarray, ndarray]

    @property
    def delta(self) -> ndarray:
        """The change in full."""
        if isinstance(self.update, ndarray):
            return self.update.astype(np.float64)
        B, A = self.update
        return B.astype(np.float64) @ A.astype(np.float64)

    @property
    def shape(self) -> tuple[int, int]:
        if isinstance(self.update, ndarray):
            return self.update.shape[0], self.update.shape[1]
        return self.update[0].shape[0], self.update[1].shape[1]

    @property
    def base(self) -> ndarray:
        """W0; raises ValueError if it is not at hand."""
        if self.W0 is None:
            raise ValueError(
                "This needs the pretrained weights, and the adapter came without them; bring it "
                "onto its base with python -m experiments.adapters import."
            )
        return self.W0.astype(np.float64)


Changes = Mapping[str, Change]  # by dotted name of the layer


def svd(change: Change) -> tuple[ndarray, ndarray, ndarray]:
    """The singular value decomposition U [d_out, k], S [k], Vh [k, d_in] of delta.

    From thin factors by two QR and one r x r decomposition, so k is r.
    """
    if isinstance(change.update, ndarray) or change.update[0].shape[1] >= min(change.shape):
        return np.linalg.svd(change.delta, full_matrices=False)
    B, A = (factor.astype(np.float64) for factor in change.update)
    Q_B, R_B = np.linalg.qr(B)
    Q_A, R_A = np.linalg.qr(A.T)
    U, S, Vh = np.linalg.svd(R_B @ R_A.T)
    return Q_B @ U, S, Vh @ Q_A.T


def numerical_rank(S: ndarray, shape: tuple[int, int]) -> int:
    """How many singular values are not rounding errors of single precision."""
    return int((S.max(initial=0.0) * max(shape) * np.finfo(np.float32).eps < S).sum())


def spectra(changes: Changes) -> pd.DataFrame:
    """The singular values of every delta, index from 1, and their shares of ||delta||_F^2."""
    rows = []
    for name, change in changes.items():
        _, S, _ = svd(change)
        energy = float((S**2).sum())
        for i, value in enumerate(S.tolist(), start=1):
            share = value**2 / energy if energy else 0.0
            rows.append({**place(name), "index": i, "value": value, "share": share})
    return pd.DataFrame(rows, columns=["name", "layer", "matrix", "index", "value", "share"])


def sizes(changes: Changes) -> pd.DataFrame:
    """Norms and ranks of every delta; its size relative to W0's where all W0 are at hand.

    stable_rank: ||delta||_F^2 / ||delta||_2^2.  effective_rank: exp of the entropy of s / sum(s).
    Neither is defined, and so not a number, if nothing changed.
    """
    rows = []
    for name, change in changes.items():
        _, S, _ = svd(change)
        row = {**place(name), **summary(S), "rank": numerical_rank(S, change.shape)}
        if change.W0 is not None:
            row["relative"] = row["frobenius"] / float(np.linalg.norm(change.base))
        rows.append(row)
    return pd.DataFrame(rows)


def summary(S: ndarray) -> dict[str, float]:
    """Frobenius and spectral norm, stable and effective rank of singular values S [k]."""
    frobenius, spectral = float(np.linalg.norm(S)), float(S.max(initial=0.0))
    found = {"frobenius": frobenius, "spectral": spectral}
    if not spectral:
        return found | {"stable_rank": np.nan, "effective_rank": np.nan}
    return found | {
        "stable_rank": (frobenius / spectral) ** 2,
        "effective_rank": float(np.exp(stats.entropy(S))),
    }


def vectors(change: Change, side: str) -> ndarray:
    """Orthonormal columns [d, k], by falling singular value, as many as the numerical rank.

    right, left: singular vectors of delta.  A, B: right ones of the factor A, left ones of B.
    """
    if side not in SIDES:
        raise ValueError(f"side must be one of {', '.join(SIDES)}, got '{side}'.")
    if side in "AB":
        if isinstance(change.update, ndarray):
            raise ValueError(f"side={side} needs an update in two factors, and this one is dense.")
        factor = change.update["BA".index(side)].astype(np.float64)
        U, S, Vh = np.linalg.svd(factor, full_matrices=False)
        shape = (factor.shape[0], factor.shape[1])
    else:
        U, S, Vh = svd(change)
        shape = change.shape
    rank = numerical_rank(S, shape)
    return Vh[:rank].T if side in ("right", "A") else U[:, :rank]


def overlap(first: ndarray, second: ndarray) -> ndarray:
    """phi [k, l] of two sets of orthonormal columns [d, k] and [d, l], Hu et al., Eq. (4).

    phi(i, j) = ||U_i^T V_j||_F^2 / min(i, j) for the first i and the first j columns.
    """
    sums = ((first.T @ second) ** 2).cumsum(axis=0).cumsum(axis=1)
    i, j = np.indices(sums.shape) + 1
    return sums / np.minimum(i, j)


def similarity(
    first: Changes, second: Changes, side: str = "right", most: int = 64
) -> pd.DataFrame:
    """phi(i, j), i and j up to `most`, for every matrix of that name in both.

    `chance` is the expectation for random subspaces, max(i, j) / d.  Raises ValueError if the
    two have no matrix in common.
    """
    names = [name for name in first if name in second]
    if not names:
        raise ValueError(
            f"The two have no matrix in common: {next(iter(first), 'nothing')} is in the first, "
            f"{next(iter(second), 'nothing')} in the second."
        )
    tables = []
    for name in names:
        U, V = (vectors(changes[name], side)[:, :most] for changes in (first, second))
        phi = overlap(U, V)
        i, j = (np.indices(phi.shape) + 1).reshape(2, -1)
        columns = {"i": i, "j": j, "similarity": phi.ravel(), "chance": np.maximum(i, j) / len(U)}
        tables.append(pd.DataFrame({**place(name), **columns}, index=range(phi.size)))
    if not sum(map(len, tables)):
        raise ValueError("There are no subspaces to compare: one of the two changed nothing.")
    return pd.concat(tables, ignore_index=True)


def pretrained(changes: Changes) -> dict[str, Change]:
    """The pretrained weights in the place of the changes, to be compared with these."""
    return {name: Change(change.W0, change.base) for name, change in changes.items()}


def amplification(changes: Changes, rank: int | None = None) -> pd.DataFrame:
    """How much delta amplifies what W0 does along delta's own directions, Hu et al., Table 7.

    factor = ||delta||_F / ||U^T W0 V||_F with U, V the first `rank` singular vectors of delta, by
    default all that it has. For comparison what W0 has along its own first directions, and the
    expectation along random ones. A delta of full rank needs a `rank`: along all directions there
    are, it would be nothing but the relative size, so there is no factor (NaN) without.
    """
    rows = []
    for name, change in changes.items():
        W0 = change.base
        U, S, Vh = svd(change)
        r = min(rank or len(S), numerical_rank(S, change.shape))
        along = float(np.linalg.norm(U[:, :r].T @ W0 @ Vh[:r].T))
        size = float(np.linalg.norm(S))
        own = float(np.linalg.norm(np.linalg.svd(W0, compute_uv=False)[:r]))
        chance = r * float(np.linalg.norm(W0)) / np.sqrt(W0.size)
        row = {"rank": r, "update": size, "along": along, "own": own, "chance": chance}
        known = along > 0 and not (rank is None and r == min(change.shape))
        rows.append({**place(name), **row, "factor": size / along if known else np.nan})
    return pd.DataFrame(rows)


def intruders(changes: Changes, epsilon: float, top: int = 10, side: str = "left") -> pd.DataFrame:
    """The first `top` singular vectors of W, each with its largest |cosine| to any one of W0.

    An intruder is one whose largest cosine is below `epsilon`. The authors look at left vectors,
    and at ten.
    """
    if side not in ("left", "right"):
        raise ValueError(f"side must be left or right, got '{side}'.")
    rows = []
    for name, change in changes.items():
        weights = (change.base, change.base + change.delta)
        bases = [np.linalg.svd(W, full_matrices=False) for W in weights]
        before, after = (b.U if side == "left" else b.Vh.T for b in bases)
        cosines = np.abs(after[:, :top].T @ before).max(axis=1)
        for i, (value, cosine) in enumerate(zip(bases[1].S, cosines.tolist(), strict=False), 1):
            row = {"index": i, "value": float(value), "cosine": cosine}
            rows.append({**place(name), **row, "intruder": cosine < epsilon})
    return pd.DataFrame(rows)


def magnitude_direction(changes: Changes) -> pd.DataFrame:
    """DoRA's two coordinates of every change, Liu et al., Eq. (3) and (4), means over the rows.

    magnitude: | ||w|| - ||w0|| |.  direction: 1 - cos(w, w0).  The paper's columns are the rows
    here, one per output neuron.
    """
    rows = []
    for name, change in changes.items():
        W0 = change.base
        W = W0 + change.delta
        m0, m = np.linalg.norm(W0, axis=1), np.linalg.norm(W, axis=1)
        if not (m0.all() and m.all()):
            raise ValueError(f"A row of {name} has length zero, and so no direction.")
        # Half a squared distance of unit vectors is 1 - cos without its cancellation.
        apart = ((W / m[:, None] - W0 / m0[:, None]) ** 2).sum(axis=1) / 2
        found = {"magnitude": np.abs(m - m0).mean(), "direction": apart.mean()}
        rows.append({**place(name), **{key: float(value) for key, value in found.items()}})
    return pd.DataFrame(rows)


def correlations(
    table: pd.DataFrame,
    generator: np.random.Generator,
    by: Sequence[str] = ("method", "matrix"),
    draws: int = 2000,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """Pearson's correlation of direction and magnitude per group, with a percentile interval.

    The points of a layer, its checkpoints and seeds, are no independent ones: the bootstrap draws
    whole layers. Matrices of no layer do not count. Raises ValueError for a single layer.
    """
    rows = []
    for key, group in table.groupby(list(by), sort=False):
        points = [part[["direction", "magnitude"]].to_numpy() for _, part in group.groupby("layer")]
        if len(points) < LAYERS:
            raise ValueError(
                f"{key} has {len(points)} layers, and an interval needs at least {LAYERS}."
            )
        picks = generator.integers(len(points), size=(draws, len(points)))
        drawn = np.array([pearson([points[i] for i in layers]) for layers in picks])
        known = drawn[~np.isnan(drawn)]  # a draw of one layer alone may have a single point
        tail = (1 - confidence) / 2
        low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
        found: dict[str, Any] = dict(zip(by, cast(tuple, key), strict=True))
        found |= {"correlation": pearson(points), "low": float(low), "high": float(high)}
        rows.append(found | {"layers": len(points), "points": sum(map(len, points))})
    return pd.DataFrame(rows)


def pearson(parts: Sequence[ndarray]) -> float:
    """The correlation of the two columns of all parts [n, 2]; NaN if one of them is constant."""
    points = np.concatenate(parts)
    if (np.ptp(points, axis=0) == 0).any():
        return np.nan
    return float(np.corrcoef(points.T)[0, 1])
