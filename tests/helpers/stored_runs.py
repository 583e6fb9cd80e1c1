"""Folders of finished runs as a report finds them, without a model: what they hold is drawn."""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.simulated import SimulatedStudy

RESULT: dict[str, Any] = {
    "schema": 2,
    "status": "complete",
    "failure": None,
    "paper": None,
    "telemetry": {},
    "epochs": [],
    "choices": {},
    "overrides": [],
    "cost": {
        "parameters": {"trained": 73728, "head": 1000, "trained_with_head": 74728, "total": 10**6},
        "seconds": {"prepare": 0.1, "train": 60.0, "evaluate": 2.0},
        "processor_seconds": {"prepare": 0.1, "train": 58.0, "evaluate": 1.9},
        "peak_mib": {"prepare": 300.0, "train": 700.0, "evaluate": 500.0},
        "flops": {"training": 3e12},
        "steps": {"steps": 189},
        "latency": {"batch": 32, "adapted_ms": 20.0, "merged_ms": 17.0},
        "bytes": {"adapter": 300_000, "head": 4000},
    },
    "config": {
        "variant": {"_target_": "variants.lora.LoRA", "lr": 1e-3},
        "train": {"epochs": 3.0, "device": "auto"},
        "task": {"name": "sst2"},
        "data": {"dir": "data"},
        "model": {"name": "minilm", "path": "minilm"},
        "protocol": {"_target_": "experiments.settings.protocol.Clean", "stage": "test", "seed": 0},
        "tracker": {"group": None, "tags": []},
        "start": None,
    },
    "examples": {"trained_on": 2000, "rows": "f" * 64},
    "fingerprint": {"data": {"train": "a" * 64, "dev": "b" * 64}, "model": "c" * 64},
    "provenance": {
        "finished": "2026-01-01T00:00:00+00:00",
        "git": {"commit": "d" * 40, "dirty": False},
        "code": "e" * 64,
        "packages": {"torch": "2.13.0", "numpy": "2.4.6"},
        "python": "3.11.7",
        "system": "Linux",
        "device": "AMD EPYC",
        "threads": 1,
        "float32_products": "highest",
        "processes": 1,
    },
}


def store(
    folder: Path,
    variant: str,
    seed: int,
    right: np.ndarray,
    task: str = "local/sst2",
    **changes: Any,
) -> Path:
    """Write a run that got these examples [n] right; changes are of result.json, deep."""
    labels = np.arange(len(right)) % 2
    result = merged(
        RESULT,
        {
            "label": {"variant": variant, "task": task, "model": "minilm"},
            "seed": seed,
            "primary": {
                "metric": "accuracy", "score": float(right.mean()),
                "interval": [float(right.mean()) - 0.02, float(right.mean()) + 0.02],
                "examples": len(right),
            },
        },
        changes,
    )  # fmt: skip
    primary = result["primary"]
    result = merged({"scores": {"dev": {primary["metric"]: primary["score"]}}}, result)
    rate = result["config"]["variant"]["lr"]
    stage = result["config"]["protocol"].get("stage", "paper")
    named = "".join(letter if letter.isalnum() else "_" for letter in variant)
    place = folder / task / named / f"s{seed}-{stage}{rate:g}"
    place.mkdir(parents=True, exist_ok=True)
    (place / "result.json").write_text(json.dumps(result))
    told = np.where(right, labels, 1 - labels)
    frame = {"split": "dev", "id": range(len(labels)), "label": labels, "prediction": told}
    pd.DataFrame(frame).to_parquet(place / "predictions.parquet")
    return place


def merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dictionaries, what comes later over what comes before."""
    found: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            inside = isinstance(value, Mapping) and isinstance(found.get(key), Mapping)
            found[key] = merged(found[key], value) if inside else deepcopy(value)
    return found


def diverged(folder: Path, variant: str, seed: int, **changes: Any) -> Path:
    """Write a run that came to no end."""
    place = store(folder, variant, seed, np.ones(4, dtype=bool), **changes)
    result = json.loads((place / "result.json").read_text())
    result |= {"status": "diverged", "failure": "The loss is nan.", "primary": {}, "scores": {}}
    del result["cost"]["latency"], result["cost"]["bytes"]
    (place / "result.json").write_text(json.dumps(result))
    (place / "predictions.parquet").unlink()
    return place


def study(
    folder: Path,
    methods: Mapping[str, float],
    tasks: Sequence[str],
    seeds: int,
    examples: int = 400,
) -> Path:
    """Methods of these true accuracies, tuned over three rates, as a study leaves them."""
    rows, cells = [], []
    for number, task in enumerate(tasks):
        drawn = SimulatedStudy(accuracies=tuple(methods.values()), seeds=seeds, examples=examples)
        drawn = replace(drawn, chance=0.03, taste=0.2)
        right = drawn.right(np.random.default_rng(number))
        for place, method in enumerate(methods):
            row, own = method_of_study(folder, task, method, place, right[:, place])
            rows.append(row)
            cells += own
    content = {"study": "drawn", "rows": rows, "cells": cells, "inflation": [
        {"task": tasks[0], "method": next(iter(methods)), "points": 0.8, "interval": [0.2, 1.4]}
    ]}  # fmt: skip
    summary = folder / "studies" / "drawn" / "summary.json"
    summary.parent.mkdir(parents=True)
    summary.write_text(json.dumps(content))
    return folder


def method_of_study(
    folder: Path, task: str, method: str, place: int, right: np.ndarray
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The row and the cells of one method, its runs written."""
    dice, size = np.random.default_rng(place), 3000 * 4**place
    rates = [1e-4 * 2**place, 1e-3 * 2**place, 1e-2 * 2**place]
    tag = {"tracker": {"group": "drawn", "tags": ["clean", task, method]}}
    curve, cells = [], []
    for rate, worse in zip(rates, (6, 4, 9), strict=True):
        trial = right[: len(right) // 4, 0] & (np.arange(len(right) // 4) % worse != 0)
        config = {"variant": {"lr": rate}, "protocol": {"stage": "select"}} | tag
        where = store(folder, method, 1000, trial, f"local/{task}", config=config)
        cells.append({"folder": str(where), "stage": "select", "status": "complete"})
        curve.append([f"variant.lr={rate}", float(trial.mean())])
    for seed in range(right.shape[1]):
        cost = {
            "parameters": {"trained": size},
            "seconds": {"train": 60 + 8 * place + float(dice.normal(0, 2))},
            "peak_mib": {"train": 650 + 60 * place + float(dice.normal(0, 5))},
            "flops": {"training": 3e12 + 2e11 * place},
            "latency": {"adapted_ms": 17 + place + float(dice.normal(0, 0.3)), "merged_ms": 17.0},
            "bytes": {"adapter": 4 * size},
        }
        config = {"variant": {"lr": rates[0]}, "task": {"name": task}} | tag
        where = store(
            folder, method, seed, right[:, seed], f"local/{task}", config=config, cost=cost
        )
        cells.append({"folder": str(where), "stage": "test", "status": "complete"})
    scores = right.mean(axis=0).tolist()
    row = {
        "protocol": "clean", "task": task, "method": method, "metric": "accuracy", "trials": 3,
        "curve": curve, "own": curve[1][1], "tuned": curve[0][1], "chosen": [curve[0][0]],
        "edge": "at the low edge", "scores": scores, "score": float(np.mean(scores)),
        "spread": float(np.std(scores, ddof=1)), "trained": size, "tuning_seconds": 190.0,
        "seconds": 500.0, "lost": [],
        "remarks": [f"{size:,} trained parameters, 16 times more"] if place == 4 else [],
    }  # fmt: skip
    return row, cells
