"""The result of a run as it is shown on a console; nothing here waits for torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from experiments.metrics.baseline import name_baseline
from experiments.results.result import Result
from experiments.running.remarks import remarks
from experiments.stored.result import perplexities
from experiments.stored.said import note, say
from experiments.stored.shown import plain, visible


def show(result: Result, given: list[str]) -> None:
    """Print what came out, and how to look at it; `given` are the texts one may ask it about."""
    rich, folder, doubts = Console(), shown(result.folder), remarks(result.primary)
    if not rich.is_terminal:
        for line in (outcome(result), *(text for _, text in forgetting_rows(result)), *doubts):
            say(line)
        return
    for line in (outcome(result), *doubts):
        note(line)
    table = Table(show_header=False, title=plain(result.title), title_justify="left")
    for name, value in rows(result):
        table.add_row(plain(name), plain(value))
    rich.print(table)
    lines = [*doubts, "All results: python -m analysis.load outputs"]
    if given:
        texts = " ".join(['"..."'] * len(given))
        lines.insert(-1, f"Predict:     python -m experiments.predict {folder} --text {texts}")
    rich.print("\n".join(map(visible, lines)), highlight=False, markup=False, soft_wrap=True)


def outcome(result: Result) -> str:
    """The score of a run in one line."""
    primary = result.primary
    floor = "".join(f" ({name} {value})" for name, value in baseline_rows(primary))
    score = f"{primary['metric']} {primary['score']:.4f}{floor}"
    return f"{result.title}: {score} -> {shown(result.folder)}"


def show_samples(samples: list[tuple[str, str, str]]) -> None:
    """Print what was given, what came out, and what was expected."""
    rich = Console()
    for given, found, expected in samples if rich.is_terminal else []:
        table = Table(show_header=False, box=None, padding=(0, 1))
        for name, text in (("given", given), ("generated", found), ("expected", expected)):
            table.add_row(plain(name, "dim"), plain(text))
        rich.print(table)
        rich.print()


def shown(path: Path) -> Path:
    """A path as short as it can be said."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def baseline_rows(primary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The line on the baseline of a score, if the result knows it."""
    if "floor" not in primary:
        return []
    return [(name_baseline(primary["metric"]), f"{primary['floor']:.4f}")]


def forgetting_rows(result: Result) -> list[tuple[str, str]]:
    """The line on general text, if the run measured any."""
    if (found := perplexities(result.forgetting)) is None or result.forgetting is None:
        return []
    measured = f"on {result.forgetting['tokens']:,} tokens of general text"
    return [("forgetting", f"perplexity {found[0]:.2f} before, {found[1]:.2f} after, {measured}")]


def rows(result: Result) -> list[tuple[str, str]]:
    """The lines of the final table."""
    primary, cost = result.primary, result.cost
    low, high = primary["interval"]
    parameters, steps, seconds = cost["parameters"], cost["steps"], cost["seconds"]
    peak = cost["peak_mib"]["train"]
    lines = [
        (
            primary["metric"],
            f"{primary['score']:.4f}   95 % interval {low:.4f} to {high:.4f}, "
            f"over {primary['examples']:,} examples",
        ),
        *baseline_rows(primary),
        *(
            (f"{split} {metric}", f"{score:.4f}")
            for split, scores in result.scores.items()
            for metric, score in scores.items()
            if len(result.scores) > 1 or metric != primary["metric"]
        ),
        (
            "trained parameters",
            f"{parameters['trained']:,} + {parameters['head']:,} in the head, "
            f"of {parameters['total']:,}",
        ),
        (
            "learning rate",
            describe_rate(result.config["variant"]["lr"], result.config["model"]["lr_scale"]),
        ),
        (
            "time",
            f"{seconds['train']:.1f} s training, {seconds['evaluate']:.1f} s evaluation; "
            f"{1000 * steps['step_seconds_median']:.0f} ms a step, "
            f"{steps['tokens_per_second']:,.0f} tokens/s",
        ),
        ("peak memory", f"{peak:,.0f} MiB ({cost['memory']})" if peak else cost["memory"]),
        ("adapter", f"{cost['bytes']['adapter'] / 1024:,.0f} KiB"),
        ("result", str(shown(result.folder))),
    ]
    lines[-1:-1] = forgetting_rows(result)
    cut = result.examples["truncated"]
    if any(cut.values()):
        lines.append(("cut texts", ", ".join(f"{n:,} of {split}" for split, n in cut.items() if n)))
    return lines


def describe_rate(lr: float, scale: float) -> str:
    """The rate that the optimizer runs at, and how it comes about."""
    effective = f"{lr * scale:.4g}"
    if scale == 1:
        return effective
    return f"{effective} (variant.lr {lr:.4g} times model.lr_scale {scale:.4g})"
