"""Finished runs as one tidy table: `python -m analysis.load outputs`."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Column, Table

from experiments.stored import study, summary
from experiments.stored.kinds import KIND
from experiments.stored.result import NAME, PREDICTIONS, effective_rate, perplexities, read
from experiments.stored.shown import fail, plain, visible

Record = dict[str, Any]
UNSHOWN = ("choices", "epochs")
NAMED = ("task", "model", "variant")
STUDIES = "studies"  # where studies have folders of their own, below that of the runs


def load(folder: str | Path) -> pd.DataFrame:
    """One row per finished run below `folder`, diverged ones included.

    A run that cannot be read is left out, and named on the standard error stream. Raises
    ValueError if there is none that can.
    """
    return pd.DataFrame([row(result) for result in results(folder)])


def results(folder: str | Path) -> list[Record]:
    """Read every finished run below `folder`; each record also names its folder.

    A run that cannot be read is left out, and named on the standard error stream. Raises
    ValueError if there is none that can.
    """
    found, left_out = readable(folder)
    for reason in left_out:
        print(f"left out: {visible(reason)}", file=sys.stderr)
    return found


def readable(folder: str | Path) -> tuple[list[Record], list[str]]:
    """The finished runs below `folder` that can be read, and why the others cannot.

    Raises ValueError if there is none that can.
    """
    paths = run_files(Path(folder))
    if not paths:
        raise ValueError(f"There is no finished run below {folder}.")
    found: list[Record] = []
    left_out: list[str] = []
    known: dict[str, Any] = {}
    for path in paths:
        try:
            found.append(slim(read(path), known) | {"folder": str(path.parent)})
        except ValueError as error:
            left_out.append(str(error))
    if not found:
        raise ValueError(left_out[0])
    if (name := study_in(Path(folder))) is not None:
        listed = listed_runs(Path(folder))
        found = [run for run in found if place(run["folder"]) in listed or study_of(run) == name]
        if not found:
            raise ValueError(f"There is no finished run of study {name} yet.")
    return found, left_out


def study_in(folder: Path) -> str | None:
    """The name of the study whose own folder this is, `.../studies/NAME`; else None."""
    known = any((folder / name).exists() for name in (study.NAME, summary.NAME))
    absolute = folder.absolute()
    return absolute.name if known and absolute.parent.name == STUDIES else None


def runs_folder(folder: Path) -> Path:
    """Where runs lie: of a study's own folder two levels above, else in the folder itself."""
    return folder if study_in(folder) is None else Path(os.path.normpath(folder / ".." / ".."))


def run_files(folder: Path) -> list[Path]:
    """Every result below a folder; of a study that has ended, those that its summary lists."""
    paths = sorted(runs_folder(folder).rglob(NAME))
    listed = listed_runs(folder)
    return [path for path in paths if place(path.parent) in listed] if listed else paths


def listed_runs(folder: Path) -> set[tuple[str, ...]]:
    """The runs that the summary in a study's own folder lists; none without one."""
    path = folder / summary.NAME
    if study_in(folder) is None or not path.exists():
        return set()
    try:
        content = summary.read(path)
    except ValueError:  # a report says so; runs name their study themselves
        return set()
    return {place(cell["folder"]) for cell in (content or {"cells": []})["cells"]}


def place(folder: str | Path) -> tuple[str, ...]:
    """Identify a run's folder wherever it was moved: variant, seed and hash of its settings."""
    return Path(folder).parts[-2:]


def study_of(result: Record) -> str | None:
    """The name of the study that a run is of; a run of earlier versions has it as its group."""
    config = result["config"]
    if "part_of" in config:
        return config["part_of"][0] if config["part_of"] else None
    return (config.get("tracker") or {}).get("group")


def slim(result: Record, known: dict[str, Any]) -> Record:
    """A result without what no table shows, its parts that others have too kept once in `known`."""
    found = {key: value for key, value in result.items() if key not in UNSHOWN}
    found["overrides"] = tuple(map(sys.intern, result["overrides"]))
    print_ = {key: value for key, value in result["fingerprint"].items() if key != "config"}
    config = {key: once(value, known) for key, value in result["config"].items()}
    cost = {key: once(value, known) for key, value in result["cost"].items()}
    whole = {"fingerprint": once(print_, known), "config": config, "cost": cost}
    for key in ("provenance", "examples", "label"):
        part = result[key]
        whole[key] = {name: once(value, known) for name, value in part.items()}
    return found | whole


def once(value: Any, known: dict[str, Any]) -> Any:
    """The first of equal values that was seen."""
    if isinstance(value, dict | list):
        return known.setdefault(repr(value), value)
    return sys.intern(value) if isinstance(value, str) else value


def row(result: dict[str, Any]) -> dict[str, Any]:
    """The figures of one run."""
    primary, protocol = result["primary"], result["config"]["protocol"]
    low, high = primary.get("interval", (None, None))
    return {
        **{key: result["label"][key] for key in ("task", "model", "variant")},
        "seed": result["seed"],
        "study": study_of(result),
        "status": result["status"],
        "metric": primary.get("metric"),
        "score": primary.get("score"),
        "scores": result["scores"],
        "low": low,
        "high": high,
        "effective_lr": effective_rate(result["config"]),
        **costs(result["cost"]),
        **forgetting(result.get("forgetting")),
        "starts_as_pretrained": bool(result["telemetry"].get("starts_as_pretrained", True)),
        "paper": result["paper"],
        "protocol": protocol[KIND],
        "stage": protocol.get("stage"),
        **machine(result["provenance"]),
        "folder": result["folder"],
        "predictions": result["files"].get(PREDICTIONS),
    }


def costs(cost: dict[str, Any]) -> dict[str, Any]:
    """Return the costs of a run; a run that diverged has no latency and no files.

    Seconds are those on the wall, and the processor's where they were measured.
    """
    latency, seconds, busy = cost.get("latency", {}), cost["seconds"], cost.get("processor_seconds")
    return {
        "trained": cost["parameters"]["trained"],
        "train_seconds": seconds["train"],
        "seconds": sum(seconds.values()),
        "train_processor_seconds": busy and busy["train"],
        "processor_seconds": busy and sum(busy.values()),
        "train_flops": cost["flops"]["training"],
        "train_peak_mib": cost["peak_mib"]["train"],
        "adapter_bytes": cost.get("bytes", {}).get("adapter"),
        "adapted_ms": latency.get("adapted_ms"),
        "merged_ms": latency.get("merged_ms"),
    }


def forgetting(measured: dict[str, Any] | None) -> dict[str, Any]:
    """The perplexity of general text before and after training, where it was measured."""
    before, after = perplexities(measured) or (None, None)
    return {"perplexity_before": before, "perplexity_after": after}


def machine(provenance: dict[str, Any]) -> dict[str, Any]:
    """The facts, beside the run itself, that seconds and memory depend on."""
    return {
        "device": provenance["device"],
        "threads": provenance["threads"],
        "processes": provenance["processes"],
        "products": provenance["float32_products"],
        "torch": provenance["packages"].get("torch", "not recorded"),
        "code": provenance["code"][:12],
    }


def main() -> None:
    """Print the table of all runs below a folder."""
    try:
        runs = load(
            parse_runs_folder("python -m analysis.load", "Show all finished runs below a folder.")
        )
    except (ValueError, OSError) as error:
        fail(error)
    Console().print(shown(runs))


def parse_runs_folder(program: str, description: str) -> str:
    """The folder on the command line."""
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument(
        "runs",
        nargs="?",
        default="outputs",
        help="the folder below which runs are looked for (outputs)",
    )
    return parser.parse_args().runs


def shown(runs: pd.DataFrame) -> Table:
    """The table as it fits on a screen."""
    table = Table(Column("run", overflow="fold"), "seed", "score", "trained", "seconds", "MiB")
    forgetting = bool(runs["perplexity_after"].notna().any())
    if forgetting:
        table.add_column("perplexity")
    alike = runs.duplicated([*NAMED, "seed"], keep=False)
    for run, several in zip(runs.to_dict("records"), alike, strict=True):
        name = "/".join(str(run[key]) for key in NAMED)
        name += f" ({Path(run['folder']).name})" if several else ""  # settings of their own
        name += "" if run["starts_as_pretrained"] else " (not from the pretrained model)"
        score = run["status"]
        if score == "complete":
            score = f"{run['score']:.3f} [{run['low']:.3f}, {run['high']:.3f}]"
        cost = (f"{run['trained']:,}", f"{run['train_seconds']:,.0f}", mib(run["train_peak_mib"]))
        last = [change(run["perplexity_before"], run["perplexity_after"])] if forgetting else []
        table.add_row(plain(name), str(run["seed"]), plain(score), *cost, *last)
    return table


def change(before: float | None, after: float | None) -> str:
    """The perplexity of general text before and after training."""
    return "not measured" if after is None or pd.isna(after) else f"{before:.2f} to {after:.2f}"


def mib(value: float | None) -> str:
    """A peak of memory, or that there is none."""
    return "not measured" if value is None or pd.isna(value) else f"{value:,.0f}"


if __name__ == "__main__":
    main()
