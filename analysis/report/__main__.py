"""`python -m analysis.report RUNS`: a folder of finished runs as one page."""

import argparse
import os
from pathlib import Path

from analysis.family import TESTS, Rule, parse_margins
from analysis.report import export
from analysis.report.material import gather
from analysis.report.page import Report
from experiments.stored.shown import fail


def main() -> None:
    """Write the page, and the tables if they are asked for."""
    arguments = parser().parse_args()
    try:
        rule = Rule(
            test=arguments.test,
            alpha=arguments.alpha,
            against=arguments.against,
            margin=parse_margins(arguments.margin),
        )
        report = Report(gather(arguments.runs), rule)
        folder = os.path.relpath(report.material.folder, arguments.out.parent)
        arguments.out.write_text(report.html(Path(folder).as_posix()), encoding="utf-8")
        written = [arguments.out]
        if arguments.tables is not None:
            written += export.write(report.found, arguments.tables, rule.level)
    except (ValueError, OSError) as error:
        fail(error)
    print("\n".join(map(str, written)))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    described = argparse.ArgumentParser(
        prog="python -m analysis.report",
        description="Write one page on a folder of finished runs, or on a study.",
    )
    described.add_argument(
        "runs", help="folder of finished runs, as outputs, or of a study, as outputs/studies/NAME"
    )
    described.add_argument(
        "--out", type=Path, default=Path("report.html"), help="file of the page (report.html)"
    )
    described.add_argument(
        "--test",
        choices=TESTS,
        default="crossed",
        help="test of each pair: crossed counts seeds and examples, the others seeds alone",
    )
    described.add_argument(
        "--alpha",
        type=float,
        default=0.05,
        help="chance of any false claim among the pairs of a task (0.05)",
    )
    described.add_argument("--against", help="a method: compare the others with this one alone")
    described.add_argument(
        "--margin", nargs="+", metavar="M", default=["1.0"],
        help="difference below which methods are the same: points, as 1.0 (default), or for a "
             "metric alone, as matthews=2.0; choose the loss you would accept for less cost, and "
             "choose it before you look",
    )  # fmt: skip
    described.add_argument(
        "--tables",
        type=Path,
        help="also write the main table into this folder, as CSV, Markdown and LaTeX",
    )
    return described


if __name__ == "__main__":
    main()
