"""LoRA+: two learning rates, kept apart by the schedule; two initialisations."""

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn

from experiments.running.job import prepare_run
from experiments.training.loop import build_optimizer, build_schedule
from variants.base import adapter_layers
from variants.lora_plus import LoRAPlus


def test_b_keeps_its_multiple_of_as_rate_through_the_schedule(tiny_run: Callable) -> None:
    run = tiny_run("lora_plus", "variant.ratio=6.0", "train.head_lr=0.0")
    job = prepare_run(run, run.task.load(run.data))
    optimizer = build_optimizer(job.loaded.model, run.variant, job.plan)
    schedule = build_schedule(optimizer, job.plan)
    for _ in range(job.plan.total - 1):
        optimizer.step()
        schedule.step()
        a, b = optimizer.param_groups[0], optimizer.param_groups[1]
        assert b["lr"] == pytest.approx(6.0 * a["lr"]) and a["lr"] > 0
    factors = [buffer.parameters for buffer in optimizer.buffers[:2]]
    assert all(p.shape[0] == run.variant.rank for p in factors[0])
    assert all(p.shape[1] == run.variant.rank for p in factors[1])


@pytest.mark.parametrize(("zero", "random"), [("A", "B"), ("B", "A")])
def test_one_factor_starts_at_zero_and_the_other_does_not(
    case: Callable, zero: str, random: str
) -> None:
    made = case("lora_plus", f"variant.zero={zero}")
    made.run.variant.adapt(made.model.backbone)
    for _, layer in adapter_layers(made.model.backbone):
        assert not getattr(layer, zero).any()
        drawn = getattr(layer, random).detach()
        assert drawn.abs().max() <= drawn.shape[1] ** -0.5  # Kaiming-uniform with a = sqrt(5)
        assert float(drawn.std()) == pytest.approx((3 * drawn.shape[1]) ** -0.5, rel=0.15)


def test_a_wrong_factor_or_ratio_is_an_error() -> None:
    given = {"lr": 1.0, "rank": 2, "alpha": 2.0, "dropout": 0.0, "rslora": False, "targets": []}
    with pytest.raises(ValueError, match="zero must be A or B, got 'b'"):
        LoRAPlus(**given, ratio=2.0, zero="b")
    with pytest.raises(ValueError, match="ratio must be positive"):
        LoRAPlus(**given, ratio=0.0, zero="B")


def test_a_ratio_of_one_trains_as_lora(tiny_run: Callable) -> None:
    from experiments.training.loop import TrainingListener, fit

    results = []
    for variant, extra in (("lora", []), ("lora_plus", ["variant.ratio=1.0", "variant.zero=B"])):
        run = tiny_run(variant, "variant.lr=0.01", "model.dropout=0.0", *extra)
        job = prepare_run(run, run.task.load(run.data))
        fit(job.loaded.model, run.variant, job.batches, job.plan, TrainingListener())
        results.append(dict(adapter_layers(job.loaded.model.backbone)))
    for name, layer in results[0].items():
        torch.testing.assert_close(results[1][name].B, layer.B)


def test_the_first_step_moves_b_by_its_own_rate_and_a_by_decay_alone() -> None:
    # Adam's first step is the rate times the sign of the gradient, which for A is zero.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5)).double()
    given = {"lr": 1.0, "rank": 2, "alpha": 2.0, "dropout": 0.0, "rslora": False, "targets": ["0"]}
    variant = LoRAPlus(**given, ratio=8.0, zero="B")
    variant.adapt(model)
    A = model[0].A.detach().clone()
    optimizer = torch.optim.AdamW(variant.param_groups(model, lr=0.01, weight_decay=0.1))
    model(torch.randn(9, 7).double()).square().sum().backward()
    optimizer.step()
    torch.testing.assert_close(model[0].B.abs(), torch.full_like(model[0].B, 0.08))
    torch.testing.assert_close(model[0].A, A * (1 - 0.01 * 0.1))
    assert all(group["weight_decay"] == 0.1 for group in optimizer.param_groups)
