"""The loop: hooks in order, the same start for all, accumulation, schedule, divergence, resume."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, VARIANTS
from runs import Killed, assert_equal_runs, killed_after
from safetensors.torch import load_file

from experiments.data.batches import Batches
from experiments.results.result import Diverged
from experiments.running.job import PreparedRun, prepare_run
from experiments.running.recorder import Recorder
from experiments.running.runner import execute
from experiments.settings.config import Run
from experiments.training.loop import (
    State,
    Stepper,
    TrainingListener,
    TrainingPlan,
    build_optimizer,
    build_schedule,
    fit,
)
from experiments.training.optimizer import FlatAdamW
from variants.lora import LoRA

pytestmark = pytest.mark.thorough


class Losses(TrainingListener):
    def __init__(self) -> None:
        self.values: list[float] = []

    def after(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.values.append(float(loss))


def begin(run: Run) -> PreparedRun:
    return prepare_run(run, run.task.load(run.data))


def trained(job: PreparedRun) -> dict[str, torch.Tensor]:
    return {n: p.detach() for n, p in job.loaded.model.named_parameters() if p.requires_grad}


@dataclass(frozen=True, kw_only=True)
class Spy(LoRA):
    """LoRA that notes which hook is called when."""

    calls: tuple[list, ...] = ([],)

    def note(self, *what: object) -> None:
        self.calls[0].append(what)

    def adapt(self, model):
        self.note("adapt")
        super().adapt(model)

    def prepare(self, model, probe):
        self.note("prepare")

    def param_groups(self, model, lr, weight_decay):
        self.note("param_groups")
        return super().param_groups(model, lr, weight_decay)

    def penalty(self, model):
        self.note("penalty")
        return 0.0

    def after_backward(self, model, progress):
        gradient = any(p.grad is not None for p in model.parameters() if p.requires_grad)
        self.note("after_backward", progress.step, progress.total, gradient)

    def after_step(self, model, progress):
        gradient = any(p.grad is not None for p in model.parameters() if p.requires_grad)
        self.note("after_step", progress.step, progress.total, gradient)

    def learned_state(self, model):
        self.note("learned_state")
        return super().learned_state(model)

    def telemetry(self, model):
        self.note("telemetry")
        return {"spied": 1.0}


def test_every_hook_is_called_in_one_order(tiny_run: Callable[..., Run], tmp_path: Path) -> None:
    run = tiny_run("lora", "train.epochs=1", "train.batch_size=32", "train.accumulate=2")
    values = {f.name: getattr(run.variant, f.name) for f in fields(run.variant)}
    spy = Spy(**values)
    result = execute(replace(run, variant=spy), tmp_path)
    step = lambda n: [("penalty",)] * 2 + [  # noqa: E731
        ("after_backward", n, 2, True), ("after_step", n, 2, True),
    ]  # fmt: skip
    seen = [call for call in spy.calls[0] if call[0] not in ("telemetry", "learned_state")]
    counted = [("penalty",)] * 2  # the step whose arithmetic is counted in the end
    assert seen == [("adapt",), ("prepare",), ("param_groups",), *step(1), *step(2), *counted]
    assert ("learned_state",) in spy.calls[0]
    assert result.telemetry == {"starts_as_pretrained": 1.0, "spied": 1.0}


def test_all_methods_share_batches_head_and_the_start_of_dropout(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[tuple] = []
    original = Recorder.begin

    def spy(self: Recorder, state: State, total: int) -> None:
        head = {name: tensor.clone() for name, tensor in state.model.head.state_dict().items()}
        orders = [self.job.batches.rows(step) for step in range(1, total + 1)]
        original(self, state, total)
        starts.append((head, orders, torch.get_rng_state()))
        raise Killed  # what follows is of no interest here

    monkeypatch.setattr(Recorder, "begin", spy)
    for variant in VARIANTS:
        run = tiny_run(variant)
        with pytest.raises(Killed):
            execute(replace(run, train=replace(run.train, epochs=1.0)), tmp_path / variant)
    (head, orders, random_state), *others = starts
    assert len(others) == len(VARIANTS) - 1
    for other_head, other_orders, other_state in others:
        assert all(torch.equal(head[name], other_head[name]) for name in head)
        assert all(np.array_equal(a, b) for a, b in zip(orders, other_orders, strict=True))
        assert torch.equal(random_state, other_state)


def test_seeds_give_other_batches_other_heads_and_other_dropout(
    tiny_run: Callable[..., Run],
) -> None:
    first, second = (begin(tiny_run("lora", f"seed={seed}")) for seed in (0, 1))
    assert not np.array_equal(first.batches.rows(1), second.batches.rows(1))
    heads = [job.loaded.model.head.state_dict() for job in (first, second)]
    assert not torch.equal(heads[0]["out_proj.weight"], heads[1]["out_proj.weight"])
    adapters = [trained(job) for job in (first, second)]
    names = [name for name in adapters[0] if name.endswith(".A")]
    assert not any(torch.equal(adapters[0][name], adapters[1][name]) for name in names)


def test_the_rows_trained_on_are_those_of_all_runs_or_of_one_seed(
    tiny_run: Callable[..., Run],
) -> None:
    few = "train.examples=32"
    fixed = {seed: begin(tiny_run("lora", few, f"seed={seed}")).rows for seed in (0, 1)}
    assert fixed[0] == fixed[1]
    drawn = {
        (variant, seed): begin(tiny_run(variant, few, "train.subset=per_seed", f"seed={seed}")).rows
        for variant in ("lora", "vera")
        for seed in (0, 1)
    }
    assert drawn["lora", 0] == drawn["vera", 0] != drawn["lora", 1] == drawn["vera", 1]
    assert begin(tiny_run("lora")).rows == begin(tiny_run("lora", "train.subset=per_seed")).rows


def test_an_epoch_sees_every_example_once_and_epochs_differ(tiny_run: Callable[..., Run]) -> None:
    batches = begin(tiny_run("lora", "train.batch_size=24")).batches
    steps = batches.steps_per_epoch
    assert steps == 3  # 64 examples
    epochs = [
        np.concatenate([batches.rows(step) for step in range(first, first + steps)])
        for first in (1, 1 + steps)
    ]
    assert all(np.array_equal(np.sort(epoch), np.arange(64)) for epoch in epochs)
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_runs_with_one_seed_are_bit_identical(
    tiny_run: Callable[..., Run], variant: str
) -> None:
    weights = []
    for _ in range(2):
        job = begin(tiny_run(variant, "train.epochs=2"))
        torch.manual_seed(5)
        fit(job.loaded.model, job.run.variant, job.batches, job.plan, TrainingListener())
        weights.append(trained(job))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.parametrize("variant", VARIANTS)
def test_accumulation_equals_one_big_batch(tiny_run: Callable[..., Run], variant: str) -> None:
    results = []
    for parts in (1, 3):  # 3 parts of unequal size: a mean of means would differ
        options = ("model.dropout=0.0", "train.batch_size=16", f"train.accumulate={parts}")
        job = begin(tiny_run(variant, *options))
        job.loaded.model.double()
        listener = Losses()
        fit(job.loaded.model, job.run.variant, job.batches, job.plan, listener)
        results.append((listener.values, trained(job)))
    (losses, weights), (split_losses, split_weights) = results
    assert split_losses == pytest.approx(losses, rel=1e-9)
    for name, tensor in weights.items():
        torch.testing.assert_close(split_weights[name], tensor, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]),
        ("constant", [0.0, 0.5, *[1.0] * 8]),
        ("cosine", [0.0, 0.5, 1.0, 0.96194, 0.85355, 0.69134, 0.5, 0.30866, 0.14645, 0.03806]),
    ],
)
def test_schedules_warm_up_and_decay(
    tiny_run: Callable[..., Run], schedule: str, expected: list[float]
) -> None:
    run = tiny_run("lora", f"train.schedule={schedule}", "train.warmup=0.2")
    job = begin(run)
    plan = TrainingPlan(run.train, lr=2.0, total=10)
    optimizer = build_optimizer(job.loaded.model, run.variant, plan)
    lambdas = build_schedule(optimizer, plan)
    rates = []
    for _ in range(10):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        lambdas.step()
    adapter, head = [r[0] for r in rates], [r[-1] for r in rates]
    assert adapter == pytest.approx([2.0 * factor for factor in expected], abs=1e-5)
    assert head == pytest.approx([run.train.head_lr * factor for factor in expected], abs=1e-5)


def test_the_models_scale_multiplies_the_methods_rate_and_not_the_heads(
    tiny_run: Callable[..., Run],
) -> None:
    job = begin(tiny_run("lora", "model.lr_scale=3.0", "variant.lr=0.01", "train.head_lr=0.5"))
    optimizer = build_optimizer(job.loaded.model, job.run.variant, job.plan)
    rates = {group["lr"] for group in optimizer.param_groups}
    assert rates == {0.03, 0.5}


@dataclass(frozen=True, kw_only=True)
class Unclipped(LoRA):
    """LoRA whose gradients are large, and its own affair."""

    def param_groups(self, model, lr, weight_decay):
        groups = super().param_groups(model, lr, weight_decay)
        return [group | {"clip": False} for group in groups]

    def after_backward(self, model, progress):
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad = torch.full_like(parameter, 1e6)


def test_a_method_may_decline_clipping_and_shrinks_no_other_gradient(
    tiny_run: Callable[..., Run],
) -> None:
    run = tiny_run("lora", "train.clip=1000.0", "train.epochs=1")
    values = {f.name: getattr(run.variant, f.name) for f in fields(run.variant)}
    job = begin(replace(run, variant=Unclipped(**values)))
    stepper = Stepper(job.loaded.model, job.run.variant, job.batches, job.plan)
    stepper.optimizer.zero_grad = lambda: None
    _, norm = stepper.step(1, TrainingListener())
    assert 0 < norm < 1000
    own = [p.grad for p in job.loaded.model.backbone.parameters() if p.requires_grad]
    assert all((gradient == 1e6).all() for gradient in own)
    head = [p.grad for p in job.loaded.model.head.parameters()]
    assert torch.linalg.vector_norm(torch.cat([g.flatten() for g in head])) == pytest.approx(norm)


def test_gradients_are_clipped_to_the_norm(tiny_run: Callable[..., Run]) -> None:
    job = begin(tiny_run("lora", "train.clip=0.001", "train.epochs=1", "train.batch_size=64"))
    norms: list[float] = []

    class Norms(TrainingListener):
        def after(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
            norms.append(float(norm))

    variant = job.run.variant
    seen: list[float] = []
    original = FlatAdamW.step

    def step(self: FlatAdamW, *args: object) -> object:
        gradients = [p.grad for g in self.param_groups for p in g["params"] if p.grad is not None]
        seen.append(float(torch.stack([g.norm() for g in gradients]).norm()))
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FlatAdamW, "step", step)
        fit(job.loaded.model, variant, job.batches, job.plan, Norms())
    assert norms[0] > 0.001 and seen == [pytest.approx(0.001, rel=1e-3)]


def test_a_run_that_explodes_is_recorded_as_diverged(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = tiny_run("lora", "variant.lr=1e30", "record.log_every=1", "train.warmup=0.0")
    with pytest.raises(Diverged, match="step"):
        execute(run, tmp_path)
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["status"] == "diverged"
    assert "step" in result["failure"]
    assert result["primary"] == {} and result["scores"] == {}
    assert not (tmp_path / "adapter.safetensors").exists()
    with pytest.raises(Diverged, match="Delete it"):
        execute(run, tmp_path)


def test_a_loss_many_times_the_first_counts_as_diverged(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    settings = (
        "record.log_every=1",
        "train.divergence_ratio=1.05",
        "variant.lr=0.5",
        "train.warmup=0.0",
    )
    with pytest.raises(Diverged, match=r"over 1\.05 times"):
        execute(tiny_run("lora", *settings, "train.head_lr=0.5"), tmp_path)


def test_snapshots_are_evenly_spaced_and_end_with_the_run(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = tiny_run("lora", "train.epochs=5", "train.batch_size=32", "record.snapshots=4")
    execute(run, tmp_path)
    files = sorted((tmp_path / "snapshots").iterdir())
    assert [int(file.stem.split("-")[1]) for file in files] == [2, 5, 8, 10]
    states = [load_file(file) for file in files]
    final = load_file(tmp_path / "adapter.safetensors")
    assert all(torch.equal(states[-1][name], final[name]) for name in final)
    assert not torch.equal(states[0][next(iter(final))], final[next(iter(final))])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_taken_up_again_ends_bit_for_bit_where_it_would_have(
    tiny_run: Callable[..., Run], tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run(
        variant, "train.epochs=4", "train.batch_size=16", "record.log_every=3",
        "record.checkpoint_every=0", "train.schedule=cosine",
    )  # fmt: skip
    unbroken = execute(run, tmp_path / "unbroken")
    for stop in (2, 8, 13):  # before the first checkpoint, behind one, in a later epoch
        with killed_after(monkeypatch, stop):
            execute(run, tmp_path / "broken")
        assert (tmp_path / "broken" / "UNFINISHED").exists()
        assert not (tmp_path / "broken" / "result.json").exists()
    resumed = execute(run, tmp_path / "broken")
    assert resumed.cost["restarts"] == 2  # the first death came before any checkpoint
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")
    assert resumed.scores == unbroken.scores
    assert resumed.cost["steps"]["steps"] == unbroken.cost["steps"]["steps"] == 16
    assert resumed.cost["steps"]["tokens"] == unbroken.cost["steps"]["tokens"]
    assert not (tmp_path / "broken" / "UNFINISHED").exists()


@pytest.mark.slow
def test_a_process_killed_three_times_ends_with_the_weights_of_an_unbroken_one(
    tmp_path: Path,
) -> None:
    command = [
        sys.executable, "run.py", "variant=dora", "task=sst2", "data.train=512", "train.epochs=10",
        "record.checkpoint_every=0", "record.log_every=5", "tracker.mode=disabled",
        "compute.device=cpu",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def launch(folder: Path) -> subprocess.Popen:
        return subprocess.Popen([*command, f"hydra.run.dir={folder}"], cwd=ROOT, env=environment)

    assert launch(tmp_path / "unbroken").wait() == 0
    draw = random.Random(0)
    for _ in range(3):
        process = launch(tmp_path / "broken")
        checkpoint = tmp_path / "broken" / "checkpoint.safetensors"
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.005)
        time.sleep(draw.uniform(0.0, 0.5))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "broken" / "result.json").exists()
    assert launch(tmp_path / "broken").wait() == 0
    assert_equal_runs(tmp_path / "unbroken", tmp_path / "broken")
    assert json.loads((tmp_path / "broken" / "result.json").read_text())["cost"]["restarts"] == 3


def test_parts_of_a_batch_are_of_like_length_and_the_same_examples(
    tiny_run: Callable[..., Run],
) -> None:
    job = begin(tiny_run("lora", "train.batch_size=16", "train.accumulate=4"))
    batches: Batches = job.batches
    parts = list(batches.parts(1))
    assert [len(part.rows) for part in parts] == [4, 4, 4, 4]
    together = np.concatenate([part.rows for part in parts])
    assert np.array_equal(np.sort(together), np.sort(batches.rows(1)))
    lengths = batches.data.lengths[together]
    assert np.array_equal(lengths, np.sort(lengths))
