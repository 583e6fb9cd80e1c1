"""The cards of verdicts: a sentence, every method's mean on an axis, and what follows.

All cards in one unit have the same number of points to the width, so that lengths can be compared.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.report import words
from analysis.report.comparisons import Comparison
from analysis.report.material import Frame
from analysis.report.overall import Overall
from analysis.scales import is_raw, scale
from analysis.statistics import Verdicts
from experiments.metrics.baseline import MAJORITY

LETTERS = 12  # of one method: more tell nobody anything
SENTENCES = 12  # of one verdict
READ = 400  # characters of one sentence
MARGIN = 0.04  # of the width, left free at both ends
STRETCH = 3.0  # times the width of the intervals that single runs may widen an axis to
Context = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Values:
    """The numbers on one card, as they are printed (in points, or in a metric's own unit)."""

    methods: Frame
    by_seed: Mapping[str, Sequence[float]]
    floor: float
    floor_name: str
    metric: str

    @property
    def unit(self) -> str:
        """The metric if it has a unit of its own, else points."""
        return self.metric if is_raw(self.metric) else ""

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the most that the axis has to hold, single runs included within reason."""
        factor, table = scale(self.metric), self.methods
        columns = ("mean", "low", "high")
        bars = [float(v) for c in columns for v in table[c] if math.isfinite(v)]
        low, high = factor * min(bars), factor * max(bars)
        seeds = [factor * score for own in self.by_seed.values() for score in own] or [low]
        reach = (STRETCH - 1) * max(high - low, 1e-9)
        return max(min(low, *seeds), low - reach), min(max(high, *seeds), high + reach)

    @property
    def width(self) -> float:
        """The length of that."""
        low, high = self.ends
        return high - low


def cards(found: list[Comparison], overall: list[Overall]) -> list[Context]:
    """Every card, those over several tasks first."""
    groups = sorted(found, key=lambda one: one.verdicts is None)
    shown = [*map(card_of_all, overall), *map(card, groups)]
    values = [*map(values_of_all, overall), *map(values_of, groups)]
    widths: dict[str, float] = {}
    for one in values:
        widths[one.unit] = max(widths.get(one.unit, 0.0), one.width)
    return [
        own | chart(one, widths[one.unit] or 1.0) for own, one in zip(shown, values, strict=True)
    ]


def values_of(one: Comparison) -> Values:
    """The numbers of one task."""
    return Values(
        methods=one.methods, by_seed=one.by_seed, floor=one.baseline,
        floor_name=one.baseline_name, metric=one.metric,
    )  # fmt: skip


def values_of_all(whole: Overall) -> Values:
    """The numbers over several tasks."""
    return Values(
        methods=whole.methods, by_seed=whole.by_seed, floor=whole.floor,
        floor_name=MAJORITY, metric="",
    )  # fmt: skip


def card(one: Comparison) -> Context:
    """The verdict on one task."""
    found = one.verdicts
    first, *more = words.advice(found, one.methods, one.not_above_floor, one.metric)
    return {
        "title": one.group,
        "ground": words.ground(one),
        "headline": shortened(first),
        "sentences": more if found is None else [*more, *sentences(found, one.metric)],
        "left_out": [*map(shortened, words.warn_not_above_floor(one)), *one.left_out],
        "family": "" if found is None else found.family,
        "axis": f"{one.metric}, {'its own unit' if is_raw(one.metric) else 'points'}",
        "whole": False,
    }


def card_of_all(whole: Overall) -> Context:
    """The verdict over several tasks."""
    found = whole.verdicts
    first, *more = words.advice(found, whole.methods, whole.not_above_floor, "")
    return {
        "title": title_of_all(whole),
        "ground": words.ground_of_all(whole),
        "headline": shortened(first),
        "sentences": [*more, *sentences(found, ""), *map(shortened, words.tasks_left_out(whole))],
        "left_out": whole.left_out,
        "family": found.family,
        "axis": f"weighted mean of {words.joined(whole.metrics)}, points",
        "whole": True,
    }


def chart(values: Values, width: float) -> Context:
    """Bars, ticks and the floor of one card, in percent of the width of an axis this long."""
    low, high = values.ends
    factor = scale(values.metric)
    floor = factor * values.floor
    if max(high, floor) - min(low, floor) <= width:
        low, high = min(low, floor), max(high, floor)
    start = (low + high - width) / 2
    span = width / (1 - 2 * MARGIN)
    start -= MARGIN * span

    def place(value: float) -> float:
        return round(min(max(100 * (value - start) / span, 0.0), 100.0), 2)

    return {
        "bars": list(bars(values, place)),
        "ticks": [
            (place(tick), f"{tick:g}".replace("-", words.MINUS)) for tick in ticks(start, span)
        ],
        "floor": floor_mark(values, place(floor)),
    }


def floor_mark(values: Values, at: float) -> Context:
    """The floor's place, and whether it lies beyond the axis."""
    text = f"{values.floor_name}, {words.score(values.floor, values.metric)}"
    return {"at": at, "beyond": at <= 0 or at >= 100, "text": text}


def bars(values: Values, place: Any) -> Iterable[Context]:
    """Every method: its mean, its interval and its single runs."""
    factor = scale(values.metric)
    table = values.methods.sort_values("mean", ascending=False, kind="stable")
    for row in table.to_dict("records"):
        ends = [row["low"], row["high"]]
        known = all(map(math.isfinite, ends))
        left, right = (place(factor * end) for end in (ends if known else [row["mean"]] * 2))
        yield {
            "method": row["method"],
            "letters": words.span(row.get("letters", "")),
            "text": words.score(row["mean"], values.metric),
            "between": words.between(row["low"], row["high"], values.metric),
            "left": left,
            "right": right,
            "dot": place(factor * row["mean"]),
            "seeds": [place(factor * score) for score in values.by_seed.get(row["method"], [])],
        }


def ticks(start: float, span: float) -> list[float]:
    """Three to six round numbers along an axis."""
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1, 2, 5, 10) if n * power >= rough)
    first = math.ceil(start / step)
    count = int((start + span) / step - first) + 1
    return [float(f"{(first + n) * step:.10g}") for n in range(max(count, 0))]


def legible(one: Any) -> Any:
    """A comparison without its letters if no one could read them: of many methods that overlap."""
    if not crowded(one.methods):
        return one
    return replace(one, methods=one.methods.assign(letters=""))


def crowded(methods: Frame) -> bool:
    """Return whether some method has more letters than anybody reads."""
    return "letters" in methods and max(map(len, methods["letters"]), default=0) > LETTERS


def sentences(found: Verdicts, metric: str) -> list[str]:
    """Put a verdict into sentences, few and short enough to be read."""
    if crowded(found.methods):
        return [
            "The groups overlap in too many ways for letters; the table of pairs says who differs."
        ]
    said = words.sentences(found, metric)
    shown = list(map(shortened, said[:SENTENCES]))
    if more := len(said) - len(shown):
        shown.append(f"{more:,} more sentences are left out; the table of pairs says who differs.")
    return shown


def shortened(sentence: str) -> str:
    """A sentence whose long list of names is cut, with how many of them are left."""
    if len(sentence) <= READ:
        return sentence
    kept = sentence[:READ].rpartition(", ")[0] or sentence[:READ]
    return f"{kept} and {sentence[len(kept) :].count(', ') + 1} more."


def title_of_all(whole: Overall) -> str:
    """Return the title of a comparison over several tasks."""
    return f"{len(whole.tasks)} tasks · {whole.model} · {whole.protocol}"
