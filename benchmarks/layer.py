"""One linear layer under every method: time, memory for the backward pass, and error.

    python benchmarks/layer.py [--widths 384 768 1024] [--tokens 512 4096] [--rounds 9]
                               [--variants NAME ...] [--json PATH]

Times are ratios to the frozen linear layer with the gradient of its input: processor time of one
thread, forward and backward, every entry in turn within one process, the median over the rounds of
the ratio within a round. The frozen layer is entered a second time, at the end: where that ratio is
off by more than 5 %, the machine is too busy and no time is shown. Saved is what autograd keeps
beside the weights, the input included, each storage once. The error is the largest of output and
gradients against plain autograd through `merged_weight`, each relative to its norm.

PEFT's column is its layer of the same function, where it has one, with all that it trains.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import common
import peft
import torch
import torch.nn as nn
import torch.nn.functional as F
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor

from experiments.machine.randomness import seed_everything
from experiments.settings.compose import CONF, compose_config
from experiments.settings.config import read
from variants.base import AdapterLayer, Progress, Variant, adapter_layers

STEPS = 4  # of training, so that a layer is not at its start
NOISE = 0.05  # of the frozen layer against itself
SHORTEST = 0.02  # seconds of one timing


@dataclass(frozen=True)
class Row:
    """The measurement of one method at one size."""

    width: int
    tokens: int
    method: str
    ratio: float
    saved: int  # bytes
    error: float
    peft_ratio: float | None
    peft_saved: int | None
    noisy: bool


@dataclass(frozen=True)
class Entry:
    """A layer that takes its turn."""

    layer: nn.Module
    calls: int

    def seconds(self, x: Tensor, dy: Tensor) -> float:
        """Processor time of one forward and backward pass."""
        start = time.process_time()
        for _ in range(self.calls):
            self.layer(x).backward(dy)
        taken = time.process_time() - start
        clear(self.layer, x)
        return taken / self.calls


def clear(layer: nn.Module, x: Tensor) -> None:
    """Drop all gradients."""
    x.grad = None
    layer.zero_grad()


def methods(names: list[str] | None) -> dict[str, Variant]:
    """The methods of conf/variant that have target layers, with their settings there."""
    names = names or sorted(path.stem for path in (CONF / "variant").glob("*.yaml"))
    found = {name: read(compose_config(f"variant={name}")).variant for name in names}
    return {
        name: on_one_layer(variant)
        for name, variant in found.items()
        if "targets" in {field.name for field in fields(variant)}
    }


def on_one_layer(variant: Variant) -> Variant:
    """The method with the one layer as its target, and with no others that it names beside."""
    lists = [field.name for field in fields(variant) if field.type == list[str]]
    return replace(variant, **{name: ["0"] if name == "targets" else [] for name in lists})


def adapted(variant: Variant, width: int) -> nn.Sequential:
    """A linear layer under a method after a short training."""
    seed_everything(0)
    model = nn.Sequential(nn.Linear(width, width))
    variant.adapt(model)
    optimizer = torch.optim.AdamW(variant.param_groups(model, 1e-2, 0.0))
    for step in range(1, STEPS + 1):
        loss = model(torch.randn(8, width)).square().mean() + variant.penalty(model)
        loss.backward()
        variant.after_backward(model, Progress(step, STEPS))
        optimizer.step()
        variant.after_step(model, Progress(step, STEPS))
        optimizer.zero_grad()
    return model


def peer(variant: Variant, model: nn.Module, x: Tensor) -> nn.Module | None:
    """PEFT's layer of the same function, or None if it has none on this base."""
    layer = next(layer for _, layer in adapter_layers(model))
    if not isinstance(layer.base, nn.Linear):
        return None
    try:
        form = variant.to_peft(model)
    except ValueError:  # the method has no form there
        return None
    config: Any = PEFT_TYPE_TO_CONFIG_MAPPING[form.config["peft_type"]]
    theirs = peft.get_peft_model(
        nn.Sequential(deepcopy(layer.base)), config(**form.config, target_modules=["0"])
    )
    prefix = "base_model.model."
    state = {f"{prefix}{n}.{k}": t for n, ts in form.layers.items() for k, t in ts.items()}
    state |= {f"base_model.{name}": tensor for name, tensor in form.shared.items()}
    own = peft.get_peft_model_state_dict(theirs)
    # Where a CUDA kernel of its own is missing, PEFT may make another layer than its config says.
    if any(own[name].shape != state[name].shape for name in own.keys() & state.keys()):
        return None
    peft.set_peft_model_state_dict(theirs, state)
    found = theirs.get_submodule("base_model.model.0")
    with torch.no_grad():
        return found if torch.allclose(found(x), layer(x), rtol=1e-3, atol=1e-3) else None


def saved_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, weights left out."""
    return common.saved_bytes(lambda: layer(x), [*layer.parameters(), *layer.buffers()])


def error(layer: AdapterLayer, x: Tensor, dy: Tensor) -> float:
    """The largest relative error of output and gradients."""
    inputs = [x, *(p for p in layer.parameters() if p.requires_grad)]

    def values(y: Tensor) -> list[Tensor]:
        return [y.detach(), *torch.autograd.grad(y, inputs, dy)]

    exact = values(F.linear(x, layer.merged_weight(), layer.bias))
    pairs = zip(values(layer(x)), exact, strict=True)
    return max(float((mine - right).norm() / right.norm()) for mine, right in pairs)


def ratios(layers: dict[str, nn.Module], x: Tensor, dy: Tensor, rounds: int) -> dict[str, float]:
    """Median time of each layer over that of the first."""
    entries = {}
    for name, layer in layers.items():
        once = Entry(layer, 1)
        once.seconds(x, dy)
        entries[name] = Entry(layer, max(1, round(SHORTEST / once.seconds(x, dy))))
    times = [{n: e.seconds(x, dy) for n, e in entries.items()} for _ in range(rounds)]
    first = next(iter(entries))
    return {name: median(turn[name] / turn[first] for turn in times) for name in entries}


def measure(variants: dict[str, Variant], width: int, tokens: int, rounds: int) -> list[Row]:
    """All methods at one size, and last the frozen layer against itself."""
    x, dy = torch.randn(tokens, width, requires_grad=True), torch.randn(tokens, width)
    models = {name: adapted(variant, width) for name, variant in variants.items()}
    layers = {name: next(adapter_layers(model))[1] for name, model in models.items()}
    peers = {name: peer(variants[name], model, x) for name, model in models.items()}
    frozen = nn.Linear(width, width).requires_grad_(False)
    entries: dict[str, nn.Module] = {"frozen": frozen, **layers}
    entries |= {f"{name} (PEFT)": theirs for name, theirs in peers.items() if theirs is not None}
    found = ratios({**entries, "frozen again": frozen}, x, dy, rounds)
    noisy = abs(found["frozen again"] - 1) > NOISE

    def row(name: str, ratio: float, error: float) -> Row:
        theirs = peers.get(name)
        return Row(
            width, tokens, name, ratio, saved_bytes(entries.get(name, frozen), x), error,
            found.get(f"{name} (PEFT)"), None if theirs is None else saved_bytes(theirs, x), noisy,
        )  # fmt: skip

    rows = [row(name, found[name], error(layer, x, dy)) for name, layer in layers.items()]
    return [*rows, row("frozen again", found["frozen again"], 0.0)]


def shown(rows: list[Row]) -> Table:
    """The table of one size."""
    size = f"{rows[0].width} x {rows[0].width}, {rows[0].tokens} tokens"
    again = f"frozen layer against itself {rows[-1].ratio:.2f}"
    verdict = ": noisy, no times" if rows[-1].noisy else ""
    table = Table(title=size, caption=again + verdict, box=box.SIMPLE)
    for column in ("method", "time", "PEFT", "saved MiB", "PEFT MiB", "error"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows[:-1]:
        times = ("noisy",) * 2 if row.noisy else (f"{row.ratio:.2f}", cell(row.peft_ratio, 1))
        memory = (cell(row.saved, 2**20), cell(row.peft_saved, 2**20))
        table.add_row(row.method, *times, *memory, f"{row.error:.0e}")
    return table


def cell(value: float | None, unit: float) -> str:
    """A number in this unit, or a dash."""
    return "-" if value is None else f"{value / unit:.2f}"


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--widths", type=int, nargs="+", default=[384, 768, 1024])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--variants", nargs="+", help="names in conf/variant; all by default")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def sizes(given: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """Every width with every number of tokens."""
    cells = [(width, tokens) for width in given.widths for tokens in given.tokens]
    yield from track(cells, console=Console(stderr=True), transient=True)


def main() -> None:
    """Measure, print and write."""
    given = arguments()
    torch.set_num_threads(1)
    variants, console, rows = methods(given.variants), Console(), list[Row]()
    before = os.getloadavg()[0]
    for width, tokens in sizes(given):
        found = measure(variants, width, tokens, given.rounds)
        console.print(shown(found))
        rows += found
    machine = {
        "load": [before, os.getloadavg()[0]],
        "cpu": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "peft": peft.__version__,
    }
    console.print("load {:.1f} before, {:.1f} after".format(*machine["load"]))
    if given.json:
        result = {"machine": machine, "rounds": given.rounds, "rows": [asdict(r) for r in rows]}
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
