"""Hold the forecast of a run's peak memory against what it takes, each case in a fresh process.

    python benchmarks/memory_forecast.py [--cases minilm ...] [--steps 2]

MiniLM and SmolLM2 come from their packages, GPT-2 small has random weights. Texts fill the length
that is named. The measure is the most that the process ever held (VmHWM; `getrusage` would give the
parent's too), on a GPU what PyTorch allocated at most.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
import torch

from experiments.data.splits import Data, Split
from experiments.machine.processor import multiplying
from experiments.running import memory
from experiments.running.job import prepare_run
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, build, read
from experiments.training.loop import Stepper, TrainingListener
from experiments.training.measure import read_peak

MIB = 2**20
ROWS = 64


@dataclass(frozen=True)
class Case:
    """One run: a model, a method, texts of one length, and further overrides."""

    model: str
    variant: str
    tokens: int
    batch: int
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The case in one line."""
        return " ".join((self.model, self.variant, f"{self.batch}x{self.tokens}", *self.settings))


BF16, WORDS = "train.precision=bf16", "task=e2e"
CASES = [
    Case("minilm", "lora", 128, 32),
    Case("minilm", "lora", 32, 32),
    Case("minilm", "full", 128, 32),
    Case("minilm", "lora", 128, 32, (BF16,)),
    Case("minilm", "lora", 256, 32, ("compute.engine=transformers",)),
    Case("gpt2", "lora", 32, 8),
    Case("gpt2", "lora", 256, 8),
    Case("gpt2", "full", 128, 8),
    Case("gpt2", "lora", 256, 8, (BF16,)),
    Case("gpt2", "lora", 256, 8, (WORDS,)),
    Case("smollm2", "lora", 64, 4, (WORDS,)),
    Case("smollm2", "lora", 256, 4, (WORDS,)),
    Case("smollm2", "dora", 256, 4, (WORDS,)),
    Case("smollm2", "full", 128, 4, (WORDS,)),
    Case("smollm2", "lora", 256, 4, (BF16, WORDS)),
    Case("smollm2", "lora", 256, 4, ("compute.checkpointing=true", WORDS)),
    Case("smollm2", "lora", 256, 4, ("compute.recompute_mlp=true", WORDS)),
    Case("smollm2", "lora", 128, 8),
]  # fmt: skip


def run_of(case: Case, folder: str) -> Run:
    """The run of a case; a model of random weights lies in the folder."""
    task = [] if WORDS in case.settings else ["task=sst2"]
    train = [] if WORDS in case.settings else ["train=glue"]
    random = [f"model.path={folder}"] if case.model == "gpt2" else []
    return read(compose_config(
        *task, *train, f"model={case.model}", f"variant={case.variant}", *case.settings, *random,
        f"train.max_length={case.tokens}", f"train.batch_size={case.batch}", "train.examples=null",
        "data=mini", f"data.train={ROWS}", "tracker.mode=disabled", "compute.device=auto",
    ))  # fmt: skip


def data_of(run: Run, tokens: int) -> Data:
    """Rows whose texts fill the length; a prompt to continue stays short."""
    data = run.task.load(run.data)
    if run.task.num_outputs:
        return replace(data, train=common.stretched(data.train, tokens))
    rows = data.train.texts[:ROWS]
    texts = [(source, " ".join([target] * tokens)) for source, target in rows]
    train = Split(np.arange(len(texts)), texts, None, data.train.origin, data.train.sha256)
    return replace(data, train=train)


def measured(case: Case, folder: str, steps: int) -> dict[str, Any]:
    """The forecast before anything is loaded, and the peak behind a few steps."""
    run = run_of(case, folder)
    data, device = data_of(run, case.tokens), run.compute.pick_device()
    before = memory.forecast(run, memory.Load(case.tokens * case.batch, case.tokens))
    job = prepare_run(run, data)
    stepper = Stepper(job.loaded.model, run.variant, job.batches, job.plan)
    with multiplying(device, run.train.precision):
        for number in range(1, steps + 1):
            stepper.step(number, TrainingListener())
    if device.type == "cuda":
        before = replace(before, process=0.0)
    peak = read_peak(device)
    parts = {name: value / MIB for name, value in vars(before).items() if name != "complete"}
    return {"case": case.name, "parts": parts, "forecast": before.total / MIB, "peak": peak}


def report(found: list[dict[str, Any]]) -> None:
    """Print forecast beside measure, and the parts of the forecast."""
    names = ["process", "weights", "training", "activations", "output"]
    rows = [
        [
            one["case"], f"{one['forecast']:,.0f}", f"{one['peak']:,.0f}",
            f"{100 * (one['forecast'] / one['peak'] - 1):+.0f} %",
            *(f"{one['parts'][name]:,.0f}" for name in names),
        ]
        for one in found
    ]  # fmt: skip
    common.table("Peak memory, MiB", ["case", "forecast", "measured", "off", *names], rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=[""], help="cases with one of these in them")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--folder", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        torch.set_num_threads(1)
        print(json.dumps(measured(CASES[given.one], given.folder, given.steps)))
        return
    found = []
    with TemporaryDirectory() as folder:
        tokenizer = build(
            "model", compose_config("model=smollm2").model
        ).folder()  # texts need an end
        common.save_random("gpt2", Path(folder), str(tokenizer))
        for number, case in enumerate(CASES):
            if any(word in case.name for word in given.cases):
                command = [sys.executable, __file__, "--one", str(number), "--folder", folder]
                command += ["--steps", str(given.steps)]
                done = subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True)
                found.append(json.loads(done.stdout.splitlines()[-1]))
                print(f"{case.name}: {found[-1]['forecast']:,.0f} / {found[-1]['peak']:,.0f}")
    report(found)
    common.write(given.json, {"cases": found})


if __name__ == "__main__":
    main()
