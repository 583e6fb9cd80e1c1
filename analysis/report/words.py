"""Verdicts in words, and numbers as they are read."""

import math
from collections.abc import Iterable, Sequence

from analysis.family import EXACT, count
from analysis.report.comparisons import Comparison, undecided
from analysis.report.material import Frame
from analysis.report.overall import Overall
from analysis.report.tables import NONE
from analysis.statistics import Verdicts

RAW = ("NIST", "CIDEr")  # metrics that are no shares of one
LISTED = 6  # claims that are read out; of more the table tells
NO_BREAK, MINUS = "\u00a0", "\u2212"


def scale(metric: str) -> float:
    """By what a score is multiplied to be read."""
    return 1.0 if metric in RAW else 100.0


def score(value: float | None, metric: str) -> str:
    """A score as it is read, in percent where it is a share."""
    if value is None or math.isnan(value):
        return NONE
    return f"{value * scale(metric):.{2 if metric in RAW else 1}f}".replace("-", MINUS)


def points(value: float, metric: str) -> str:
    """A difference of scores."""
    if metric in RAW:
        return f"{value:.2f}"
    return f"{100 * value:.1f}{NO_BREAK}points"


def share(value: float) -> str:
    """A share of runs."""
    return f"{100 * value:.0f}{NO_BREAK}%"


def between(low: float, high: float, metric: str) -> str:
    """An interval of scores."""
    if math.isnan(low):
        return NONE
    # Where nothing varied it is not known where else the score might lie.
    return NONE if low == high else f"{score(low, metric)} to {score(high, metric)}"


def joined(names: Iterable[str], last: str = "and") -> str:
    """A, B and C."""
    *first, final = names
    return f"{', '.join(first)} {last} {final}" if first else final


def told(one: Comparison) -> list[str]:
    """All that is said of one comparison."""
    found = one.verdicts
    said = [alone(one)] if found is None else [headline(found), *sentences(found, one.metric)]
    return [*said, *unlearned(one), *one.left_out]


def headline(found: Verdicts) -> str:
    """The verdict in one sentence."""
    pairs = found.pairs
    if undecided(pairs).all():
        return "Nothing can be decided."
    apart = decided(pairs)
    if not apart.any():
        known = (
            "The two methods" if len(found.methods) == 2 else f"The {len(found.methods)} methods"
        )
        if found.rule.against is not None and len(found.methods) > 2:
            return f"None of the others can be told apart from {found.rule.against}."
        return f"{known} cannot be told apart."
    if found.rule.against is not None:
        return against(found)
    top = best(found)
    if len(top) == 1:
        rest = len(found.methods) - 1
        if apart[(pairs["a"] == top[0]) | (pairs["b"] == top[0])].all():
            return f"{top[0]} is better than {'the other' if rest == 1 else 'all others'}."
    claims = count(int(apart.sum()), "pair")
    verb = "differs" if apart.sum() == 1 else "differ"
    return f"{claims} of {len(pairs)} {verb}; none is shown to be better than {joined(top, 'or')}."


def against(found: Verdicts) -> str:
    """How many methods differ from the one that they are compared with; no others are."""
    rows, whom = records(found), found.rule.against
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
    """Of which pairs one is better."""
    return pairs["verdict"].str.contains(" is better than ", regex=False) & ~undecided(pairs)


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
    return row["a"] if row["difference"] > 0 else row["b"]


def losing(row: dict) -> str:
    """The other one."""
    return row["b"] if row["difference"] > 0 else row["a"]


def sentences(found: Verdicts, metric: str) -> list[str]:
    """What was found: who is better than whom, who cannot be told apart, what was visible."""
    if undecided(found.pairs).all():
        return [why_undecided(found)]
    if not decided(found.pairs).any():
        return visible(found, metric)
    return [*better(found, metric), *alike(found), *visible(found, metric)]


def why_undecided(found: Verdicts) -> str:
    """Why nothing could have been decided."""
    pairs = found.pairs["verdict"].iloc[0].rpartition(": ")[2]
    if found.rule.test == "crossed":
        return "With one seed nothing is known of how seeds differ, so no verdict is possible."
    return (
        f"The exact test has {pairs} of runs for {count(len(found.pairs), 'comparison')}: even if "
        f"every pair pointed the same way, p would stay above {found.rule.alpha}."
    )


def better(found: Verdicts, metric: str) -> list[str]:
    """Who is better than whom, winners that beat the same ones together."""
    rows = records(found)
    if len(rows) > LISTED:
        where = "the letters say" if found.rule.against is None else "the table of pairs says"
        return [f"{len(rows)} pairs differ; {where} which."]
    beaten: dict[str, list[dict]] = {}
    for row in rows:
        beaten.setdefault(winning(row), []).append(row)
    alike: dict[tuple[str, ...], list[str]] = {}
    for winner, lost in beaten.items():
        alike.setdefault(tuple(losing(row) for row in lost), []).append(winner)
    return [claim(winners, losers, rows, metric) for losers, winners in alike.items()]


def claim(winners: Sequence[str], losers: Sequence[str], rows: list[dict], metric: str) -> str:
    """That some are better than others, and by how much."""
    sizes = [
        abs(row["difference"]) for row in rows if winning(row) in winners and losing(row) in losers
    ]
    by = points(min(sizes), metric)
    if len(sizes) > 1 and points(max(sizes), metric) != by:
        by = f"{by.split(NO_BREAK)[0]} to {points(max(sizes), metric)}"
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
    return [f"{joined(group)} cannot be told apart." for group in groups if len(group) > 1]


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


def visible(found: Verdicts, metric: str) -> list[str]:
    """From which difference on two methods would have been told apart, where that is known."""
    return [] if found.rule.test in EXACT else [seen(found, metric)]


def seen(found: Verdicts, metric: str) -> str:
    """The difference that would have been seen."""
    sizes = [size for size in found.pairs["visible"].tolist() if not math.isnan(size)]
    if not sizes:
        return "Nothing varied, so it is not known which difference could have been seen."
    if math.isinf(max(sizes)):
        return "Of some pairs no difference, however large, could have been seen."
    chance = f"{100 * found.rule.power:.0f}{NO_BREAK}%"
    whose = "" if len(sizes) == len(found.pairs) else " whose difference varied"
    whom = "any two" if found.rule.against is None else f"{found.rule.against} and any other"
    return (
        f"A true difference of {points(max(sizes), metric)} between {whom}{whose} would have been "
        f"seen with a chance of {chance}."
    )


def unlearned(one: Comparison) -> list[str]:
    """Which methods may as well have learned nothing."""
    if not one.unlearned:
        return []
    return [
        f"{joined(one.unlearned)} {'is' if len(one.unlearned) == 1 else 'are'} not shown to be "
        f"better than one answer to all examples, which scores {score(one.floor, one.metric)}."
    ]


def ground(one: Comparison) -> str:
    """What a verdict rests on."""
    return f"{count(len(one.seeds), 'seed')}, {one.examples:,} examples, {one.metric}"


def ground_of_all(whole: Overall) -> str:
    """What a verdict over tasks rests on."""
    several = f", which are {joined(whole.metrics)}" if len(whole.metrics) > 1 else ""
    seeds = count(len(whole.seeds), "seed")
    return f"{len(whole.tasks)} tasks, {seeds}, mean of their scores{several}"


def alone(one: Comparison) -> str:
    """What is said where there is nothing to compare."""
    if len(one.methods) > 1:
        return "Nothing is compared here."
    return f"{one.methods['method'].iloc[0]} stands alone; there is nothing to compare it with."


def quantity(value: float | None) -> str:
    """A number of any size in few digits: 17.4k, 1.09M."""
    if value is None or math.isnan(value):
        return NONE
    for size, sign in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:  # 999,700 is 1M in three digits
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as they are read."""
    if seconds < 60:
        return f"{seconds:.1f}{NO_BREAK}s"
    if seconds < 3600:
        return f"{seconds / 60:.1f}{NO_BREAK}min"
    return f"{seconds / 3600:.1f}{NO_BREAK}h"
