"""Decoding in batches against one source at a time: the same texts, and how much faster.

    python benchmarks/decoding.py RUN [--sources 64] [--rounds 3]

RUN is a finished run of a generation task. Greedy search, and beam search as published for E2E NLG
(10 beams, length penalty 0.9, no 4-gram twice); both ways in turn, as ratios of processor time.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.adapters.saved import restore
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
    given = parser.parse_args()
    trained = restore(given.run)
    task, loaded = trained.run.task, trained.loaded
    if not isinstance(task, GenerationTask):
        raise SystemExit(f"Task '{task.name}' generates no texts.")
    split = next(iter(task.load(trained.run.data).score.values()))
    prompts = [
        task.encode_prompt(loaded.tokenizer, source) for (source,) in split.texts[: given.sources]
    ]
    end = task.decoding.end_tokens(loaded.tokenizer)

    def texts(how: Decoding) -> tuple[list[list[int]], float]:
        started = time.process_time()
        found = generate(loaded.model.backbone, prompts, how, end)
        return found, time.process_time() - started

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("search", "in batches of", "equal texts", "alone / batch", "ms a text"):
        table.add_column(name, justify="left" if name == "search" else "right")
    for search, settings in SEARCHES.items():
        how = replace(task.decoding, **settings)
        ratios: dict[int, list[float]] = {size: [] for size in BATCHES}
        times: dict[int, list[float]] = {size: [] for size in BATCHES}
        equal = dict.fromkeys(BATCHES, len(prompts))
        for _ in range(given.rounds):
            alone, seconds = texts(replace(how, batch_size=1))
            for size in BATCHES:
                found, taken = texts(replace(how, batch_size=size))
                same = sum(one == other for one, other in zip(alone, found, strict=True))
                equal[size] = min(equal[size], same)
                ratios[size].append(seconds / taken)
                times[size].append(1000 * taken / len(prompts))
        for size in BATCHES:
            table.add_row(
                search,
                str(size),
                f"{equal[size]} of {len(prompts)}",
                f"{np.median(ratios[size]):.1f}",
                f"{np.median(times[size]):.1f}",
            )
    Console().print(table)


if __name__ == "__main__":
    main()
