"""The verdict on a folder of runs in a few lines, for the console."""

from pathlib import Path

from analysis.report.material import gather
from analysis.report.page import Report
from analysis.report.words import warn_not_above_floor


def verdict(folder: Path) -> list[str]:
    """Return which method to use, a sentence for each question, and which have not learned."""
    try:
        report = Report(gather(folder))
        lines = [f"{answer.title}: {answer.text}" for answer in report.answers]
        doubts = [(one.task, said) for one in report.found for said in warn_not_above_floor(one)]
    except ValueError as error:  # of runs that cannot be compared
        return [f"No verdict: {error}"]
    return [*lines, *map(": ".join, doubts)] or ["No verdict: there are no runs to compare."]
