"""A page for each method, from its class, its YAML, published studies and `methods.yaml`."""

import contextlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn
import yaml

from analysis import load_results
from experiments.explain.page import cell
from experiments.settings.schema import read_schema
from variants import adapt, summary
from variants.base import Variant
from variants.defaults import FOLDER, import_class, list_methods, read_defaults

__all__ = ["list_methods", "write_page"]
ROOT = Path(__file__).parents[2]
FACTS = yaml.safe_load((ROOT / "docs" / "tools" / "methods.yaml").read_text(encoding="utf-8"))
STUDY = ROOT / "results" / "minilm_glue"
ARXIV = re.compile(r"arXiv:(\d{4}\.\d{5})")
VALUE = re.compile(r"^(\w+):\s*(.*?)\s*(?:#\s*(.*))?$")
HOOKS = {
    "prepare": "It looks at training data, or trains briefly, before the run.",
    "penalty": "It adds a term to the loss.",
    "after_backward": "It reads or rewrites gradients before each step.",
    "after_step": "It changes the model after each step.",
}
COLUMNS = {
    "trained": ("trained parameters", "{:,.0f}"),
    "adapter_bytes": ("adapter, KiB", "{:,.0f}"),
    "train_processor_seconds": ("processor in training, s", "{:.0f}"),
    "train_peak_mib": ("peak memory, MiB", "{:,.0f}"),
    "score": ("accuracy", "{:.1f}"),
}


class OneBlock(nn.Module):
    """A query and a value matrix of the size that RoBERTa-base has."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(768, 768), nn.Linear(768, 768)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.value(self.query(x))


def write_page(name: str) -> str:
    """The page on the method `name`, in Markdown, as if it lay in docs/methods/."""
    target, _ = read_defaults(name)
    facts = FACTS.get(name, {})  # a method that was just added may have none
    schema = read_schema(target)
    assert schema is not None  # every method has settings
    equation = f"$$\n{facts['equation']}\n$$\n\n" if facts else ""
    parts = [
        f"# {facts.get('name', name)}\n\n{schema.explanation}",
        f"{equation}{write_docstring(target)}",
        f"## Use it\n\n{write_commands(name)}",
        f"## Settings\n\n{write_settings(name, target)}",
        f"## Cost and properties\n\n{write_cost(name, import_class(target))}",
        write_measured(name),
        write_differences(facts.get("differences", [])),
        f"## Sources\n\n{write_sources(name, target)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_docstring(target: str) -> str:
    """Quote the text at the head of a method's file, as a block: its signs are code's."""
    text = inspect.getdoc(inspect.getmodule(import_class(target))) or ""
    block = f'<div class="wrap" markdown>\n\n```text\n{text}\n```\n\n</div>'
    return f"The file of the method begins with this text:\n\n{block}"


def write_commands(name: str) -> str:
    """How a method is run, and put into a module."""
    lines = [f"```bash\npython run.py variant={name} task=sst2\n```"]
    if "targets" in read_defaults(name)[1]:
        use = (
            f'from variants import adapt, summary\n\nadapt(model, "{name}")\nprint(summary(model))'
        )
        lines.append(f"```python\n{use}\n```")
    return "\n\n".join(lines)


def write_settings(name: str, target: str) -> str:
    """The settings with their values, what they mean, and where a value comes from."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    values = {m[1]: m for line in text.splitlines() if (m := VALUE.match(line))}
    schema = read_schema(target)
    assert schema is not None
    rows = []
    for setting in schema.settings.values():
        found = values.get(setting.name)
        value, source = (found[2], found[3] or "") if found else (str(setting.default), "")
        row = (f"`variant.{setting.name}`", f"`{value}`", cell(setting.explanation), cell(source))
        rows.append(f"| {' | '.join(row)} |")
    head = "| setting | value | meaning | where the value comes from |\n|---|---|---|---|"
    return "\n".join([head, *rows])


def write_cost(name: str, cls: type[Variant]) -> str:
    """List the numbers that a method trains on two matrices, and the needs of its training."""
    return "\n".join(f"- {line}" for line in list_properties(name, cls))


def list_properties(name: str, cls: type[Variant]) -> Iterator[str]:
    """A sentence for each property."""
    trained = count_trained(name)
    if trained is not None:
        ratio = trained / (count_trained("lora") or 1)
        yield (
            f"On a query and a value matrix of 768 x 768, with the values above, **{trained:,}** "
            f"numbers train: {ratio:.2g} times as many as LoRA at rank 8."
        )
    exact = cls.starts_as_pretrained
    yield f"The start {'is exactly' if exact else 'is not'} the pretrained model."
    yield from (text for hook, text in HOOKS.items() if overrides(cls, hook))
    if overrides(cls, "to_peft"):
        yield "`python -m experiments.adapters export` writes it in PEFT's format."
    if trained is not None:
        yield "It merges into plain linear layers: `python -m experiments.adapters merge`."
    if cls.any_form and "any_form" in vars(cls):
        yield "It also adapts convolutions and embeddings."
    if cls.sized_by_rank:
        yield "`study.match` can choose its rank so that it trains as much as another method."


def overrides(cls: type[Variant], name: str) -> bool:
    """Return whether a method has a hook of its own."""
    return getattr(cls, name) is not getattr(Variant, name)


@cache
def count_trained(name: str) -> int | None:
    """How many numbers a method trains on `OneBlock`; None if it has no targets."""
    settings = read_defaults(name)[1]
    if "targets" not in settings:
        return None
    model, extra = OneBlock(), {"feedforward": []} if "feedforward" in settings else {}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapt(model, name, targets=["query", "value"], **extra)
    return summary(model).trained


@cache
def load_study() -> Any:
    """The final runs of the published study on SST-2."""
    with contextlib.redirect_stderr(None):
        runs = load_results(STUDY)
    return runs[(runs["stage"] == "test") & (runs["task"] == "local/sst2")]


def write_measured(name: str) -> str:
    """Tabulate a method's costs in the published study beside LoRA's; nothing if it has none."""
    runs = load_study()
    if name not in set(runs["variant"]):
        return ""
    scaled = runs.assign(score=100 * runs["score"], adapter_bytes=runs["adapter_bytes"] / 1024)
    means = scaled.groupby("variant")[list(COLUMNS)].mean()
    rows = []
    for one in dict.fromkeys([name, "lora", "full"]):
        shown = [form.format(means.loc[one, c]) for c, (_, form) in COLUMNS.items()]
        rows.append(f"| {FACTS.get(one, {}).get('name', one)} | {' | '.join(shown)} |")
    heads = " | ".join(title for title, _ in COLUMNS.values())
    return "\n".join([
        "## Measured here\n",
        "Means over eight seeds on SST-2, at the best learning rate of each method, with MiniLM on "
        "2,000 rows (`results/minilm_glue`). [Published results](../published-results.md) says "
        "which differences are significant.\n",
        f"| method | {heads} |\n|---|{'--:|' * len(COLUMNS)}",
        *rows,
    ])  # fmt: skip


def write_differences(lines: list[str]) -> str:
    """List the known differences between the paper, other code and this project."""
    if not lines:
        return ""
    listed = "\n".join(f"- {line}" for line in lines)
    return f"## Differences between the paper, other libraries and this project\n\n{listed}"


def write_sources(name: str, target: str) -> str:
    """The papers and the files."""
    module = target.rpartition(".")[0]
    text = inspect.getdoc(inspect.getmodule(import_class(target))) or ""
    ids = dict.fromkeys(ARXIV.findall(text))
    lines = [f"- Paper: [arXiv:{number}](https://arxiv.org/abs/{number})" for number in ids]
    path = module.replace(".", "/") + ".py"
    lines.append(f"- Code: [{path}](../../{path})")
    lines.append(f"- Values: [conf/variant/{name}.yaml](../../conf/variant/{name}.yaml)")
    return "\n".join([*lines, "- [All methods in one table](../methods.md)"])
