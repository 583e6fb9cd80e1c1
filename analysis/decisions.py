"""Decide which methods differ: every formula behind a verdict, as functions of arrays.

**Model.** Methods share seeds and examples, so the two are crossed, not nested. The difference of a
pair of methods under seed s on example i is

    d_si = delta + a_s + b_i + e_si,   Var(mean) = Va / S + Vb / n + Ve / (S n)

for S seeds and n examples. The claim is about other seeds and other examples of the same task. From
the table of differences come three estimates of variances of the mean (`estimate_variances`):

- `between` = Va / S + Ve / (S n): from the spread of seeds' means, with S - 1 degrees of freedom;
- `beyond` = Vb / n: from the spread of the examples' means, without what `rest` explains;
- `rest` = Ve / (S n): from what neither explains. `between` cannot be smaller than that.

For a metric that is no mean over examples, pseudo-values of the jackknife stand for the examples
(`experiments.metrics.resampling`), so nothing is resampled and no verdict hangs on a random
generator.

**One pair.** With few seeds `between` is small by luck in one study and large in the next. A t
test with Satterthwaite's degrees of freedom then errs twice: it takes too small a variance and
counts the many examples as its degrees of freedom. So `tail` integrates over the unknown,

    P(difference) = E_W [ T( -difference / sqrt(max(between / W, rest) + beyond) ) ],

with W distributed as chi2(S - 1) / (S - 1), and T Student's distribution whose degrees of freedom
are those of `beyond`, n - 1, as far as it makes up the variance. This is the t test over seeds if
seeds are all the noise and that over examples if examples are. Test and interval are one function
and its inverse, so they agree. With two seeds there is one degree of freedom, and no useful answer:
`MIN_SEEDS` is three.

**All pairs.** Equalities are transitive: of three methods, two pairs cannot be equal and the third
different. `adjust_all_pairs` uses that (Bergmann and Hommel, 1988; Garcia and Herrera, 2008, J.
Mach. Learn. Res. 9, 2677) up to `EXHAUSTIVE` methods, and Shaffer's static procedure (1986, JASA
81, 826) beyond. Both keep the chance of any false claim below alpha from the same p-values as Holm.

**Intervals** are simultaneous (Bonferroni). A pair that the sharper procedure tells apart although
its interval holds 0 has 0 as that end; a pair that is not told apart always has 0 inside.

**Equivalence.** Two methods are the same within a margin if both one-sided tests reject that the
difference reaches the margin (Schuirmann, 1987), adjusted by Holm.

**The best.** `with_the_best` bounds what choosing each method loses to the best one (Hsu, 1984,
Ann. Stat. 12, 1136): true for all methods at once with confidence 1 - alpha.

**Several tasks.** The variances of a weighted mean over tasks are the weighted ones of each task; W
is integrated over for every task. Arrays end in an axis of tasks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
from scipy import special, stats

MIN_SEEDS = 3
EXHAUSTIVE = 9  # methods up to which all partitions are looked at: 21,147
NODES = 129  # of the integral over one task's W
DRAWS = 12  # of that over several tasks: 2^12 points of Sobol's sequence
COARSE = 8  # the same for a first look
ENDLESS = 1e9  # degrees of freedom that are as good as infinite
BLOCK = 32  # pairs that are integrated at once
BEST_DRAWS = 20_000
STEP = 1e-5  # of a logarithm, below which a root is found


@dataclass(frozen=True, kw_only=True)
class Variances:
    """Variances of mean differences, each [pairs, tasks]; see the module's text."""

    between: np.ndarray
    beyond: np.ndarray
    rest: np.ndarray
    seeds: np.ndarray
    examples: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """The estimated variance [pairs] of each difference."""
        return (np.maximum(self.between, self.rest) + self.beyond).sum(axis=-1)

    def take(self, pairs: np.ndarray) -> "Variances":
        """Those of some pairs."""
        return Variances(**{name: value[pairs] for name, value in vars(self).items()})


def estimate_variances(differences: np.ndarray, scores: np.ndarray) -> Variances:
    """Estimate the variances of one pair on one task, each [1, 1].

    `differences` [n, S] are of (pseudo-)values of the examples and `scores` [S] of the scores. With
    one seed nothing is known of how seeds differ: `between` is infinite.
    """
    n, S = differences.shape
    by_example = differences.mean(axis=1)
    among = by_example.var(ddof=1) / n
    if S == 1:
        found = (np.inf, among, 0.0)
    else:
        left = differences - by_example[:, None] - (differences.mean(axis=0) - by_example.mean())
        rest = np.square(left).sum() / ((n - 1) * (S - 1)) / (S * n)
        found = (scores.var(ddof=1) / S, max(among - rest, 0.0), rest)
    between, beyond, rest = (np.full((1, 1), value) for value in found)
    return Variances(
        between=between, beyond=beyond, rest=rest,
        seeds=np.full((1, 1), S), examples=np.full((1, 1), n),
    )  # fmt: skip


def stack_pairs(parts: Sequence[Variances]) -> Variances:
    """Join the variances of pairs."""
    return join(parts, axis=0)


def mean_over_tasks(parts: Sequence[Variances], weights: np.ndarray) -> Variances:
    """The variances of the weighted mean over tasks of differences of the same pairs."""
    scaled = [
        Variances(
            between=weight**2 * part.between,
            beyond=weight**2 * part.beyond,
            rest=weight**2 * part.rest,
            seeds=part.seeds,
            examples=part.examples,
        )
        for part, weight in zip(parts, weights, strict=True)
    ]
    return join(scaled, axis=1)


def join(parts: Sequence[Variances], axis: int) -> Variances:
    """Join arrays along an axis."""
    names = vars(parts[0])
    return Variances(
        **{name: np.concatenate([vars(part)[name] for part in parts], axis) for name in names}
    )


# One pair


def two_sided(difference: np.ndarray, variances: Variances) -> np.ndarray:
    """p-values [pairs] of differences [pairs] from 0; 1 for no difference and no noise."""
    return np.minimum(2 * tail(np.abs(difference), variances), 1.0)


def tail(distance: np.ndarray, variances: Variances) -> np.ndarray:
    """The chance [pairs] that noise alone moves a mean difference by at least `distance` [pairs].

    A negative distance has a chance above one half. No noise moves nothing: 0, and 1 for no
    distance.
    """
    found = np.empty(len(distance))
    for degrees, rows in same_degrees(variances.seeds - 1):
        found[rows] = integrate(distance[rows], variances.take(rows), degrees)
    return found


def same_degrees(degrees: np.ndarray) -> list[tuple[tuple[float, ...], np.ndarray]]:
    """The distinct rows of degrees of freedom [pairs, tasks], and which pairs have each."""
    distinct, which = np.unique(degrees, axis=0, return_inverse=True)
    return [
        (tuple(row.tolist()), np.flatnonzero(which.ravel() == place))
        for place, row in enumerate(distinct)
    ]


def integrate(
    distance: np.ndarray, variances: Variances, degrees: tuple[float, ...], draws: int = DRAWS
) -> np.ndarray:
    """`tail` for pairs with the same degrees of freedom, so many at once as caches hold."""
    blocks = np.split(np.arange(len(distance)), range(BLOCK, len(distance), BLOCK))
    parts = [
        integrate_block(distance[rows], variances.take(rows), degrees, draws) for rows in blocks
    ]
    return np.concatenate(parts)


def integrate_block(
    distance: np.ndarray, variances: Variances, degrees: tuple[float, ...], draws: int
) -> np.ndarray:
    """`integrate` for a few pairs."""
    if min(degrees) < 1:
        return np.where(distance > 0, 0.5, 1.0)  # any difference may be noise
    W, weights = nodes(degrees, draws)
    unknown = np.maximum(variances.between[:, None] / W, variances.rest[:, None]).sum(axis=-1)
    known = variances.beyond.sum(axis=-1)[:, None]
    variance = unknown + known
    doubt = (variances.beyond**2 / np.maximum(variances.examples - 1, 1)).sum(axis=-1)[:, None]
    free = np.divide(
        variance**2, doubt, out=np.full_like(variance, ENDLESS), where=doubt > variance**2 / ENDLESS
    )
    error = np.sqrt(variance)
    far = np.where(distance == 0, 0.0, np.copysign(np.inf, distance))[:, None]
    shift = np.divide(distance[:, None], error, out=np.tile(far, len(W)), where=error > 0)
    chance = special.stdtr(free, -shift) @ weights
    still = (variance <= 0).all(axis=1)
    return np.where(still & (distance == 0), 1.0, chance)


@cache
def nodes(degrees: tuple[float, ...], draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of W [nodes, tasks] and their weights [nodes], which sum to 1.

    For one task the trapezoidal rule over log W, which converges as fast as the density is smooth;
    for several 2^draws of Sobol's points.
    """
    if len(degrees) == 1:
        (k,) = degrees
        low, high = np.log([stats.chi2.ppf(1e-13, k), stats.chi2.isf(1e-15, k)])
        chi2 = np.exp(np.linspace(low, high, NODES))
        weights = stats.chi2.pdf(chi2, k) * chi2
        return (chi2 / k)[:, None], weights / weights.sum()
    points = stats.qmc.Sobol(len(degrees), scramble=True, rng=0).random_base2(draws)
    k = np.array(degrees)
    return stats.chi2.ppf(points, k) / k, np.full(len(points), 1 / len(points))


def half_width(level: np.ndarray | float, variances: Variances) -> np.ndarray:
    """The distance [pairs] whose `tail` is `level` [pairs]: half of a two-sided interval.

    It is infinite if there are too few seeds, and 0 if nothing varied.
    """
    pairs = len(variances.between)
    found, level = np.zeros(pairs), np.broadcast_to(level, pairs)
    decidable = np.all(variances.seeds >= 2, axis=1).reshape(pairs)
    found[~decidable] = np.inf
    for degrees, rows in same_degrees(variances.seeds - 1):
        rows = rows[decidable[rows] & (variances.total[rows] > 0)]
        if len(rows):
            found[rows] = solve(level[rows], variances.take(rows), degrees)
    return found


def solve(level: np.ndarray, variances: Variances, degrees: tuple[float, ...]) -> np.ndarray:
    """`half_width` for pairs with noise and the same degrees of freedom."""
    scale = np.sqrt(variances.total)

    def excess(log: np.ndarray, rows: np.ndarray, draws: int = DRAWS) -> np.ndarray:
        chance = integrate(np.exp(log) * scale[rows], variances.take(rows), degrees, draws)
        return np.log(np.maximum(chance, 1e-300)) - np.log(level[rows])

    # Near what it would be if the noise were known; tails that are estimated are longer.
    near = np.log(np.maximum(special.ndtri(1 - np.minimum(level, 0.4)), 0.1))
    low, high = near - 0.1, near + 0.5
    if len(degrees) > 1:  # a few points find the place where all of them are worth their time
        near = find_roots(partial(excess, draws=COARSE), low, high)
        low, high = near - 0.02, near + 0.02
    return np.exp(find_roots(excess, low, high)) * scale


def find_roots(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray], low: np.ndarray, high: np.ndarray
) -> np.ndarray:
    """The roots [k] of smooth falling functions, each sought from `low` to `high` and beyond.

    `function` takes points and which of the k functions each is for. Secants between the ends and
    the last two points, halving if one leaves the bracket.
    """
    every = np.arange(len(low))
    low, high = low.copy(), high.copy()
    above, below = function(low, every), function(high, every)
    while (short := below > 0).any():
        high[short] += 6.0
        below[short] = function(high[short], every[short])
    while (long := above < 0).any():
        low[long] -= 6.0
        above[long] = function(low[long], every[long])
    last, value = high.copy(), below.copy()
    before, value_before = low.copy(), above.copy()
    left = every
    while len(left):
        slope = value[left] - value_before[left]
        step = np.divide(value[left] * (last[left] - before[left]), slope,
                         out=np.full(len(left), np.inf), where=slope != 0)  # fmt: skip
        new = last[left] - step
        outside = ~((new >= low[left]) & (new <= high[left]))
        new[outside] = (low[left] + high[left])[outside] / 2
        found = function(new, left)
        before[left], value_before[left] = last[left], value[left]
        last[left], value[left] = new, found
        low[left] = np.where(found >= 0, new, low[left])
        high[left] = np.where(found <= 0, new, high[left])
        # A secant's error is of the order of the last two steps' product.
        left = left[(np.abs(new - before[left]) > STEP) & (found != 0)]
    return last


# Families of pairs


def adjust_all_pairs(p: np.ndarray, methods: int) -> np.ndarray:
    """p-values [pairs] of all pairs of methods, in the order of `combinations`, adjusted."""
    if methods > EXHAUSTIVE:
        return shaffer(p, methods)
    inside = partitions(methods)
    values = inside.sum(axis=1) * np.where(inside, p, np.inf).min(axis=1)
    return np.minimum((values[:, None] * inside).max(axis=0), 1.0)


@cache
def partitions(methods: int) -> np.ndarray:
    """Every way in which methods can be equal [ways, pairs]: which pairs are; not that none is."""
    groups = [[0]]
    for _ in range(methods - 1):
        groups = [[*group, new] for group in groups for new in range(max(group) + 2)]
    first, second = np.triu_indices(methods, 1)
    labels = np.array(groups, dtype=np.int8)
    return (labels[:, first] == labels[:, second])[:-1]  # the last way has all apart


def shaffer(p: np.ndarray, methods: int) -> np.ndarray:
    """Adjust p-values of all pairs by how many can be equal once some are known to differ."""
    possible = np.array(sorted(numbers_of_equal_pairs(methods)))
    left = np.arange(len(p), 0, -1)
    most = possible[np.searchsorted(possible, left, side="right") - 1]
    return step_down(p, most)


@cache
def numbers_of_equal_pairs(methods: int) -> frozenset[int]:
    """How many pairs of so many methods can be equal: of 3 methods 0, 1 or 3."""
    if methods < 2:
        return frozenset({0})
    return frozenset(
        size * (size - 1) // 2 + more
        for size in range(1, methods + 1)
        for more in numbers_of_equal_pairs(methods - size)
    )


def holm(p: np.ndarray | Sequence[float]) -> np.ndarray:
    """Adjust p-values of any family; Holm, 1979, Scand. J. Stat. 6, 65."""
    p = np.asarray(p, dtype=float)
    return step_down(p, np.arange(len(p), 0, -1))


def step_down(p: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Multiply the p-values from the smallest on by these factors, and keep their order."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p[order]), 1.0)
    return adjusted


# Equivalence and the best


def same_within(margin: float, difference: np.ndarray, variances: Variances) -> np.ndarray:
    """p-values [pairs] that differences reach a margin, against that they stay within it."""
    return tail(margin - np.abs(difference), variances)


def with_the_best(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bounds [k] of each method's mean less the highest of the others', for all at once.

    `low` and `high` [k, k] bound row less column, each one-sided at alpha / (k - 1). A method whose
    upper bound is 0 is not the best; one whose lower bound is -y loses at most y.
    """
    apart = ~np.eye(len(low), dtype=bool)
    above = np.where(apart, high, np.inf).min(axis=1).clip(min=0)
    rivals = apart & (above > 0)[None, :]  # who may be the best beside the row's method
    below = np.where(rivals, low, np.inf).min(axis=1)
    return np.minimum(below, 0.0), above


def draw_means(
    scores: np.ndarray, values: np.ndarray, generator: np.random.Generator, draws: int = BEST_DRAWS
) -> np.ndarray:
    """Means [draws, k] that methods may truly have, given scores [k, S] and values [n, k, S].

    A pair's difference in them has the distribution that `tail` integrates, so seeds and examples
    are shared as they are. A missing run is NaN.
    """
    there = ~np.isnan(scores)
    S = there.sum(axis=1)
    means = np.nanmean(scores, axis=1)
    off = np.where(there, scores - means[:, None], 0.0) / np.sqrt(S * np.maximum(S - 1, 1))[:, None]
    W = generator.chisquare(S.min() - 1, size=(draws, 1)) / (S.min() - 1)
    by_seed = generator.standard_normal((draws, scores.shape[1])) @ off.T / np.sqrt(W)
    by_example = generator.standard_normal((draws, len(means))) @ root(beyond(values, S)).T
    return means + by_seed + by_example


def beyond(values: np.ndarray, S: np.ndarray) -> np.ndarray:
    """The covariance [k, k] of means that is due to examples, `beyond` of every pair at once."""
    n, there = len(values), ~np.isnan(values[0])
    filled = np.where(there, values, 0.0)
    by_example = filled.sum(axis=2) / S
    by_run = np.where(there, filled.mean(axis=0) - by_example.mean(axis=0)[:, None], 0.0)
    left = np.where(there, filled - by_example[:, :, None], 0.0) - by_run
    flat = left.transpose(0, 2, 1).reshape(-1, left.shape[1])
    together = np.minimum(S[:, None], S)
    rest = flat.T @ flat / ((n - 1) * np.maximum(together - 1, 1)) / together
    return (np.atleast_2d(np.cov(by_example.T)) - rest) / n


def root(covariance: np.ndarray) -> np.ndarray:
    """A square root of the nearest matrix without negative eigenvalues."""
    sizes, directions = np.linalg.eigh(covariance)
    return directions * np.sqrt(sizes.clip(min=0))
