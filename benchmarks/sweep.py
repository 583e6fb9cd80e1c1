"""A small study from start to end: seconds of wall clock, ours against the peers', and the scores.

    python benchmarks/sweep.py --data GLUE [--seeds 0 1] [--examples 512] [--bf16] [--json PATH]

Ours are processes of run.py with one thread each, `--workers` at once; a peer trains and evaluates
its cells one after the other in one process with `--threads` threads, which imports and reads once.
Loading, tokenising and evaluating are in the time of all of them; A and A' are the Trainer's own
`train` and `predict`. A ratio counts only where the scores agree within the noise of seeds.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import numpy as np
import torch
from peers import PEERS, Collate, Loop, pad_of, rows_of, trainer_of
from torch import Tensor

from experiments.models.loading import read_tokenizer
from experiments.running.job import FIXED, subset
from experiments.settings.config import Run
from experiments.training.loop import TrainingPlan

ROOT = Path(__file__).parents[1]
AGAIN = "again"  # the first of ours once more
Rows = list[dict[str, Tensor]]
Cell = tuple[str, str, int]  # variant, task, seed
Scores = dict[str, list[float]]  # by task, seed by seed


def settings(given: argparse.Namespace) -> list[str]:
    """How long every cell trains, on batches of one size."""
    return [f"train.examples={given.examples}", f"train.epochs={given.epochs}"]


def processes(given: argparse.Namespace, variants: list[str], own: list[str], out: Path) -> Scores:
    """Our cells by run.py, some at once; returns their scores on the development sets."""
    cells: list[Cell] = list(product(variants, given.tasks, given.seeds))

    def work(cell: Cell) -> float:
        variant, task, seed = cell
        folder = out / f"{variant}-{task}-{seed}"
        fixed = [*settings(given), f"variant={variant}"]
        overrides = common.overrides(given, task, fixed, *own, f"seed={seed}")
        command = [sys.executable, str(ROOT / "run.py"), *overrides, f"hydra.run.dir={folder}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))["primary"]["score"]

    with ThreadPoolExecutor(given.workers) as pool:
        scores = list(pool.map(work, cells))
    return by_task(cells, scores)


def by_task(cells: list[Cell], scores: list[float]) -> Scores:
    """Scores by task, seed by seed and variant by variant."""
    tasks = {task: None for _, task, _ in cells}
    return {
        name: [score for (_, task, _), score in zip(cells, scores, strict=True) if task == name]
        for name in tasks
    }


def of_peer(given: argparse.Namespace, name: str) -> Scores:
    """A peer's cells in a process of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    # With --random the parent has made the model, and says where.
    model = ["--set", *given.set] if given.set else []
    command = [sys.executable, __file__, *sys.argv[1:], "--one", name, *model]
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, encoding="utf-8", check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def peer_cells(given: argparse.Namespace, out: Path) -> Scores:
    """Do the work of a peer's process: train all its cells, return their scores."""
    torch.set_num_threads(given.threads)
    cells: list[Cell] = list(product(["lora"], given.tasks, given.seeds))
    runs = [
        common.composed_run(given, task, [*settings(given), "variant=lora"], f"seed={seed}")
        for _, task, seed in cells
    ]
    return by_task(cells, [peer_cell(given.one, run, out) for run in runs])


def peer_cell(name: str, run: Run, out: Path) -> float:
    """One run of a peer from reading its data to its score."""
    peer, train, data = PEERS[name], run.train, run.task.load(run.data)
    tokenizer = read_tokenizer(run.model.folder(), run.model.config().vocab_size)
    split = subset(data.train, train.examples, FIXED)
    rows = rows_of(run.task.encode(tokenizer, split, train.max_length))
    steps = train.total_steps(-(-len(rows) // train.batch_size))
    plan = TrainingPlan(train, run.variant.lr * run.model.lr_scale, steps)
    torch.manual_seed(run.seed)
    collate = Collate(pad_of(tokenizer), peer.width)
    loop = Loop(run, plan, collate.pad, peer.autocast)
    scored = next(iter(data.score.values()))
    asked = rows_of(run.task.encode(tokenizer, scored, train.max_length))
    if peer.trainer:
        outputs = by_trainer(loop, collate, rows, asked, run.seed, out)
    else:
        outputs = by_loop(loop, collate, rows, asked)
    return run.task.score(labels_of(scored.labels), outputs)[run.task.primary]


def labels_of(labels: np.ndarray | None) -> np.ndarray:
    """The labels of a split that is scored."""
    if labels is None:
        raise ValueError("A split without labels cannot be scored.")
    return labels


def by_trainer(
    loop: Loop, collate: Collate, rows: Rows, asked: Rows, seed: int, out: Path
) -> np.ndarray:
    """Train and predict as the Trainer does."""
    trainer = trainer_of(loop, collate, out, train_dataset=rows, seed=seed)
    trainer.train()
    return np.asarray(trainer.predict(asked).predictions)  # pyright: ignore[reportArgumentType]


def by_loop(loop: Loop, collate: Collate, rows: Rows, asked: Rows) -> np.ndarray:
    """Train and predict in a plain loop; texts to predict from are sorted by length."""
    size, step = loop.plan.train.batch_size, 0
    while step < loop.plan.total:
        order = torch.randperm(len(rows)).tolist()
        for start in range(0, len(rows), size)[: loop.plan.total - step]:
            loop.step(collate([rows[i] for i in order[start : start + size]]))
            step += 1
    return predicted(loop, collate, asked)


@torch.no_grad()
def predicted(loop: Loop, collate: Collate, asked: Rows) -> np.ndarray:
    """Outputs in the order of the texts."""
    loop.model.eval()
    order = sorted(range(len(asked)), key=lambda i: len(asked[i]["input_ids"]))
    size = loop.compute.eval_batch_size
    parts = [order[i : i + size] for i in range(0, len(order), size)]
    found = torch.cat([loop.forward(collate([asked[i] for i in p])).logits.cpu() for p in parts])
    return found.float()[torch.tensor(order).argsort()].numpy()


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds, scores and loads of every configuration, the first of ours once more at the end."""
    forms = common.forms(given)
    first = next(iter(forms))
    found = {}
    for name in [*forms, *common.peers(given), AGAIN]:
        before, started = common.load(), time.perf_counter()
        if name in PEERS:
            scores = of_peer(given, name)
        else:
            with TemporaryDirectory() as out:
                own = forms[first if name == AGAIN else name]
                scores = processes(given, given.variants, own, Path(out))
        seconds = time.perf_counter() - started
        cells = sum(map(len, scores.values()))
        found[name] = {
            "seconds": seconds, "each": seconds / cells, "scores": scores,
            "load": [before, common.load()],
        }  # fmt: skip
    again = found.pop(AGAIN)
    return {
        "bases": list(forms), "a_over_a": again["each"] / found[first]["each"],
        "machine": common.machine(torch.device("cpu")), "found": found,
    }  # fmt: skip


def report(given: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Print the study."""
    found, rows = figures["found"], []
    for name, one in found.items():
        faster = [f"{one['each'] / found[base]['each']:.2f}" for base in figures["bases"]]
        scores = [" ".join(f"{s:.3f}" for s in one["scores"][task]) for task in given.tasks]
        rows.append([
            name, f"{one['seconds']:.1f}", f"{one['each']:.1f}", *faster, *scores,
            f"{one['load'][0]} {one['load'][1]}",
        ])  # fmt: skip
    columns = ["study", "s", "s a cell", *(f"{base} is faster" for base in figures["bases"])]
    title = f"{given.examples} examples, {given.epochs:g} epochs, seeds {given.seeds}"
    common.table(title, [*columns, *given.tasks, "load"], rows)
    print(common.claim(figures["a_over_a"]))
    print("Ratios count only where the scores agree within the noise of seeds.")
    common.footnote(given)


def main() -> None:
    parser = common.arguments(__doc__)
    parser.add_argument("--variants", nargs="+", default=["lora"], help="of ours; peers run LoRA")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--examples", type=int, default=512)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=2, help="processes of ours at once")
    parser.add_argument("--threads", type=int, default=2, help="of a peer")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        with TemporaryDirectory() as out:
            print(json.dumps(peer_cells(given, Path(out))))
        return
    with common.model_of(given):
        figures = measured(given)
    report(given, figures)
    common.write(given.json, figures)


if __name__ == "__main__":
    main()
