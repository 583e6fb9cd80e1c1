"""One run in several processes: the same numbers, one result, exact resume, and one end for all."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import QUICK, ROOT
from safetensors.torch import load_file, save_file

from experiments.data.batches import Batches
from experiments.machine.distributed import (
    ALONE,
    World,
    init_process_group,
    local_device,
    read_world,
    shutdown,
)
from experiments.results.result import Diverged
from experiments.running.job import PreparedRun, prepare_run
from experiments.running.recorder import Recorder
from experiments.running.runner import execute, prepare, train
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read

# 33 examples in batches of 16: the last one of an epoch leaves nothing for a second process.
SMALL = (*QUICK, "train.examples=33", "train.batch_size=16", "record.log_every=1", "train.epochs=2")
KINDS = ("lora", "adalora", "full", "lora_drop", "eva", "lora_pro", "dylora")
STOP = 4  # the step at which what is to break does


def described(variant: str, *more: str) -> Run:
    return read(compose_config(f"variant={variant}", *SMALL, *more))


def runs() -> dict[str, Run]:
    """Runs without dropout by method, and one in two parts with a penalty."""
    found = {variant: described(variant, "model.dropout=0.0") for variant in KINDS}
    parts = replace(found["adalora"].train, accumulate=2)
    return found | {"adalora in parts": replace(found["adalora"], train=parts)}


class Together(Batches):
    """All that two processes would do, done by one."""

    def split_by_process(self, step: int) -> list[list[np.ndarray]]:
        both = Batches.split_by_process(replace(self, world=World(0, 2)), step)
        return [[rows for share in both for rows in share]]


def learn(run: Run, folder: Path, together: bool = False) -> None:
    """Train, and leave what was learned in a file for each process.

    In float64, as Adam makes steps of gradients that are rounding and nothing else, of which
    float32 has some in every model.
    """
    job = prepare_run(run, run.task.load(run.data))
    job.loaded.model.double()
    if together:
        job = replace(job, batches=Together(**vars(job.batches)))
    recorder = Recorder(job, folder, {}, listeners=[])
    prepare(job, recorder)
    train(job, recorder)
    state = {**run.variant.learned_state(job.loaded.model.backbone), **head(job)}
    copies = {name: tensor.detach().clone() for name, tensor in state.items()}
    save_file(copies, folder / f"state-{job.batches.world.rank}.safetensors")


def head(job: PreparedRun) -> dict[str, torch.Tensor]:
    return {f"head.{name}": t for name, t in job.loaded.model.head.state_dict().items()}


def learn_all(folder: Path, wanted: dict[str, Run]) -> None:
    for name, run in wanted.items():
        learn(run, folder / name)


def breaks(how: Callable[[int], None], run: Run, folder: Path) -> None:
    """A run in which something happens to the processes after a step."""
    original = Recorder.after

    def after(self: Recorder, step: int, *rest: Any) -> None:
        original(self, step, *rest)
        if step == STOP:
            how(self.job.batches.world.rank)

    Recorder.after = after
    execute(run, folder)


def killed(rank: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def the_second_fails(rank: int) -> None:
    if rank == 1:
        raise RuntimeError("the second process has failed")


def drifts(run: Run, folder: Path) -> None:
    job = prepare_run(run, run.task.load(run.data))
    with torch.no_grad():
        next(job.loaded.model.head.parameters()).add_(1e-3 * job.batches.world.rank)
    with pytest.raises(AssertionError, match="drifted apart"):
        train(job, Recorder(job, folder, {}, listeners=[]))


def called(work: Callable[..., None], rank: int, port: int, *args: Any) -> None:
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TOKENIZERS_PARALLELISM": "false",
    }  # fmt: skip
    work(*args)
    shutdown()


def in_two(work: Callable[..., None], *args: Any) -> list[int | None]:
    """The exit codes of two processes that do this as one run."""
    # As torchrun starts them, without the seconds that importing takes each of them.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.running.runner", "experiments.api"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = [context.Process(target=called, args=(work, r, port, *args)) for r in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=120)
    return [process.exitcode for process in both]


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run by two processes, by one that does what two would, and by one."""
    folder, wanted = tmp_path_factory.mktemp("learned"), runs()
    for name in wanted:
        for kind in ("two", "together", "one"):
            (folder / kind / name).mkdir(parents=True)
    assert in_two(learn_all, folder / "two", wanted) == [0, 0]
    for name, run in wanted.items():
        learn(run, folder / "together" / name, together=True)
        learn(run, folder / "one" / name)
    return folder


def history(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", KINDS)
def test_two_processes_learn_what_one_learns_from_their_parts_bit_for_bit(
    learned: Path, name: str
) -> None:
    ours = load_file(learned / "two" / name / "state-0.safetensors")
    theirs = load_file(learned / "together" / name / "state-0.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    # The metric is that of all processes, and so is the loss.
    assert history(learned / "two" / name) == history(learned / "together" / name)


@pytest.mark.parametrize("name", [*KINDS, "adalora in parts"])
def test_two_processes_learn_what_one_learns_but_for_rounding(learned: Path, name: str) -> None:
    ours = load_file(learned / "two" / name / "state-0.safetensors")
    theirs = load_file(learned / "one" / name / "state-0.safetensors")
    for key, tensor in theirs.items():
        torch.testing.assert_close(ours[key], tensor, rtol=1e-7, atol=1e-9)
    losses = [[line["loss"] for line in history(learned / kind / name)] for kind in ("two", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)


@pytest.mark.parametrize("name", [*KINDS, "adalora in parts"])
def test_all_processes_hold_the_same_model(learned: Path, name: str) -> None:
    first, second = (load_file(learned / "two" / name / f"state-{r}.safetensors") for r in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_models_that_drift_apart_are_noticed(tmp_path: Path) -> None:
    assert in_two(drifts, described("lora"), tmp_path) == [0, 0]


def test_a_process_that_fails_ends_the_other(tmp_path: Path) -> None:
    assert in_two(breaks, the_second_fails, described("lora"), tmp_path) == [1, 1]
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_ends_as_the_unbroken_and_there_is_one_result(
    tmp_path: Path,
) -> None:
    """With dropout, so that each process goes on with its own masks; resumed by the command."""
    settings = ("variant=lora", *SMALL, "record.checkpoint_every=0")
    run = read(compose_config(*settings))
    broken, unbroken = tmp_path / "broken", tmp_path / "unbroken"
    assert in_two(execute, run, unbroken) == [0, 0]
    assert in_two(breaks, killed, run, broken) == [-signal.SIGKILL] * 2
    with pytest.raises(ValueError, match="unfinished run of 2 processes, and now there are 1"):
        execute(run, broken)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        [*torchrun, "run.py", *settings, f"hydra.run.dir={broken}"],
        cwd=ROOT, env=environment, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert said.count(": accuracy ") == 1  # the line of the result
    assert (broken / ".hydra").is_dir() and (broken / "run.log").is_file()
    for file in ("adapter.safetensors", "head.safetensors"):
        left, right = load_file(unbroken / file), load_file(broken / file)
        assert all(torch.equal(left[name], right[name]) for name in left)
    assert history(unbroken) == history(broken)
    results = [json.loads((f / "result.json").read_text()) for f in (unbroken, broken)]
    assert results[0]["scores"] == results[1]["scores"]
    assert [result["provenance"]["processes"] for result in results] == [2, 2]
    assert [result["cost"]["restarts"] for result in results] == [0, 1]
    assert results[0]["cost"]["steps"]["tokens"] == results[1]["cost"]["steps"]["tokens"]
    assert not (broken / "checkpoint.safetensors").exists()


def diverges(run: Run, folder: Path) -> None:
    with pytest.raises(Diverged, match="It is recorded in"):
        execute(run, folder)


def test_a_divergence_is_one_for_all(tmp_path: Path) -> None:
    assert in_two(diverges, described("lora", "train.divergence_ratio=1e-3"), tmp_path) == [0, 0]
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "diverged"


def test_shares_are_the_batch_and_of_like_size() -> None:
    job = prepare_run(described("lora"), described("lora").task.load(described("lora").data))
    for size in (1, 2, 3, 20):
        batches = replace(job.batches, world=World(0, size), accumulate=2)
        shares = batches.split_by_process(1)
        assert len(shares) == size
        rows = np.concatenate([rows for share in shares for rows in share])
        assert np.array_equal(np.sort(rows), np.sort(batches.rows(1)))
        counts = [sum(map(len, share)) for share in shares]
        assert max(counts) - min(counts) <= 1
    assert [
        len(share) for share in replace(job.batches, world=World(0, 2)).split_by_process(3)
    ] == [1, 0]


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert read_world() == init_process_group(torch.device("cpu")) == ALONE
    assert not torch.distributed.is_initialized()
    assert ALONE.share("value") == "value" and ALONE.gather("value") == ["value"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE is set and RANK is not"):
        read_world()


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert local_device(torch.device("cuda")) == torch.device("cuda:1")
    assert local_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="one GPU for 8 processes"):
        local_device(torch.device("cuda:0"))
