"""The tables of each section of the page."""

from collections import Counter
from collections.abc import Iterator

import pandas as pd

from analysis.ledger import NOT_REPRODUCED, OPEN, REPRODUCED
from analysis.report import words
from analysis.report.choices import Chosen, chosen_again
from analysis.report.comparisons import Comparison
from analysis.report.html_tables import NONE, Cell, Column, Table, numeric, table, text
from analysis.report.material import SEPARATOR, Frame, Material, Record
from analysis.report.overall import Overall
from analysis.report.tuning import Curve, parse, rate_scales, rows
from analysis.statistics import Outcome

MOST = 1500  # pairs that a page shows
TASK = Column(title="task", pick=True, shared=True)
MODEL = Column(title="model", pick=True, shared=True)
PROTOCOL = Column(title="protocol", pick=True, shared=True)
STUDY = Column(title="study", pick=True, shared=True)
MACHINE = Column(title="machine and stack", pick=True, shared=True)
METHOD = Column(title="method", pick=True, fixed=True)


def number(title: str, hint: str = "") -> Column:
    """A column of numbers."""
    return Column(title=title, numbers=True, hint=hint)


BASELINE = Column(title="baseline", numbers=True, shared=True,
                  hint="majority baseline: the score of one answer to all examples; "
                       "of a metric of texts its lowest score")  # fmt: skip
RATE = number("effective rate", "at which the optimizer runs: lr times the model's lr_scale")
BEST = (
    number("chance best", "that its true mean is the highest, by what is known of the noise"),
    number("loses at most", "to the best method; true of all methods at once"),
)


def where(one: Comparison) -> list[Cell]:
    """The first cells of a row on a comparison."""
    data = one.group.split(SEPARATOR)[3:]  # where one task has several
    return [text(SEPARATOR.join([one.task, *data])), text(one.model), text(one.protocol)]


def scores(found: list[Comparison]) -> Table:
    """Every method's mean on every task."""
    columns = [
        TASK, MODEL, PROTOCOL, METHOD, number("score"), number("interval"), BASELINE,
        Column(title="group", hint="methods that share a letter cannot be told apart"),
        *BEST, number("runs", "that came to a score"),
        number("first decile", "the score that nine of ten runs exceed"),
        number("collapsed", "runs at or below the majority baseline, or diverged; "
                            "with the largest share that is still likely, one-sided 95 %"),
        Column(title="examples", numbers=True, shared=True), Column(title="metric", shared=True),
    ]  # fmt: skip
    return table("scores", columns, (row for one in found for row in score_rows(one)))


def score_rows(one: Comparison) -> Iterator[list[Cell]]:
    """The rows of one comparison."""
    for row in one.methods.to_dict("records"):
        yield [
            *where(one),
            text(row["method"], strong=True),
            numeric(row["mean"], lambda value: words.score(value, one.metric)),
            ends(row["low"], row["high"], one.metric),
            floor_cell(one),
            text(words.span(row["letters"]) or None),
            *best_cells(row, one.metric),
            numeric(row["seeds"]),
            numeric(row["decile"], lambda value: words.score(value, one.metric)),
            Cell(
                text=f"{row['fallen']} (up to {words.share(row['fallen_most'])})",
                key=float(row["fallen"]),
            ),
            numeric(one.examples, lambda value: f"{value:,}"),
            text(one.metric),
        ]


def floor_cell(one: Comparison) -> Cell:
    """The score of one answer to all examples; of a metric of texts the lowest score."""
    return numeric(one.baseline, lambda value: words.score(value, one.metric))


def best_cells(row: Record, metric: str) -> list[Cell]:
    """The chance that a method is the best, and what choosing it loses at most."""
    return [
        numeric(row["chance_best"], words.share),
        numeric(row["loses"], lambda value: words.score(value, metric)),
    ]


def ends(low: float, high: float, metric: str) -> Cell:
    """An interval of scores, sorted by its low end."""
    shown = words.between(low, high, metric)
    return numeric(None) if shown == NONE else Cell(text=shown, key=float(low))


def over_tasks(found: list[Overall]) -> Table:
    """Every method over all tasks that it shares with others."""
    columns = [
        MODEL, PROTOCOL, METHOD, number("mean", "over tasks, weighted as the verdict says"),
        number("interval", "over seeds and examples"), Column(title="group"), *BEST,
        number("interquartile mean", "of the middle half of all runs on all tasks, each in "
                                     "standard deviations from the mean of its task"),
        number("its interval", "over seeds"),
        Column(title="tasks", shared=True), Column(title="seeds", numbers=True, shared=True),
    ]  # fmt: skip
    return table("over-tasks", columns, (row for one in found for row in whole_rows(one)))


def whole_rows(one: Overall) -> Iterator[list[Cell]]:
    """The rows of one set of tasks."""
    for row in one.methods.to_dict("records"):
        yield [
            text(one.model),
            text(one.protocol),
            text(row["method"], strong=True),
            numeric(row["mean"], lambda value: words.score(value, "")),
            ends(row["low"], row["high"], ""),
            text(words.span(row["letters"]) or None),
            *best_cells(row, ""),
            numeric(row["iqm"], deviations),
            deviation_ends(row["iqm_low"], row["iqm_high"]),
            text(", ".join(one.tasks)),
            numeric(len(one.seeds)),
        ]


def deviations(value: float) -> str:
    """A score in standard deviations."""
    return f"{value:+.2f}".replace("-", words.MINUS)


def deviation_ends(low: float, high: float) -> Cell:
    """An interval of scores in standard deviations."""
    return numeric(low, lambda value: f"{deviations(value)} to {deviations(high)}")


def chances(found: list[Overall]) -> Table:
    """Of every pair over several tasks the chance that a run of one beats one of the other."""
    columns = [
        MODEL, PROTOCOL, Column(title="higher", pick=True), Column(title="lower", pick=True),
        number("chance to win", "of any run against any of the other on the same task, ties half"),
        number("interval", "over seeds"), Column(title="tasks", shared=True),
    ]  # fmt: skip
    return table("chances", columns, (row for one in found for row in chance_rows(one)), MOST)


def chance_rows(one: Overall) -> Iterator[list[Cell]]:
    """The rows of one set of tasks."""
    for row in one.improvement.to_dict("records"):
        yield [
            text(one.model),
            text(one.protocol),
            text(row["a"]),
            text(row["b"]),
            numeric(row["chance"], words.share),
            chance_ends(row["low"], row["high"]),
            text(", ".join(one.tasks)),
        ]


def chance_ends(low: float, high: float) -> Cell:
    """An interval of chances, sorted by its low end."""
    if pd.isna(low):
        return numeric(None)
    return Cell(text=f"{words.share(low)} to {words.share(high)}", key=low)


def pairs(found: list[Comparison]) -> Table:
    """Every pair of methods that was compared."""
    columns = [
        TASK, MODEL, PROTOCOL, Column(title="higher", pick=True), Column(title="lower", pick=True),
        number("difference"), number("interval", "all intervals of the task hold at once"),
        number("p", "adjusted for all pairs of the task"),
        Column(title="seeds", numbers=True, shared=True, hint="that both methods have"),
        number("wins", "share of seeds in which the first is better, ties half"),
        number("d", "the difference in standard deviations over seeds, Hedges' correction"),
        Column(title="verdict", pick=True),
    ]  # fmt: skip
    rows = [row for one in found for row in pair_rows(one)]
    if len(rows) > MOST:  # then those that differ come first
        rows.sort(key=lambda row: not row[-1].strong)
    return table("pairs", columns, rows, MOST)


def pair_rows(one: Comparison) -> Iterator[list[Cell]]:
    """The rows of one comparison."""
    if one.verdicts is None:
        return
    for row in one.verdicts.pairs.to_dict("records"):
        within = row["within"] and row["outcome"] != Outcome.SAME
        verdict = f"{row['outcome']}{', within margin' if within else ''}"
        yield [
            *where(one),
            text(row["a"]),
            text(row["b"]),
            numeric(row["difference"], lambda value: words.score(value, one.metric)),
            ends(row["low"], row["high"], one.metric),
            numeric(
                row["p_adjusted"], lambda value: "< 0.0001" if value < 1e-4 else f"{value:.4f}"
            ),
            numeric(row["seeds"]),
            numeric(row["superiority"], words.share),
            numeric(row["d"], lambda value: f"{value:.1f}".replace("-", words.MINUS)),
            text(verdict, strong=row["outcome"] in (Outcome.BETTER, Outcome.WORSE)),
        ]


def tuned(material: Material) -> Table:
    """How the settings of every method were chosen."""
    columns = [
        STUDY, TASK, PROTOCOL, METHOD,
        number("points tried", "half-way: stopped after half their steps, for a low score there"),
        Column(title="chosen"), RATE, Column(title="selection metric", shared=True),
        number("own settings", "selection score"),
        number("chosen settings", "selection score"), Column(title="edge"),
        Column(title="as good", hint="within one standard error in a race: claims hold for both"),
        number("chosen again", "the chance that the same trials would choose it again, with other "
                               "seeds and selection rows; ~ where only intervals are kept"),
        number("tuning"), number("reported runs"),
    ]  # fmt: skip
    scales = rate_scales(material)
    body = [
        tuned_row(row, choice, scales.get((row["method"], row["protocol"], row["task"]), 1.0))
        for row, choice in zip(rows(material), chosen_again(material), strict=True)
    ]
    return table("tuned", columns, body)


def tuned_row(row: Record, choice: Chosen, scale: float) -> list[Cell]:
    """The row of one method in one study, whose model has this lr_scale."""
    rough = "" if choice.exact else "~"
    second = ", ".join(short(point) for point in row.get("rival") or [])
    metric, stopped = row["tuned_by"] or "", len(row.get("stopped", []))
    chosen = ", ".join(short(point) for point in row["chosen"] or [])
    return [
        text(row["study"]),
        text(row["task"]),
        text(row["protocol"]),
        text(row["method"], strong=True),
        numeric(
            row["trials"], lambda tried: f"{tried}, {stopped} half-way" if stopped else f"{tried}"
        ),
        text(chosen or None),
        numeric(chosen_rate(row, scale), words.rate),
        text(metric or None),
        numeric(row["own"], lambda value: words.score(value, metric)),
        numeric(row["tuned"], lambda value: words.score(value, metric)),
        text(row["edge"] or None),
        text(second or None),
        numeric(choice.repeated, lambda value: rough + words.share(value)),
        numeric(row["tuning_seconds"], words.duration),
        numeric(row["seconds"], words.duration),
    ]


def chosen_rate(row: Record, scale: float) -> float | None:
    """The effective learning rate that was chosen, if it was tuned."""
    known = dict(found for point in row["chosen"] or [] if (found := parse(point)) is not None)
    return known["lr"] * scale if "lr" in known else None


def short(point: str) -> str:
    """A tuned setting without its section."""
    key, equals, value = point.partition("=")
    return f"{key.rpartition('.')[2]}{equals}{value}"


def best_of_trials(curves: list[Curve]) -> Table:
    """The expected best selection score of every method after one, two, four ... trials."""
    most = max((len(curve.points) for curve in curves), default=0)
    counts = sorted({n for n in (1, 2, 3, 5, 9, most) if n <= most})
    columns = [
        Column(title="place", pick=True), METHOD, *(number(f"best of {n}") for n in counts),
    ]  # fmt: skip
    body = (
        [
            text(curve.place),
            text(curve.method, strong=True),
            *(
                numeric(dict(curve.points).get(n), lambda v, m=curve.metric: words.score(v, m))
                for n in counts
            ),
        ]
        for curve in curves
    )
    return table("best-of", columns, body)


def inflation(material: Material) -> Table:
    """By how much the best epoch on the reported split beats the clean protocol."""
    columns = [
        STUDY, TASK, METHOD, number("paper less clean, points"),
        number("95 % interval"),
    ]  # fmt: skip
    body = (inflation_row(s["study"], i) for s in material.studies for i in s.get("inflation", []))
    return table("inflation", columns, body)


def inflation_row(study: str, item: Record) -> list[Cell]:
    """The row of one method."""
    low, high = item["interval"] or (None, None)
    between = numeric(low, lambda value: f"{value:+.2f} to {high:+.2f}")
    return [
        text(study),
        text(item["task"]),
        text(item["method"], strong=True),
        numeric(item["points"], lambda value: f"{value:+.2f}"),
        between,
    ]


def beside_published(ledger: Frame, runs: Frame) -> Table:
    """The published numbers of methods and tasks that have runs here."""
    columns = [
        Column(title="paper", pick=True), Column(title="table"), METHOD, TASK, MODEL,
        Column(title="metric"), number("published"), number("ours"),
        Column(title="seeds", numbers=True, shared=True),
        Column(title="verdict", pick=True, shared=True), Column(title="reason", wrap=True),
    ]  # fmt: skip
    tasks = {str(task).rpartition("/")[2] for task in runs["task"]}
    here = ledger["variant"].isin(runs["variant"]) & ledger["task"].isin(tasks)
    return table("ledger", columns, map(ledger_row, ledger[here].to_dict("records")))


def ledger_row(row: Record) -> list[Cell]:
    """One published number."""
    return [
        text(row["paper"]),
        text(f"{row['table']}, {row['label']}"),
        text(row["variant"]),
        text(row["task"]),
        text(row["model"]),
        text(row["metric"]),
        numeric(row["score"], lambda value: words.score(value, row["metric"])),
        numeric(row["ours"], lambda value: words.score(value, row["metric"])),
        numeric(row["our_seeds"]),
        text(row["verdict"], strong=row["verdict"] != OPEN),
        text(row["reason"]),
    ]


def ledger_words(ledger: Frame) -> str:
    """The ledger in one sentence."""
    counts = Counter(ledger["verdict"])
    if counts[OPEN] == len(ledger):
        return f"None of {len(ledger):,} published numbers can be judged by these runs."
    return (
        f"Of {len(ledger):,} published numbers {counts[REPRODUCED]:,} came out here again, "
        f"{counts[NOT_REPRODUCED]:,} did not, and {counts[OPEN]:,} cannot be judged by these runs."
    )


def environment(material: Material) -> Table:
    """Code, packages, machines, data and weights behind the runs."""
    counts: dict[tuple[str, str], int] = {}
    for result in material.results:
        for fact in facts(result):
            counts[fact] = counts.get(fact, 0) + 1
    several = Counter(what for what, _ in counts)
    columns = [Column(title="what"), Column(title="value", code=True), number("runs")]
    body = (
        [text(what), text(value, strong=several[what] > 1), numeric(number)]
        for (what, value), number in sorted(counts.items())
    )
    return table("environment", columns, body)


def facts(result: Record) -> Iterator[tuple[str, str]]:
    """Yield the facts about the machine and the software of a run."""
    known, label, prints = result["provenance"], result["label"], result["fingerprint"]
    kinds = ("float32_products", "bfloat16_products", "engine")
    for key in ("device", "threads", "processes", "python", "system", *kinds):
        if key in known:
            yield key.replace("_", " "), str(known[key])
    yield "code", known["code"][:12]
    if known["git"] is not None:
        dirty = ", with changes" if known["git"]["dirty"] else ""
        yield "commit", known["git"]["commit"][:12] + dirty
    yield from ((f"package {name}", version) for name, version in known["packages"].items())
    for split, value in prints["data"].items():
        yield f"data {label['task']} {split}", value[:12]
    yield f"weights {label['model']}", str(prints["model"])[:12]
