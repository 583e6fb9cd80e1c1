"""The audit: find the differences in how methods were treated, from their results."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from statistics import median_low
from typing import Any

from experiments.stored.roles import is_compared

ENCODER = json.JSONEncoder(sort_keys=True)
Facts = dict[str, list[str]]  # values by name; several if the runs differ


def facts(results: Iterable[Mapping[str, Any]]) -> Facts:
    """Return the facts that must be the same for every method, from one method's results.
    If the results differ in a fact, it has all their values.
    """
    found: Facts = {}
    for result in results:
        for key, value in of_run(result).items():
            if (text := as_text(value)) not in found.setdefault(key, []):
                found[key].append(text)
    return found


def of_run(result: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of one run, from what its result.json holds."""
    config, provenance, cost = result["config"], result["provenance"], result["cost"]
    variant = config["variant"]
    sections = {name: config.get(name, {}) for name in ("train", "compute", "task")}
    known = {
        f"{section}.{key}": value
        for section, node in sections.items()
        for key, value in node.items()
        if is_compared(f"{section}.{key}")
    }
    known |= {f"model.{key}": config["model"].get(key) for key in ("dropout", "lr_scale")}
    known |= {
        "start": config.get("start"),
        "start is the pretrained model": result["telemetry"].get("starts_as_pretrained", 1.0) == 1,
        "steps": cost["steps"]["steps"],
        "parameters of the head": cost["parameters"]["head"],
        "rows of the train split": result["fingerprint"]["data"]["train"][:12],
        "trained on": result["examples"]["trained_on"],
        "rows trained on": result["examples"].get("rows", "not recorded")[:12],
        "weights": result["fingerprint"]["model"][:12],
        "code": ", ".join(
            code[:12] for code in (*provenance.get("earlier_code", []), provenance["code"])
        ),
        "python": provenance["python"],
        "device": provenance["device"],
        "threads": provenance["threads"],
        **{f"package {name}": number for name, number in provenance["packages"].items()},
    }
    # A setting that not every method has is compared among those that have it.
    if "targets" in variant:
        known["targets"] = ", ".join(sorted(variant["targets"]))
    if "rank" in variant and "alpha" in variant:
        known["scale"] = scale(variant)
    return known


def scale(variant: dict[str, Any]) -> float:
    """The factor of a method's product of rank r: alpha / r, or alpha / sqrt(r)."""
    rank = variant["rank"]
    return variant["alpha"] / (rank**0.5 if variant.get("rslora") else rank)


def as_text(value: Any) -> str:
    """A value as it is compared and printed."""
    return value if isinstance(value, str) else ENCODER.encode(value)


def remarks(by_method: dict[str, Facts]) -> dict[str, list[str]]:
    """By method, the facts in which it differs from most of the others."""
    keys = dict.fromkeys(key for known in by_method.values() for key in known)
    found: dict[str, list[str]] = {method: [] for method in by_method}
    for key in keys:
        having = {m: tuple(known[key]) for m, known in by_method.items() if key in known}
        usual, _ = Counter(having.values()).most_common(1)[0]
        for method, values in having.items():
            told = " and ".join(values)
            if values != usual:
                found[method].append(f"{key} {told} (others {' and '.join(usual)})")
            elif len(values) > 1:
                found[method].append(f"its runs differ in {key}: {told}")
    return found


def unequal(numbers: dict[str, int], tolerance: float) -> dict[str, list[str]]:
    """By method, whether it trains many more or fewer parameters than the method in the middle."""
    middle = median_low(numbers.values())
    typical = next(method for method, number in numbers.items() if number == middle)
    found: dict[str, list[str]] = {method: [] for method in numbers}
    for method, number in numbers.items():
        ratio = max(number, middle) / max(1, min(number, middle))
        if ratio > tolerance:
            word = "more" if number > middle else "fewer"
            beside = f"{ratio:.3g} times {word} than {typical} ({middle:,})"
            found[method].append(f"{number:,} trained parameters, {beside}")
    return found
