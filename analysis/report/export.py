"""The main table for a paper: methods by tasks, as CSV, Markdown and LaTeX."""

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from analysis.report import words
from analysis.report.answers import title
from analysis.report.comparisons import Comparison
from analysis.report.html_tables import NONE
from analysis.report.leaderboard import name_baseline
from analysis.report.material import Frame
from analysis.report.sections import MOST
from experiments.stored.shown import in_one_line, without_formulas

SPECIAL = re.compile(r"[&%$#_{}~^\\]")
LATEX = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
KEYS = ["group", "task", "model", "protocol", "metric", "examples"]
COLUMNS = [*KEYS, "method", "mean", "low", "high", "letters", "seeds", "baseline", "trained",
           "effective_lr"]  # fmt: skip
Show = Callable[[str, str], str]  # a value and its letters


def write(found: list[Comparison], folder: Path, level: str) -> list[Path]:
    """Write scores.csv, with all digits, and scores.md and scores.tex, as they are read.

    If there are more pairs than a page shows, pairs.csv has all.

    `level` is what the intervals cover, as "95 %".
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = f"Means and their {level} intervals; methods that share a letter cannot be told apart."
    texts = {
        "csv": without_formulas(long(found)).to_csv(index=False),
        "md": f"{markdown(found)}\n\n{note}\n",
        "tex": f"% {note}\n{latex(found)}",
    }
    paths = [folder / f"scores.{ending}" for ending in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    pairs = all_pairs(found)
    if len(pairs) > MOST:
        paths.append(folder / "pairs.csv")
        without_formulas(pairs).to_csv(paths[-1], index=False)
    return paths


def all_pairs(found: list[Comparison]) -> Frame:
    """Every pair of methods that was compared, by its group."""
    parts = [
        one.verdicts.pairs.assign(group=one.group) for one in found if one.verdicts is not None
    ]
    return (
        pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["group", "a", "b"])
    )


def long(found: list[Comparison]) -> Frame:
    """A row for each method of each comparison; without ends if none are known."""
    parts = [
        one.methods.assign(
            **{key: getattr(one, key) for key in KEYS},
            baseline=one.baseline,
            effective_lr=one.methods["method"].map(
                one.runs.groupby("method")["effective_lr"].mean()
            ),
        )
        for one in found
    ]
    table: Frame = pd.concat(parts)[COLUMNS] if parts else pd.DataFrame(columns=COLUMNS)
    ends = ["low", "high"]
    return table.assign(**table[ends].mask(table["low"] == table["high"]))


def wide(found: list[Comparison], show: Show) -> Frame:
    """A row for each method, a column for each comparison; the majority baseline last."""
    columns: dict[str, dict[str, str]] = {}
    last = name_baseline(found) if found else ""
    for one in found:
        cells = {
            row["method"]: show(value(row, one.metric), row["letters"])
            for row in one.methods.to_dict("records")
        }
        cells[last] = show(words.score(one.baseline, one.metric), "")
        columns[f"{title(one, found)} ({one.metric})"] = cells
    table = pd.DataFrame(columns).fillna("")
    rows = sorted(table.index, key=lambda name: (name == last, name))
    return table.loc[rows].rename_axis("method").reset_index()


def value(row: dict, metric: str) -> str:
    """A mean and its interval."""
    mean, low, high = (words.score(row[key], metric) for key in ("mean", "low", "high"))
    known = words.between(row["low"], row["high"], metric) != NONE
    return (f"{mean} [{low}, {high}]" if known else mean).replace(words.MINUS, "-")


def markdown(found: list[Comparison]) -> str:
    """The wide table in Markdown."""
    table = wide(found, lambda value, letters: f"{value} {letters}".strip())
    lines = [list(table.columns), ["---", *["--:"] * (len(table.columns) - 1)]]
    lines += table.to_numpy().tolist()
    rows = ["| " + " | ".join(map(in_markdown, line)) + " |" for line in lines]
    return "\n".join(rows)


def in_markdown(text: str) -> str:
    """A text as a cell of Markdown."""
    escaped = in_one_line(text).replace("\\", r"\\").replace("|", r"\|")
    return escaped.replace("<", "&lt;")


def latex(found: list[Comparison]) -> str:
    """The wide table in LaTeX, for booktabs."""
    table = wide(found, raised)
    table["method"] = table["method"].map(escape)
    form = "l" + "r" * (len(table.columns) - 1)
    return table.rename(columns=escape).to_latex(index=False, escape=False, column_format=form)


def raised(value: str, letters: str) -> str:
    """A cell of LaTeX, its letters raised."""
    shown = value.replace("-", "$-$")
    return rf"{shown}\textsuperscript{{{letters}}}" if letters else shown


def escape(text: str) -> str:
    """A text as LaTeX prints it."""
    return SPECIAL.sub(lambda found: LATEX.get(found[0], rf"\{found[0]}"), in_one_line(text))
