"""The page itself: everything it shows, put into one self-contained HTML file."""

import re
from collections.abc import Iterable
from dataclasses import replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes

from analysis import cost, figures, ledger
from analysis.family import Rule, count
from analysis.papers import published
from analysis.report import charts, costs, sections, words
from analysis.report.audit import audits
from analysis.report.choices import budget_curves
from analysis.report.comparisons import Comparison, comparisons, groups_without_results
from analysis.report.forgetting import forgetting
from analysis.report.material import STALE, Frame, Material
from analysis.report.overall import Overall, overall
from analysis.report.tuning import curves
from analysis.statistics import Verdicts

TEMPLATES = Path(__file__).parents[1] / "templates"
# What only a file of its own needs, and names addresses in.
PREAMBLE = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>|\sxmlns(:xlink)?=\"[^\"]*\"", re.S)
# Marks as paths about the origin: what a colour says, a shape says too.
SHAPES = (
    "M5.5 0A5.5 5.5 0 1 1 -5.5 0A5.5 5.5 0 1 1 5.5 0Z",
    "M-5 -5H5V5H-5Z",
    "M0 -6.5L6 5H-6Z",
    "M0 -6.8L6.8 0L0 6.8L-6.8 0Z",
    "M0 6.5L6 -5H-6Z",
    "M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
    "M0 -7L1.8 -2.2L6.7 -2.2L2.7 0.9L4.1 5.7L0 2.8L-4.1 5.7L-2.7 0.9L-6.7 -2.2L-1.8 -2.2Z",
)  # fmt: skip
LETTERS = 12  # of one method: more tell nobody anything
SENTENCES = 12  # of one verdict
READ = 400  # characters of one sentence
CROWD = 24  # methods; of more, only the figures that have a line of their own for each are drawn
NAMED = 10  # files that cannot be read; of more only their number is said
Context = dict[str, Any]


class Report:
    """The report on a folder of runs; each part is computed once."""

    def __init__(self, material: Material, rule: Rule | None = None) -> None:
        self.material, self.rule = material, rule or Rule()

    @cached_property
    def found(self) -> list[Comparison]:
        """Every comparison."""
        return [legible(one) for one in comparisons(self.material, self.rule)]

    @cached_property
    def overall(self) -> list[Overall]:
        """The comparisons over several tasks."""
        return [legible(one) for one in overall(self.found, self.rule)]

    @cached_property
    def costs(self) -> list[tuple[Comparison, Frame]]:
        """Return the costs of each comparison's methods, by machine and stack."""
        return [
            (one, cost.table(one.runs.assign(variant=one.runs["method"]))) for one in self.found
        ]

    @cached_property
    def stacks(self) -> list[str]:
        """The machines and stacks that the compared runs ran on."""
        if not self.costs:
            return []
        whole = pd.concat([table for _, table in self.costs])
        return [cost.describe(row) for row in cost.stacks(whole).to_dict("records")]

    @cached_property
    def one_by_one(self) -> list[tuple[Comparison, Frame]]:
        """The costs of each comparison on each machine and stack alone."""
        return [
            (one, judged(part, one))
            for one, table in self.costs
            for _, part in table.groupby(cost.STACK, sort=False, dropna=False)
        ]

    @cached_property
    def methods(self) -> list[str]:
        """Every method; its place is its colour."""
        names = {name for one in self.found for name in one.methods["method"]}
        return sorted(names | {curve.method for curve in curves(self.material)})

    @cached_property
    def ledger(self) -> Frame:
        """Published numbers beside what came out here."""
        return ledger.compare(published(), self.material.tested)

    def html(self) -> str:
        """The page."""
        templates = Environment(
            loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        templates.globals |= {"shapes": SHAPES}
        return templates.get_template("page.html").render(**context(self))


def context(report: Report) -> Context:
    """Return the values that the template shows."""
    material, found = report.material, report.found
    budgets = budget_curves(material)
    pareto, tuning = charts.pareto(report.one_by_one), charts.tuning(curves(material))
    return {
        "title": material.folder.resolve().name,
        "summary": summary(report),
        "level": report.rule.level,
        "cards": [
            *map(card_of_all, report.overall),
            *map(card, sorted(found, key=lambda one: one.verdicts is None)),
        ],
        "notices": [*groups_without_results(material), *unlisted(material), *unread(material)],
        "methods": report.methods,
        "scores": sections.scores(found),
        "over_tasks": sections.over_tasks(report.overall),
        "chances": sections.chances(report.overall),
        "pairs": sections.pairs(found),
        "costs": costs.costs(joined(table for _, table in report.costs)),
        "budgets": costs.budgets(report.one_by_one),
        "stacks": report.stacks,
        "forgetting": forgetting(material.tested),
        "tuned": sections.tuned(material),
        "best_of": sections.best_of_trials(budgets),
        "tuning_costs": costs.tuning_costs(material),
        "inflation": sections.inflation(material),
        "audits": audits(material, found),
        "ledger_words": sections.ledger_words(report.ledger),
        "ledger": sections.beside_published(report.ledger, material.tested),
        "figures": list(drawn(report)),
        "runs": sections.every_run(material),
        "environment": sections.environment(material),
        "data": {
            "methods": report.methods,
            "axes": charts.axes(pareto),
            "pareto": pareto,
            "tuning": tuning,
            "trials": charts.tuning(budgets),
        },
        "colours": figures.PALETTE,
    }


def unlisted(material: Material) -> Iterable[str]:
    """Yield a message if studies do not list runs of theirs, as when a study went on since."""
    number = int((material.runs["stage"] == STALE).sum())
    if number == 1:
        yield "1 run is not compared: the summary of its study does not list it."
    elif number:
        yield f"{number} runs are not compared: the summary of their study does not list them."


def unread(material: Material) -> Iterable[str]:
    """Yield a message for files that cannot be read; if there are many, for the first few."""
    yield from (f"Left out: {reason}" for reason in material.left_out[:NAMED])
    if more := material.left_out[NAMED:]:
        yield f"{len(more)} more files cannot be read and are left out."


def joined(tables: Iterable[Frame]) -> Frame:
    """Tables of costs as one, which may be empty."""
    found = list(tables)
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=cost.COLUMNS)


def summary(report: Report) -> list[tuple[str, str]]:
    """Count the runs, methods and so on: numbers with their nouns."""
    runs, tested = report.material.runs, report.material.tested
    lost = int((runs["status"] != "complete").sum())
    facts = [
        (len(runs), "run"),
        (len(report.methods), "method"),
        (tested["task"].nunique(), "task"),
        (tested["seed"].nunique(), "seed"),
    ]
    shown = [(str(value), count(value, noun).partition(" ")[2]) for value, noun in facts if value]
    return [*shown, (str(lost), "diverged")] if lost else shown


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
        "bars": bars(one.methods, one.metric),
        "family": "" if found is None else found.family,
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
        "bars": bars(whole.methods, ""),
        "family": found.family,
        "whole": True,
    }


def legible(one: Any) -> Any:
    """A comparison without its letters if no one could read them: of many methods that overlap."""
    if not crowded(one.methods):
        return one
    return replace(one, methods=one.methods.assign(letters=""))


def crowded(methods: Frame) -> bool:
    """Whether some method has more letters than anybody reads."""
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


def bars(methods: Frame, metric: str) -> list[Context]:
    """A dot and a line for each method, in percent of the width."""
    table = methods.sort_values("mean", ascending=False, kind="stable")
    least, most = table["low"].min(), table["high"].max()
    width = (most - least) or 1.0
    return [
        {
            "method": row["method"],
            "letters": words.span(row.get("letters", "")),
            "text": words.score(row["mean"], metric),
            "between": words.between(row["low"], row["high"], metric),
            "left": 100 * (row["low"] - least) / width,
            "wide": 100 * (row["high"] - row["low"]) / width,
            "dot": 100 * (row["mean"] - least) / width,
        }
        for row in table.to_dict("records")
    ]


def drawn(report: Report) -> Iterable[tuple[str, Markup]]:
    """Figures for print, with their captions."""
    order = {name: place for place, name in enumerate(report.methods)}
    for one in report.found:
        if one.verdicts is not None:
            table = one.methods.assign(order=one.methods["method"].map(order))
            yield f"{one.group}: {one.metric}", svg(figures.scores(table))
    for one, table in report.one_by_one:
        if 1 < len(table) <= CROWD:
            known = table.assign(order=table["variant"].map(order))
            known["front"] = cost.front(table, "trained")
            title = f"{one.group}: {one.metric} and {cost.COSTS['trained']}"
            yield title, svg(figures.pareto(known, "trained"))
    for whole in report.overall:
        if len(whole.methods) > CROWD:
            continue
        table = whole.profile.assign(order=whole.profile["method"].map(order))
        yield f"{title_of_all(whole)}: runs above a score", svg(figures.profiles(table))


def judged(table: Frame, one: Comparison) -> Frame:
    """Costs of one machine beside the scores of the verdicts, which are of all machines' seeds."""
    ends = one.methods.set_index("method").loc[table["variant"]]
    return table.assign(
        score=ends["mean"].to_numpy(),
        score_low=ends["low"].to_numpy(),
        score_high=ends["high"].to_numpy(),
    )


def svg(axes: Axes) -> Markup:
    """A figure as part of a page: no addresses, and its black the colour of the text."""
    file = StringIO()
    with figures.mpl.rc_context({"svg.hashsalt": "report"}):
        figures.root(axes).savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = PREAMBLE.sub("", file.getvalue()).replace("#000000", "currentColor")
    return Markup(text)  # names in it were escaped by matplotlib
