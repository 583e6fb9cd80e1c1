"""The page itself: everything it shows, put into one self-contained HTML file."""

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis import cost, ledger
from analysis.family import Rule, count
from analysis.looks import COLOURS, ON_DARK, PATHS, look_of
from analysis.papers import published
from analysis.report import charts, costs, sections
from analysis.report.answers import Answer, answers
from analysis.report.audits import audits
from analysis.report.cards import cards, legible
from analysis.report.choices import budget_curves
from analysis.report.comparisons import Comparison, comparisons, groups_without_results
from analysis.report.costs import joined
from analysis.report.html_tables import draw_mark
from analysis.report.leaderboard import leaderboards
from analysis.report.learning import Histories, learning, quantities
from analysis.report.material import STALE, Frame, Material
from analysis.report.overall import Overall, overall
from analysis.report.perplexities import forgetting
from analysis.report.runs import run_data
from analysis.report.tuning import curves

TEMPLATES = Path(__file__).parents[1] / "templates"
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
    def answers(self) -> list[Answer]:
        """Return which method to use, over several tasks and on each."""
        return answers(self.found, self.overall, self.cost_tables)

    @cached_property
    def cost_tables(self) -> dict[str, Frame]:
        """The costs of each comparison's methods, by machine and stack, by the group's name."""
        return {one.group: table for one, table in self.costs}

    @cached_property
    def costs(self) -> list[tuple[Comparison, Frame]]:
        """Return the costs of each comparison's methods, by machine and stack."""
        return [(one, costs_of(one, cost.STACK)) for one in self.found]

    @cached_property
    def counted(self) -> list[tuple[Comparison, Frame]]:
        """Return the costs that are the same on every machine, over all machines."""
        return [(one, judged(costs_of(one, []), one)) for one in self.found]

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
        """Every method."""
        names = {name for one in self.found for name in one.methods["method"]}
        return sorted(names | {curve.method for curve in curves(self.material)})

    @cached_property
    def ledger(self) -> Frame:
        """Published numbers beside what came out here."""
        return ledger.compare(published(), self.material.tested)

    def html(self, runs: str = "") -> str:
        """The page; `runs` is the way from it to the folder of runs, to which it then links."""
        return render("page.html", context(self, runs))


def render(template: str, values: Context) -> str:
    """A page made from one of the templates; texts in its values are only texts."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    templates.policies["json.dumps_kwargs"] = {"sort_keys": True, "separators": (",", ":")}
    templates.globals |= {
        "mark": draw_mark, "look": look_of, "shapes": PATHS, "colours": COLOURS, "on_dark": ON_DARK,
    }  # fmt: skip
    return templates.get_template(template).render(**values)


def context(report: Report, folder: str) -> Context:
    """Return the values that the template shows."""
    material, found = report.material, report.found
    histories = Histories(material)
    return {
        "title": material.title,
        "summary": summary(report),
        "level": report.rule.level,
        "answers": report.answers,
        "leaders": leaderboards(found, report.overall, report.cost_tables),
        "cards": cards(found, report.overall),
        "scores": sections.scores(found),
        "over_tasks": sections.over_tasks(report.overall),
        "chances": sections.chances(report.overall),
        "pairs": sections.pairs(found),
        **cost_context(report),
        **tuning_context(report),
        "forgetting": forgetting(material.tested),
        "audits": audits(material, found),
        "ledger_words": sections.ledger_words(report.ledger),
        "ledger": sections.beside_published(report.ledger, material.tested),
        "judged": bool((report.ledger["verdict"] != ledger.OPEN).any()),
        "environment": sections.environment(material),
        "data": chart_data(report, histories) | {"folder": folder},
        "notices": [
            *groups_without_results(material), *unlisted(material),
            *unread([*material.left_out, *histories.left_out]),
        ],
    }  # fmt: skip


def cost_context(report: Report) -> Context:
    """The tables of costs; of several machines, those that are the same on all stand apart."""
    whole = joined(table for _, table in report.costs)
    if len(report.stacks) < 2:
        shown, counted = [costs.costs(whole)], None
    else:
        counted = report.counted
        same = joined(table for _, table in counted)
        shown = [costs.counted_costs(same), costs.measured_costs(whole)]
    budgets = costs.budgets(report.one_by_one, counted)
    return {"costs": shown, "budgets": budgets, "stacks": report.stacks}


def tuning_context(report: Report) -> Context:
    """The tables on how settings were chosen."""
    material = report.material
    return {
        "tuned": sections.tuned(material),
        "best_of": sections.best_of_trials(budget_curves(material)),
        "tuning_costs": costs.tuning_costs(material),
        "inflation": sections.inflation(material),
    }


def chart_data(report: Report, histories: Histories) -> Context:
    """The data of the charts and of the table of runs."""
    material = report.material
    measured = [name for name in charts.AXES if name not in cost.COUNTED]
    pareto = [
        *charts.pareto(report.counted, cost.COUNTED),
        *charts.pareto(report.one_by_one, measured),
    ]
    lines = learning(report.found, histories)
    return {
        "methods": report.methods,
        "looks": {name: [look_of(name).colour, look_of(name).shape] for name in names(report)},
        "axes": charts.axes(pareto),
        "pareto": pareto,
        "profiles": charts.profiles(report.overall),
        "learning": lines,
        "quantities": quantities(lines),
        "tuning": charts.tuning(curves(material)),
        "trials": charts.tuning(budget_curves(material)),
        "runs": run_data(material, report.found, histories),
    }


def names(report: Report) -> list[str]:
    """Every method that some run or chart is of."""
    return sorted({*report.methods, *report.material.runs["base"]})


def costs_of(one: Comparison, by: list[str]) -> Frame:
    """The costs of one comparison's methods, and the floor of their scores."""
    return cost.table(one.runs.assign(variant=one.runs["method"]), by=by).assign(floor=one.baseline)


def unlisted(material: Material) -> Iterable[str]:
    """Yield a message if studies do not list runs of theirs, as when a study went on since."""
    number = int((material.runs["stage"] == STALE).sum())
    if number == 1:
        yield "1 run is not compared: the summary of its study does not list it."
    elif number:
        yield f"{number} runs are not compared: the summary of their study does not list them."


def unread(reasons: list[str]) -> Iterable[str]:
    """Yield a message for files that cannot be read; if there are many, for the first few."""
    yield from (f"Left out: {reason}" for reason in reasons[:NAMED])
    if more := reasons[NAMED:]:
        yield f"{len(more)} more files cannot be read and are left out."


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


def judged(table: Frame, one: Comparison) -> Frame:
    """Costs of one machine beside the scores of the verdicts, which are of all machines' seeds."""
    ends = one.methods.set_index("method").loc[table["variant"]]
    return table.assign(
        score=ends["mean"].to_numpy(),
        score_low=ends["low"].to_numpy(),
        score_high=ends["high"].to_numpy(),
    )
