"""Verdicts in words, and numbers as they are read."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from analysis.decisions import MIN_SEEDS
from analysis.family import EXACT, count
from analysis.report.comparisons import Comparison, undecided
from analysis.report.html_tables import NONE
from analysis.report.material import Frame
from analysis.report.overall import Overall
from analysis.scales import is_raw, scale
from analysis.statistics import Outcome, Verdicts, find_claims

LISTED = 6  # most claims that sentences list; if there are more, the table has them
LISTED_NAMES = 12  # most methods that one sentence names
NO_BREAK, MINUS = "\u00a0", "\u2212"


def score(value: float | None, metric: str) -> str:
    """A score as text, in percent if it is a share."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value * scale(metric):.{2 if is_raw(metric) else 1}f}".replace("-", MINUS)


def points(value: float, metric: str) -> str:
    """A difference of scores."""
    if is_raw(metric):
        return f"{value:.2f}"
    return f"{100 * value:.1f}{NO_BREAK}points"


def points_between(low: float, high: float, metric: str) -> str:
    """A range of differences, `2.0 to 3.1 points`; one number if both ends are the same."""
    first, last = points(low, metric), points(high, metric)
    return first if first == last else f"{first.split(NO_BREAK)[0]} to {last}"


def share(value: float) -> str:
    """A share of runs."""
    return f"{100 * value:.0f}{NO_BREAK}%"


def between(low: float, high: float, metric: str) -> str:
    """An interval of scores."""
    if math.isnan(low) or math.isinf(low):
        return NONE
    # If nothing varied, the uncertainty of the score is not known.
    return NONE if low == high else f"{score(low, metric)} to {score(high, metric)}"


def rate(value: float) -> str:
    """A learning rate: 6.3e-4, 0.02, 0."""
    text = f"{value:.2g}" if value >= 1e-2 or not value else f"{value:.1e}"
    return text.replace(".0e", "e").replace("e-0", "e-").replace("-", MINUS)


def rates(values: Sequence[float]) -> str:
    """Learning rates: the one, or the lowest and the highest."""
    if not values:
        return NONE
    first, last = rate(min(values)), rate(max(values))
    return first if first == last else f"{first} to {last}"


def joined(names: Iterable[str], last: str = "and") -> str:
    """A, B and C."""
    *first, final = names
    return f"{', '.join(first)} {last} {final}" if first else final


def describe_comparison(one: Comparison) -> list[str]:
    """All sentences on one comparison; the first ones say which method to use."""
    found = one.verdicts
    said = [] if found is None else sentences(found, one.metric)
    first = advice(found, one.methods, one.not_above_floor, one.metric)
    return [*first, *said, *warn_not_above_floor(one), *one.left_out]


def headline(
    found: Verdicts | None, methods: Frame, not_above_floor: Sequence[str], metric: str
) -> str:
    """The first sentence of `advice`."""
    return advice(found, methods, not_above_floor, metric)[0]


def advice(
    found: Verdicts | None, methods: Frame, not_above_floor: Sequence[str], metric: str
) -> list[str]:
    """The method to use: the cheapest of those that lose at most the margin to the best one.

    If none is sure to lose so little, name the most likely best one, and say how much a cheaper one
    may lose. Methods that are not shown to have learned anything are never named.
    """
    if found is None:
        return [say_nothing_compared(methods)]
    if undecided(found.pairs).all():
        return ["Nothing can be decided."]
    if len(not_above_floor) == len(methods):
        return ["No evidence that any method beats the majority baseline, so none is recommended."]
    if found.rule.against is not None:
        return [against(found)]
    learned = methods[~methods["method"].isin(not_above_floor)].set_index("method")
    near = learned[learned["loses"] <= (found.margin or 0.0)]
    if not near.empty:
        return [use(near, found, metric)]
    likely = learned["chance_best"].fillna(learned["mean"]).idxmax()
    return [most_likely(likely, learned, metric), *cheaper(likely, found, learned, metric)]


def use(near: Frame, found: Verdicts, metric: str) -> str:
    """Return which method to use, of those [method] that lose little or nothing to the best."""
    name = near.sort_values(["trained", "mean"], ascending=[True, False]).index[0]
    loses = near.loc[name, "loses"]
    most = f"loses at most {points(loses, metric)} to the best"
    if not loses:
        most = f"is at least as good as any other, at {found.rule.level} confidence"
    if len(near) == 1:
        return f"The safe choice is {name}: it {most}."
    return (
        f"The safe choice is {name}: of the {len(near)} methods that lose at most "
        f"{points(found.margin or 0.0, metric)} it trains the fewest parameters "
        f"({quantity(near.loc[name, 'trained'])}). It {most}."
    )


def most_likely(name: str, learned: Frame, metric: str) -> str:
    """Return which method is most likely the best, if none is sure to be near it."""
    chance, loses = learned.loc[name, "chance_best"], learned.loc[name, "loses"]
    if math.isnan(chance):
        return f"{name} has the highest mean."
    return (
        f"{name} is the most likely best method ({share(chance)}); it may lose up to "
        f"{points(loses, metric)}."
    )


def cheaper(likely: str, found: Verdicts, learned: Frame, metric: str) -> list[str]:
    """The cheapest method that is not shown to be worse, and how much it may lose."""
    fit = learned.loc[[name for name in best(found) if name in learned.index]]
    fit = fit[fit["trained"] < learned.loc[likely, "trained"]]
    if fit.empty:
        return []
    name = fit["trained"].idxmin()
    loses = fit.loc[name, "loses"]
    most = "" if math.isnan(loses) else f", but may lose up to {points(loses, metric)}"
    return [
        f"Of those not shown to be worse, {name} trains the fewest parameters "
        f"({quantity(fit.loc[name, 'trained'])}){most}."
    ]


def summary(found: Verdicts) -> str:
    """The verdict on all pairs in one sentence."""
    pairs = found.pairs
    apart = decided(pairs)
    if not apart.any():
        known = (
            "The two methods" if len(found.methods) == 2 else f"The {len(found.methods)} methods"
        )
        if found.rule.against is not None and len(found.methods) > 2:
            return f"None of the others can be told apart from {found.rule.against}."
        return f"{known} cannot be told apart."
    top = best(found)
    if len(top) == 1:
        rest = len(found.methods) - 1
        if apart[(pairs["a"] == top[0]) | (pairs["b"] == top[0])].all():
            return f"{top[0]} is better than {'the other' if rest == 1 else 'all others'}."
    claims = count(int(apart.sum()), "pair")
    verb = "differs" if apart.sum() == 1 else "differ"
    if len(top) > LISTED_NAMES:
        rest = f"{len(top)} of {len(found.methods)} methods are not shown to be worse than another"
        return f"{claims} of {len(pairs)} {verb}; {rest}."
    return f"{claims} of {len(pairs)} {verb}; none is shown to be better than {joined(top, 'or')}."


def against(found: Verdicts) -> str:
    """How many methods differ from the one method with which all are compared."""
    rows, whom = records(found), found.rule.against
    if not rows:
        return summary(found)
    more = sum(losing(row) == whom for row in rows)
    told = [
        f"{number} {'is' if number == 1 else 'are'} {word} than {whom}"
        for number, word in ((more, "better"), (len(rows) - more, "worse"))
        if number
    ]
    rest = len(found.pairs) - len(rows)
    alike = f"; {rest} cannot be told apart from it" if rest else ""
    return f"Of {count(len(found.pairs), 'method')} {joined(told)}{alike}."


def decided(pairs: Frame) -> Frame:
    """Mark the pairs of which one method is better."""
    return pairs["outcome"].isin([Outcome.BETTER, Outcome.WORSE])


def best(found: Verdicts) -> list[str]:
    """The methods that no other is better than."""
    worse = {losing(row) for row in records(found)}
    return [name for name in found.methods["method"] if name not in worse]


def records(found: Verdicts) -> list[dict]:
    """The pairs that differ."""
    pairs: Frame = found.pairs
    return pairs[decided(pairs)].to_dict("records")


def winning(row: dict) -> str:
    """The better one of a pair that differs."""
    return row["a"] if row["outcome"] == Outcome.BETTER else row["b"]


def losing(row: dict) -> str:
    """The worse one of a pair that differs."""
    return row["b"] if row["outcome"] == Outcome.BETTER else row["a"]


def sentences(found: Verdicts, metric: str) -> list[str]:
    """Sentences on which methods differ, which are the same, and what could have been detected."""
    if undecided(found.pairs).all():
        return [why_undecided(found)]
    said = [] if found.rule.against and decided(found.pairs).any() else [summary(found)]
    if decided(found.pairs).any():
        said += [*better(found, metric), *alike(found)]
    return [*said, *same(found, metric), *detectable(found, metric), *held(found, metric)]


def why_undecided(found: Verdicts) -> str:
    """The reason why nothing could have been decided."""
    seeds = int(found.pairs["seeds"].max())
    if found.rule.test == "crossed":
        have = "With no seed in common" if seeds == 0 else f"With {count(seeds, 'common seed')}"
        return (
            f"{have} too little is known of how seeds differ: a verdict needs {MIN_SEEDS} seeds, "
            "and five or more to detect differences that are not large."
        )
    return (
        f"The exact test has {count(seeds, 'pair')} of runs for "
        f"{count(len(found.pairs), 'comparison')}: even if every pair pointed the same way, p "
        f"would stay above {found.rule.alpha}."
    )


def same(found: Verdicts, metric: str) -> list[str]:
    """Return which pairs are the same within the margin."""
    if found.margin is None or found.rule.test in EXACT:
        return []
    pairs, most = found.pairs, points(found.margin, metric)
    alike = pairs[pairs["within"]]
    if len(alike) == len(pairs):
        whom = "The two methods are" if len(pairs) == 1 else "All pairs are"
        return [f"{whom} the same within {most}."]
    if alike.empty:
        return [f"No evidence that any pair is the same within {most}."]
    if len(alike) > LISTED:
        return [f"{len(alike)} of {len(pairs)} pairs are the same within {most}."]
    listed = "; ".join(f"{a} and {b}" for a, b in alike[["a", "b"]].to_numpy())
    return [f"The same within {most}: {listed}."]


def held(found: Verdicts, metric: str) -> list[str]:
    """Say what the second verdict changes, in which lost runs are scored as one answer to all."""
    if found.at_floor is None:
        return []
    said = [
        f"{row['a']} and {row['b']}: {row['note']}."
        for row in found.pairs.to_dict("records")
        if row["note"] and row["outcome"] != Outcome.UNDECIDABLE
    ]
    own = {(winning(row), losing(row)) for row in records(found)}
    more = [row for row in records(found.at_floor) if (winning(row), losing(row)) not in own]
    said += [
        f"With lost runs scored as the majority baseline, {winning(row)} is better than "
        f"{losing(row)}, by {points(abs(row['difference']), metric)}."
        for row in more
    ]
    return said


def better(found: Verdicts, metric: str) -> list[str]:
    """Sentences on who is better than whom; winners that beat the same methods share one."""
    rows = records(found)
    if len(rows) > LISTED:
        return [count_worse(found, rows)]
    beaten: dict[str, list[dict]] = {}
    for row in rows:
        beaten.setdefault(winning(row), []).append(row)
    alike: dict[tuple[str, ...], list[str]] = {}
    for winner, lost in beaten.items():
        alike.setdefault(tuple(losing(row) for row in lost), []).append(winner)
    return [claim(winners, losers, rows, metric) for losers, winners in alike.items()]


def count_worse(found: Verdicts, rows: Sequence[dict]) -> str:
    """Say which methods are worse than how many others, the one with most of them first."""
    if found.rule.against is not None:
        return f"{len(rows)} pairs differ; the table of pairs shows which."
    (first, number), *others = Counter(map(losing, rows)).most_common()
    told = [f"{first} is worse than {count(number, 'method')}"]
    told += [f"{name} than {number}" for name, number in others[: LISTED - 1]]
    if rest := others[LISTED - 1 :]:
        told.append(f"{count(len(rest), 'method')} than at most {rest[0][1]}")
    return f"{joined(told)}. The letters show which."


def claim(winners: Sequence[str], losers: Sequence[str], rows: list[dict], metric: str) -> str:
    """Say that some methods are better than others, and by how much."""
    sizes = [
        abs(row["difference"]) for row in rows if winning(row) in winners and losing(row) in losers
    ]
    by = points_between(min(sizes), max(sizes), metric)
    verb = "is" if len(winners) == 1 else "are"
    return f"{joined(winners)} {verb} better than {joined(losers)}, by {by}."


def alike(found: Verdicts) -> list[str]:
    """The groups of methods that share a letter."""
    if "letters" not in found.methods:
        return []
    table = found.methods
    letters = sorted({letter for text in table["letters"] for letter in split(text)}, key=order)
    groups = [
        [m for m, t in table[["method", "letters"]].to_numpy() if x in split(t)] for x in letters
    ]
    several = [group for group in groups if len(group) > 1]
    if len(several) > LISTED or any(len(group) > LISTED_NAMES for group in several):
        groups = "One group" if len(several) == 1 else f"{len(several)} groups"
        return [f"{groups} of methods cannot be told apart; the letters show which."]
    return [f"{joined(group)} cannot be told apart." for group in several]


def span(letters: str) -> str:
    """Letters as text; four or more in a row become the first and the last, `c-h`."""
    found: list[str] = []
    row: list[str] = []
    for letter in [*split(letters), None]:
        if letter is not None and row and place(letter) == place(row[-1]) + 1:
            row.append(letter)
            continue
        found += row if len(row) < 4 else [f"{row[0]}-{row[-1]}"]
        row = [] if letter is None else [letter]
    return " ".join(found) if any("-" in part for part in found) else "".join(found)


def place(letter: str) -> int:
    """The number of a letter: a is 0, z 25, a1 26."""
    return 26 * int(letter[1:] or 0) + ord(letter[0]) - ord("a")


def split(letters: str) -> list[str]:
    """`ab` or `a1b1` as single letters."""
    found: list[str] = []
    for character in letters:
        if character.isalpha():
            found.append(character)
        else:
            found[-1] += character
    return found


def order(letter: str) -> tuple[int, str]:
    """a, b, ..., z, a1, b1, ..."""
    return int(letter[1:] or 0), letter[0]


def detectable(found: Verdicts, metric: str) -> list[str]:
    """The true difference that would have been detected, as far as the noise is known."""
    if found.rule.test in EXACT:
        return []
    low, high = found.detectable
    power = f"{share(found.rule.power)} power to detect"
    whom = "any two" if found.rule.against is None else f"{found.rule.against} and any other"
    if math.isnan(low):
        return ["Nothing varied, so it is not known which difference could have been detected."]
    if math.isinf(low):
        return [f"No possible difference is found with {share(found.rule.power)} power."]
    if math.isinf(high):
        return [
            f"{power} a true difference between {whom}: from {points(low, metric)} on, or from a "
            "larger one on; so few seeds cannot tell."
        ]
    ends = points_between(low, high, metric)
    return [f"{power} a true difference between {whom}: from {ends} on."]


def warn_not_above_floor(one: Comparison) -> list[str]:
    """Name the methods that may have learned nothing."""
    if not one.not_above_floor:
        return []
    verb = "beats" if len(one.not_above_floor) == 1 else "beat"
    return [
        f"No evidence that {joined(one.not_above_floor)} {verb} the majority baseline "
        f"({score(one.floor, one.metric)})."
    ]


def ground(one: Comparison) -> str:
    """Name the seeds, examples and metric that a verdict rests on."""
    return f"{count(len(one.seeds), 'seed')}, {one.examples:,} examples, {one.metric}"


def ground_of_all(whole: Overall) -> str:
    """Name the tasks, metrics and weights that a verdict over tasks rests on."""
    weights = joined(f"{task} {share(weight)}" for task, weight in whole.weights.items())
    return (
        f"{len(whole.tasks)} tasks, {joined(whole.metrics)}; weighted mean of their scores, so "
        f"that the noise of no task outweighs the others': {weights}"
    )


def tasks_left_out(whole: Overall) -> list[str]:
    """Say which claims over all tasks change if one task is left out."""
    own = find_claims(whole.verdicts)
    said = []
    for task, found in whole.without.items():
        gone, new = sorted(own - found), sorted(found - own)
        parts = [
            *([enumerate_claims(gone, "no longer")] if gone else []),
            *([enumerate_claims(new, "also")] if new else []),
        ]
        said.append(f"Without {task}, {'; '.join(parts) if parts else 'the claims are the same'}.")
    return said


def enumerate_claims(claims: Sequence[tuple[str, str]], adverb: str) -> str:
    """`a is no longer better than b, and c than d`."""
    (winner, loser), *others = claims
    first = f"{winner} is {adverb} better than {loser}"
    return joined([first, *(f"{a} than {b}" for a, b in others)])


def say_nothing_compared(methods: Frame) -> str:
    """Say that there is nothing to compare."""
    if len(methods) > 1:
        return "There is no comparison here."
    return f"{methods['method'].iloc[0]} is the only method here, so there is no comparison."


def quantity(value: float | None) -> str:
    """A number of any size in few digits: 17.4k, 1.09M."""
    if value is None or math.isnan(value):
        return NONE
    for size, sign in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:  # 999,700 is 1M in three digits
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as text, in the unit that suits them."""
    if seconds < 60:
        return f"{seconds:.1f}{NO_BREAK}s"
    if seconds < 3600:
        return f"{seconds / 60:.1f}{NO_BREAK}min"
    return f"{seconds / 3600:.1f}{NO_BREAK}h"
