"""Measure the memory of training beside the loaded model: ours and peers', each in a fresh process.

    python benchmarks/memory.py --data GLUE [--bf16] [--ours "train.lean=true"] [--padded T]

`saved` is the most that autograd holds for the backward pass: storages that are neither parameters
nor buffers, each counted once, as the mean over the first steps. `growth` is the peak of the
resident set above what it was before the first step (on a GPU, of what PyTorch has allocated), over
steps that all have other shapes; `after` is what remains of it behind the last one.
"""

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import common
import torch
import torch.nn as nn
from common import Ours
from peers import Stepping
from torch import Tensor

from experiments.training.measure import MIB, read_peak, reset_peak

COUNTED = 5  # steps whose saved tensors are counted


@dataclass
class Saved:
    """Counts the bytes that autograd holds, as they come and go."""

    known: set[int]  # storages that are there anyway
    holders: Counter[int] = field(default_factory=Counter)
    sizes: dict[int, int] = field(default_factory=dict)
    live: int = 0
    peak: int = 0

    def pack(self, tensor: Tensor) -> "Held":
        """A tensor is saved."""
        held = Held(tensor)
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        if place and place not in self.known:
            if not self.holders[place]:
                self.sizes[place] = storage.nbytes()
                self.live += storage.nbytes()
                self.peak = max(self.peak, self.live)
            self.holders[place] += 1
            weakref.finalize(held, self.drop, place)
        return held

    def drop(self, place: int) -> None:
        """The backward pass needs one of the storage's tensors no more."""
        self.holders[place] -= 1
        if not self.holders[place]:
            self.live -= self.sizes[place]


class Held:
    """A saved tensor, in a place of its own so that its end is seen."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


@contextmanager
def counting(model: nn.Module) -> Iterator[Saved]:
    """Count what is saved for the backward pass."""
    own = [*model.parameters(), *model.buffers()]
    saved = Saved({tensor.untyped_storage().data_ptr() for tensor in own})
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        yield saved


def engine(given: argparse.Namespace, out: Path) -> Ours | Stepping:
    """Return the engine that `--one` names, alone in memory."""
    name, forms = given.one, common.forms(given)
    run = common.step_run(given, given.tasks[0], "variant=lora", *forms.get(name, []))
    mine = common.ours(name, run, common.data_of(run, given.padded))
    if name in forms:
        return mine
    bare = replace(mine.job, loaded=replace(mine.job.loaded, model=nn.Identity()))
    del mine
    return Stepping(name, bare, out)


def resident(device: torch.device) -> float:
    """MiB held now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / MIB
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return int(kib) / 1024


def settle(model: nn.Module) -> None:
    """Make the model resident as a whole, and give back what building it has freed.

    Weights are mapped from their file, and are read at first use; what is free in the process would
    hide the growth that is to be seen.
    """
    for parameter in model.parameters():
        parameter.detach().any()
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


def measured(given: argparse.Namespace, out: Path) -> dict[str, Any]:
    """The figures of one configuration in MiB."""
    found = engine(given, out)
    device = found.job.device
    settle(found.modules)
    before = resident(device)
    if not reset_peak(device):
        raise ValueError("This system does not let a process reset its peak of memory.")
    for number in range(1, given.steps + 1):
        found.step(found.ready(number))
    growth = read_peak(device) - before
    gc.collect()
    after = resident(device) - before
    saved = []
    for number in range(1, COUNTED + 1):
        ready = found.ready(number)
        with counting(found.modules) as counted:
            found.step(ready)
        saved.append(counted.peak / MIB)
    return {
        "saved": mean(saved), "growth": growth, "after": after, "model": before,
        "machine": common.machine(device),
    }  # fmt: skip


def run_configuration(arguments: list[str], name: str, task: str) -> dict[str, Any]:
    """The figures of one configuration from a process of its own."""
    command = [sys.executable, __file__, *arguments, "--one", name, "--tasks", task]
    done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compared(given: argparse.Namespace, task: str) -> dict[str, Any]:
    """All configurations of one task, the first one once more at the end."""
    forms, load = common.forms(given), common.load()
    names = [*forms, *common.peers(given)]
    found = {name: run_configuration(sys.argv[1:], name, task) for name in names}
    again = run_configuration(sys.argv[1:], names[0], task)
    same = max(
        (again[key] / found[names[0]][key] for key in ("saved", "growth")),
        key=lambda ratio: abs(ratio - 1),
    )
    return {"bases": list(forms), "a_over_a": same, "load": [load, common.load()], "found": found}


def report(task: str, figures: dict[str, Any], given: argparse.Namespace) -> None:
    """Print one task's figures."""
    found, bases = figures["found"], figures["bases"]
    rows = []
    for name, one in found.items():
        less = [
            f"{one[key] / found[base][key]:.2f}" for base in bases for key in ("saved", "growth")
        ]
        rows.append([name, *(f"{one[k]:.1f}" for k in ("saved", "growth", "after")), *less])
    columns = ["MiB", "saved", "growth", "after"]
    columns += [f"{key} / {base}" for base in bases for key in ("saved", "growth")]
    shape = "real lengths" if given.padded is None else f"texts of {given.padded} tokens"
    common.table(f"{task}, {shape}, {given.steps} steps", columns, rows)
    print(f"{common.claim(figures['a_over_a'])} Load {figures['load']}.")


def main() -> None:
    parser = common.step_arguments(__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.one:
        with common.model_of(given), TemporaryDirectory() as out:
            print(json.dumps(measured(given, Path(out))))
        return
    figures = {}
    for task in given.tasks:
        figures[task] = compared(given, task)
        report(task, figures[task], given)
    common.footnote(given)
    common.write(given.json, figures)


if __name__ == "__main__":
    main()
