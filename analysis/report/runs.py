"""Every run as compact data: the script on the page makes a table and a panel per run of it.

A column of texts is a list of its values and the place of each row's in it; settings and overrides
are told once and named by their place.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.report.comparisons import Comparison
from analysis.report.learning import Histories, single_curves
from analysis.report.material import Material, flatten, shared_settings, telling_settings
from analysis.scales import scale
from experiments.stored import adapter, history
from experiments.stored.result import NAME, PREDICTIONS

TEXTS = {"task": "task", "model": "model", "protocol": "protocol", "method": "method",
         "base": "base", "stage": "stage", "status": "status", "metric": "metric"}  # fmt: skip
Data = dict[str, Any]


def run_data(material: Material, found: Iterable[Comparison], histories: Histories) -> Data:
    """All that the page knows of single runs, by columns."""
    runs, parts = material.runs, list(found)
    compared = {row for one in parts for row in one.runs.index}
    floors = {one.group: one.baseline for one in parts}
    by = np.array([scale(metric or "") for metric in runs["metric"]])
    settings = flatten(material.results)
    common = shared_settings(settings)
    return {
        "texts": {title: coded(runs[column]) for title, column in TEXTS.items()},
        "seed": runs["seed"].tolist(),
        "score": numbers(runs["score"] * by),
        "low": numbers(runs["low"] * by),
        "high": numbers(runs["high"] * by),
        "baseline": numbers(runs["group"].map(floors).astype(float) * by),
        "rate": numbers(runs["effective_lr"]),
        "seconds": numbers(runs["train_seconds"]),
        "trained": coded(runs["trained"]),
        "folder": [str(Path(folder).relative_to(material.folder)) for folder in runs["folder"]],
        "common": sorted(common.items()),
        "telling": telling_settings(material.results, settings),
        "settings": listed([sorted(own.items() - common.items()) for own in settings]),
        "commands": listed([result["overrides"] for result in material.results]),
        "files": coded([files(result) for result in material.results]),
        "curves": single_curves(histories, compared),
        "failures": {
            str(place): result["failure"]
            for place, result in enumerate(material.results)
            if result.get("failure")
        },
    }


def coded(values: Iterable[Hashable]) -> list[Any]:
    """The distinct values, and for each row the place of its own; one value for all alone."""
    known: dict[Hashable, int] = {}
    places = [known.setdefault(plain(value), len(known)) for value in values]
    return [list(known), places if len(known) > 1 else []]


def plain(value: Any) -> Any:
    """A value that JSON knows, None for one that is missing."""
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and np.isnan(value) else value


def listed(rows: Sequence[Iterable[Hashable]]) -> list[Any]:
    """The distinct items of all rows, and for each row the places of its own."""
    known: dict[Hashable, int] = {}
    places = [[known.setdefault(item, len(known)) for item in row] for row in rows]
    return [list(known), places]


def numbers(values: pd.Series) -> list[float | None]:
    """Numbers in five digits."""
    return [None if pd.isna(value) else float(f"{value:.5g}") for value in values]


def files(result: Mapping[str, Any]) -> tuple[str, ...]:
    """The files of a run that its folder holds."""
    folder = Path(result["folder"])
    known = (NAME, PREDICTIONS, history.NAME, adapter.NAME, "run.log")
    return tuple(name for name in known if (folder / name).exists())
