"""AdaLoRA: budget, importance, masking and penalty as in the authors' code; PEFT as the oracle."""

from collections.abc import Callable

import peft
import pytest
import torch
import torch.nn as nn
from peft.tuners.adalora.layer import RankAllocator
from torch.testing import assert_close

from variants.adalora import AdaLoRA, AdaLoRALayer, keep_most_important
from variants.base import Progress

SETTINGS = {
    "lr": 1.0, "rank": 4, "target_rank": 2, "alpha": 8.0, "dropout": 0.0, "warmup": 0.2,
    "final": 0.3, "interval": 1, "beta1": 0.85, "beta2": 0.85, "gamma": 0.1, "targets": ["0", "2"],
}  # fmt: skip


def variant(**changes: object) -> AdaLoRA:
    return AdaLoRA(**{**SETTINGS, **changes})


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()


def test_the_budget_is_pefts_at_every_step() -> None:
    total, method = 40, variant(warmup=0.25, final=0.35, interval=3)
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, tinit=10, tfinal=14, deltaT=3, total_step=total,
        target_modules=["0", "2"],
    )  # fmt: skip
    theirs = RankAllocator(peft.get_peft_model(model(), config), config, "default")
    for step in range(total):
        budget, _ = theirs.budget_schedule(step)
        assert method.budget(step, total, 2) == budget, step


def test_the_budget_never_rises_and_ends_at_the_target() -> None:
    method = variant()
    budgets = [method.budget(step, 50, 3) for step in range(50)]
    assert budgets[:11] == [12] * 11 and budgets[35:] == [6] * 15
    assert budgets == sorted(budgets, reverse=True)


def test_ranks_importance_and_weights_are_those_of_peft() -> None:
    total, method = 30, variant()
    ours = model()
    config = peft.AdaLoraConfig(
        init_r=4, target_r=2, tinit=6, tfinal=9, deltaT=1, total_step=total, beta1=0.85, beta2=0.85,
        lora_alpha=8, orth_reg_weight=0.1, target_modules=["0", "2"],
    )  # fmt: skip
    theirs = peft.get_peft_model(model(), config, autocast_adapter_dtype=False).double()
    method.adapt(ours)
    layers = {"0": ours[0], "2": ours[2]}
    with torch.no_grad():
        for name, layer in layers.items():
            their = theirs.base_model.model.get_submodule(name)
            layer.A.copy_(their.lora_A["default"])
            layer.B.copy_(their.lora_B["default"])
    # PEFT's rank counter is a parameter that asks for a gradient; it is not meant to train.
    optimizers = [
        torch.optim.AdamW(
            [p for n, p in net.named_parameters() if p.requires_grad and "ranknum" not in n],
            lr=0.02,
            weight_decay=0,
        )
        for net in (ours, theirs)
    ]
    generator = torch.Generator().manual_seed(1)
    for step in range(total):
        x = torch.randn(16, 6, generator=generator, dtype=torch.float64)
        y = torch.randn(16, 3, generator=generator, dtype=torch.float64)
        assert_close(ours(x), theirs(x), rtol=1e-7, atol=1e-10)
        for net in (ours, theirs):
            loss = (net(x) - y).pow(2).mean()
            # The same penalty for both: PEFT adds its own only where the model gives a loss.
            (loss + (method.penalty(net) if net is ours else orthogonality(theirs))).backward()
        for name, layer in layers.items():
            their = theirs.base_model.model.get_submodule(name)
            assert_close(layer.E.grad, their.lora_E["default"].grad[:, 0], rtol=1e-6, atol=1e-9)
            for factor, tensor in ((layer.A, their.lora_A), (layer.B, their.lora_B)):
                assert_close(factor.grad, tensor["default"].grad, rtol=1e-6, atol=1e-9)
        optimizers[0].step()
        method.after_step(ours, Progress(step + 1, total))
        optimizers[1].step()
        theirs.base_model.update_and_allocate(step)
        for optimizer in optimizers:
            optimizer.zero_grad()
        for name, layer in layers.items():
            their = theirs.base_model.model.get_submodule(name)
            assert_close(layer.E, their.lora_E["default"][:, 0], rtol=1e-7, atol=1e-10)
            assert_close(layer.A, their.lora_A["default"], rtol=1e-7, atol=1e-10)
            assert_close(layer.B, their.lora_B["default"], rtol=1e-7, atol=1e-10)
    assert sum(int((layer.E != 0).sum()) for layer in layers.values()) == 4
    assert_close(ours(x), theirs(x))


def orthogonality(theirs: nn.Module) -> torch.Tensor:
    norms = []
    for name, p in theirs.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            gram = p @ p.T if "lora_A" in name else p.T @ p
            norms.append((gram - torch.eye(4, dtype=p.dtype)).norm())
    return 0.1 * torch.stack(norms).mean()


def test_the_penalty_of_layers_of_any_shapes_is_that_of_each_alone() -> None:
    torch.manual_seed(0)
    shapes = ((6, 8), (8, 8), (8, 3), (3, 6), (6, 8))
    net = nn.Sequential(*(nn.Linear(*shape) for shape in shapes)).double()
    method = variant(gamma=0.7, targets=[str(i) for i in range(len(shapes))])
    method.adapt(net)
    factors = [f for layer in net for f in (layer.A, layer.B)]
    with torch.no_grad():
        for factor in factors:
            factor.normal_()
    norms = []
    for layer in net:
        for gram in (layer.A @ layer.A.T, layer.B.T @ layer.B):
            norms.append((gram - torch.eye(4).double()).norm())
    expected = 0.7 * torch.stack(norms).mean()
    found = method.penalty(net)
    assert_close(found, expected, rtol=1e-13, atol=0)
    for mine, right in zip(
        torch.autograd.grad(found, factors), torch.autograd.grad(expected, factors), strict=True
    ):
        assert_close(mine, right, rtol=1e-12, atol=1e-14)


def test_the_penalty_of_exactly_orthonormal_factors_has_no_gradient() -> None:
    net, method = nn.Sequential(nn.Linear(6, 8)), variant(targets=["0"])
    method.adapt(net)
    with torch.no_grad():
        net[0].A.copy_(torch.eye(4, 6))
        net[0].B.copy_(torch.eye(8, 4))
    method.penalty(net).backward()
    assert not net[0].A.grad.any() and not net[0].B.grad.any()


def test_the_penalty_is_a_mean_of_unsquared_norms() -> None:
    net, method = model(), variant(gamma=0.5)
    method.adapt(net)
    with torch.no_grad():
        for layer in (net[0], net[2]):
            layer.A.zero_()
            layer.B.zero_()
    # ||0 - I|| of size 4 is 2, four times over.
    assert float(method.penalty(net)) == pytest.approx(0.5 * 2.0)


def test_importance_follows_a_hand_computed_example() -> None:
    layer = AdaLoRALayer(nn.Linear(1, 1).double(), 1, 1.0, 0.0)
    with torch.no_grad():
        layer.A.fill_(2.0)
        layer.B.fill_(3.0)
        layer.E.fill_(-1.0)
        for gradient in (1.0, -2.0):
            for factor in (layer.A, layer.B, layer.E):
                factor.grad = torch.full_like(factor, gradient)
            layer.average(0.5, 0.5)
    # For |w| = 1, |w g| is 1, then 2. Its averages are 0.5 and 1.25, and those of its distance
    # from them |1 - 0.5| / 2 = 0.25 and (0.25 + |2 - 1.25|) / 2 = 0.5. Both grow with |w|.
    score = [weight * 1.25 * weight * 0.5 for weight in (2, 3, 1)]
    assert float(layer.importance()) == pytest.approx(sum(score))


def test_exactly_the_budget_is_kept_and_ties_go_to_the_first() -> None:
    layers = [AdaLoRALayer(nn.Linear(3, 3), 4, 1.0, 0.0) for _ in range(2)]
    keep_most_important(layers, 5)  # all scores are zero
    assert layers[0].kept.tolist() == [True] * 4
    assert layers[1].kept.tolist() == [True, False, False, False]


def test_a_target_equal_to_the_start_masks_nothing() -> None:
    net, method = model(), variant(target_rank=4)
    method.adapt(net)
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for step in range(1, 11):
        net(torch.randn(4, 6, dtype=torch.float64)).sum().backward()
        optimizer.step()
        method.after_step(net, Progress(step, 10))
        optimizer.zero_grad()
    assert method.telemetry(net)["rank"] == 8.0


def test_the_scale_is_that_of_the_first_rank_to_the_end() -> None:
    net, method = model(), variant()
    method.adapt(net)
    assert net[0].scale == pytest.approx(8.0 / (4 + 1e-5), rel=1e-12)


def test_the_final_ranks_add_up_to_the_target(tiny_run: Callable, tmp_path) -> None:
    from experiments.running.runner import execute

    run = tiny_run("adalora", "train.epochs=10", "variant.interval=2", "record.log_every=5")
    result = execute(run, tmp_path)
    assert result.telemetry["rank"] == 4 * run.variant.target_rank
    logged = result.history["rank"]
    assert 4 * run.variant.rank >= logged.iloc[0] > logged.iloc[-1] == 4 * run.variant.target_rank


def test_a_bad_schedule_is_an_error() -> None:
    with pytest.raises(ValueError, match="together under 1"):
        variant(warmup=0.6, final=0.4)
    with pytest.raises(ValueError, match="target_rank must lie in 1 to rank=4"):
        variant(target_rank=5)
    with pytest.raises(ValueError, match=r"beta2 must lie in \[0, 1\), got 1.0"):
        variant(beta2=1.0)


def test_the_penalty_is_zero_for_orthonormal_factors_and_moves_a_and_b_alone() -> None:
    net, method = model(), variant(gamma=1.0, rank=2, target_rank=1)
    method.adapt(net)
    method.penalty(net).backward()
    assert net[0].A.grad.any() and net[0].B.grad.any() and net[0].E.grad is None
    for layer in (net[0], net[2]):
        nn.init.orthogonal_(layer.A)
        nn.init.orthogonal_(layer.B)
    assert float(method.penalty(net).detach()) == pytest.approx(0.0, abs=1e-12)


def test_a_pruned_triplet_keeps_its_rows_and_lives_again_between_two_allocations() -> None:
    net, method = model(), variant(interval=5, warmup=0.0, final=0.2)
    method.adapt(net)
    layers = (net[0], net[2])
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.01)
    counts = {}
    for step in range(20):
        net(torch.randn(8, 6, dtype=torch.float64)).square().sum().backward()
        optimizer.step()
        factors = [(layer.A.detach().clone(), layer.B.detach().clone()) for layer in layers]
        method.after_step(net, Progress(step + 1, 20))
        optimizer.zero_grad()
        counts[step] = sum(int((layer.E != 0).sum()) for layer in layers)
        for layer, (A, B) in zip(layers, factors, strict=True):
            assert torch.equal(layer.A, A) and torch.equal(layer.B, B)
    for step in (5, 10, 15):
        assert counts[step] == method.budget(step, 20, 2) < 8
    assert counts[6] == counts[9] == counts[14] == 8
    assert all(counts[step] == 4 for step in range(16, 20))


def test_telemetry_between_two_allocations_is_what_the_last_one_kept(
    tiny_run: Callable, tmp_path
) -> None:
    from experiments.running.runner import execute

    run = tiny_run(
        "adalora", "train.epochs=10", "variant.interval=4", "record.log_every=1", "variant.lr=0.01"
    )
    logged = execute(run, tmp_path).history["rank"].tolist()
    total = len(logged)
    allocations = range(4, run.variant.fixed_from(total), 4)
    assert len({run.variant.budget(step, total, 4) for step in allocations}) > 1
    for step in allocations:
        until = min(step + 4, run.variant.fixed_from(total))
        assert set(logged[step:until]) == {run.variant.budget(step, total, 4)}
    assert logged[-1] == 4 * run.variant.target_rank
