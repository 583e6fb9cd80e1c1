"""Decoding in batches against one source at a time, and against transformers' search; and the loss
of reference texts with each source computed once, against a source for every text.

    python benchmarks/decoding.py RUN [--sources 64] [--rounds 3]

RUN is a finished run of a generation task. Greedy search, and beam search as published for E2E NLG
(10 beams, length penalty 0.9, no 4-gram twice); all ways in turn, as ratios of processor time.
transformers' search gets batches of the same size, and multiplies as PyTorch does by default.
`--only losses` leaves out the searches.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.adapters.saved import Trained, restore
from experiments.data.batches import PromptedTexts
from experiments.data.splits import Split
from experiments.machine.processor import DEFAULT, configure_products, fastest, multiplying
from experiments.models import inference, likelihoods
from experiments.models.decoding import Decoding
from experiments.models.generation import generate
from experiments.tasks.generation import GenerationTask

BATCHES = (8, 32)
SEARCHES = {
    "greedy": {"beams": 1, "no_repeat_ngram": 0},
    "10 beams": {"beams": 10, "no_repeat_ngram": 4, "length_penalty": 0.9},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--sources", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["losses"])
    given = parser.parse_args()
    trained = restore(given.run)
    task, loaded = trained.run.task, trained.loaded
    torch.set_num_threads(1)
    products = fastest(loaded.width) if trained.run.train.precision == "fp32" else DEFAULT
    if not isinstance(task, GenerationTask):
        raise SystemExit(f"Task '{task.name}' generates no texts.")
    split = next(iter(task.load(trained.run.data).score.values()))
    split = split.take(np.arange(given.sources))
    with configure_products(products, 1):
        compare_losses(trained, split, given.rounds)
    if given.only:
        return
    prompts = [task.encode_prompt(loaded.tokenizer, source) for (source,) in split.texts]
    end = task.decoding.end_tokens(loaded.tokenizer)

    def texts(how: Decoding, engine: str = "packed") -> tuple[list[list[int]], float]:
        started = time.process_time()
        with configure_products(DEFAULT if engine == "transformers" else products, 1):
            found = generate(loaded.model.backbone, prompts, how, end, engine)
        return found, time.process_time() - started

    table = Table(box=box.SIMPLE_HEAD)
    columns = ("alone", "transformers")
    heads = [name for other in columns for name in (f"{other}: equal", "times as long")]
    for name in ("search", "in batches of", "ms a text", *heads):
        table.add_column(name, justify="left" if name == "search" else "right")
    for search, settings in SEARCHES.items():
        how = replace(task.decoding, **settings)
        ratios = {(size, other): [] for size in BATCHES for other in columns}
        times: dict[int, list[float]] = {size: [] for size in BATCHES}
        equal = dict.fromkeys(ratios, len(prompts))
        for _ in range(given.rounds):
            alone = texts(replace(how, batch_size=1))
            for size in BATCHES:
                found, taken = texts(replace(how, batch_size=size))
                times[size].append(1000 * taken / len(prompts))
                others = alone, texts(replace(how, batch_size=size), "transformers")
                for name, (other, seconds) in zip(columns, others, strict=True):
                    same = sum(a == b for a, b in zip(other, found, strict=True))
                    equal[size, name] = min(equal[size, name], same)
                    ratios[size, name].append(seconds / taken)
        for size in BATCHES:
            cells = [
                cell
                for name in columns
                for cell in (f"{equal[size, name]}", f"{np.median(ratios[size, name]):.1f}")
            ]
            table.add_row(search, str(size), f"{np.median(times[size]):.1f}", *cells)
    Console().print(table)


def compare_losses(trained: Trained, split: Split, rounds: int) -> None:
    """Print how the two ways to the loss of reference texts compare."""
    run, loaded = trained.run, trained.loaded
    texts = run.task.encode(loaded.tokenizer, split, run.limits.max_length)
    assert isinstance(texts, PromptedTexts)
    ratios, apart = [], 0.0
    with multiplying(loaded.model.backbone.device, run.train.precision):
        for _ in range(rounds):
            found, seconds = [], []
            for compute in (likelihoods.losses, inference.outputs):
                started = time.process_time()
                found.append(compute(loaded.model, texts, run.limits.batch_size).sum(axis=0))
                seconds.append(time.process_time() - started)
            ratios.append(seconds[1] / seconds[0])
            apart = max(apart, abs(found[0][0] / found[1][0] - 1))
    print(
        f"{len(texts)} texts of {len(split)} sources: a source for every text takes "
        f"{np.median(ratios):.2f} times as long ({min(ratios):.2f} to {max(ratios):.2f}); the mean "
        f"losses differ by {apart:.1e} of their value."
    )


if __name__ == "__main__":
    main()
