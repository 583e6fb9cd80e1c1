"""What a method may know of the data before it trains: gradients at W0."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import FAMILIES

from experiments.machine.randomness import seed_everything
from experiments.running.job import PreparedRun, prepare_run
from experiments.training.probe import ProbeRun
from variants.base import adapter_layers


def trial(tiny_run: Callable, variant: str = "lora", *overrides: str, **options: str) -> ProbeRun:
    run = tiny_run(variant, *overrides, **options)
    job: PreparedRun = prepare_run(run, run.task.load(run.data))
    job.loaded.model.eval()
    return ProbeRun(job.loaded.model, run.variant, job.examples, job.plan, run.seed)


def tensors(made: ProbeRun) -> dict[str, torch.Tensor]:
    return {name: t.detach().clone() for name, t in made.model.state_dict().items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_the_mean_over_rows_at_w0(tiny_run: Callable, family: str) -> None:
    made = trial(tiny_run, family=family)
    found = made.probe().gradients(20, 0)
    rows = made.stratified(20)
    model = made.model
    layers = dict(adapter_layers(model.backbone))
    for layer in layers.values():
        layer.base.weight.requires_grad_(True)
    (model.loss(made.data.batch(rows))[0] / 20).backward()
    assert found.keys() == layers.keys()
    for name, layer in layers.items():
        torch.testing.assert_close(found[name], layer.base.weight.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("steps", [0, 3])
def test_no_parameter_moves_and_all_train_as_before(tiny_run: Callable, steps: int) -> None:
    made = trial(tiny_run)
    before, trained = tensors(made), [p.requires_grad for p in made.model.parameters()]
    seed_everything(3)  # dropout, while the head trains
    first = made.gradients(16, steps)
    after = tensors(made)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert [p.requires_grad for p in made.model.parameters()] == trained
    assert all(p.grad is None for p in made.model.backbone.parameters())
    seed_everything(3)
    again = made.gradients(16, steps)
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())


def test_a_random_head_is_said_and_may_be_trained_first(
    tiny_run: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    made = trial(tiny_run)
    random = made.gradients(16, 0)
    assert "a head of random weights" in caplog.text
    caplog.clear()
    after = made.gradients(16, 5)
    assert not caplog.text
    assert not any(torch.equal(random[name], tensor) for name, tensor in after.items())


def test_rows_are_stratified_and_as_many_as_asked_for(tiny_run: Callable) -> None:
    made = trial(tiny_run)
    rows = made.stratified(8)
    assert len(rows) == 8 and np.bincount(made.data.labels[rows]).tolist() == [4, 4]
    assert len(made.stratified(len(made.data))) == len(made.data)


def test_what_has_no_gradient_is_said(tiny_run: Callable) -> None:
    with pytest.raises(ValueError, match="is quantised, so its weight has no gradient"):
        trial(tiny_run, "qlora").gradients(8, 0)
    with pytest.raises(ValueError, match="at least 1 row"):
        trial(tiny_run).gradients(0, 0)


def test_parts_of_the_rows_make_no_difference(tiny_run: Callable) -> None:
    made = trial(tiny_run)
    train = replace(made.plan.train, batch_size=5)
    parted = replace(made, plan=replace(made.plan, train=train))
    whole = made.gradients(16, 0)
    for name, tensor in parted.gradients(16, 0).items():
        torch.testing.assert_close(tensor, whole[name], rtol=1e-4, atol=1e-7)
