"""Own rules for gradients of LoRA's factors: Riemannian preconditioning, LoRA-Pro, LoRA-RITE."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn as nn
from peft.optimizers import create_riemannian_optimizer
from peft_oracle import adapted, base, in_peft
from torch.testing import assert_close

from experiments.running.job import prepare_run
from experiments.training.loop import TrainingListener, fit
from experiments.training.optimizer import FlatAdamW
from variants.base import Progress
from variants.lora import LoRALayer
from variants.lora_pro import LoRAPro, LoRAProLayer, sylvester
from variants.lora_rite import LoRARITE, LoRARITELayer
from variants.riemannian import Riemannian

EXACT = {"rtol": 1e-9, "atol": 1e-11}
STEP = Progress(1, 10)


def settings(rank: int = 3) -> dict:
    return {
        "lr": 1.0, "rank": rank, "alpha": 2.0 * rank, "dropout": 0.0, "rslora": False,
        "targets": ["0"],
    }  # fmt: skip


def riemannian(delta: float = 1e-6) -> Riemannian:
    return Riemannian(**settings(), delta=delta)


def backward(layer: LoRALayer) -> None:
    """Give the factors the gradients of some loss."""
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(9, 12, generator=generator, dtype=torch.float64)
    layer(x).square().sum().backward()


@pytest.mark.parametrize("delta", [1e-6, 0.1])
def test_gradients_are_multiplied_by_inverse_grams_of_the_other_factor(delta: float) -> None:
    model, layer = adapted(riemannian(), base())
    backward(layer)
    A, B, identity = layer.A.detach(), layer.B.detach(), torch.eye(3).double()
    expected = (
        torch.linalg.inv(B.T @ B + delta * identity) @ layer.A.grad,
        layer.B.grad @ torch.linalg.inv(A @ A.T + delta * identity),
    )
    riemannian(delta).after_backward(model, STEP)
    assert_close(layer.A.grad, expected[0], **EXACT)
    assert_close(layer.B.grad, expected[1], **EXACT)


def test_a_step_of_gradient_descent_is_that_of_peft() -> None:
    variant, model = riemannian(delta=0.01), base()
    ours, layer = adapted(variant, model)
    theirs = in_peft(variant.to_peft(ours).config, model)
    their = theirs.base_model.model[0]
    their.lora_A["default"].weight.data = layer.A.detach().clone()
    their.lora_B["default"].weight.data = layer.B.detach().clone()
    optimizer = create_riemannian_optimizer(theirs, torch.optim.SGD, lr=0.1, reg=0.01)
    x = torch.randn(9, 12).double()
    theirs(x).square().sum().backward()
    optimizer.step()
    ours(x).square().sum().backward()
    variant.after_backward(ours, STEP)
    with torch.no_grad():
        for factor in (layer.A, layer.B):
            factor -= 0.1 * factor.grad
    assert_close(layer.A, their.lora_A["default"].weight, rtol=1e-5, atol=1e-6)
    assert_close(layer.B, their.lora_B["default"].weight, rtol=1e-5, atol=1e-6)


def test_a_step_moves_w_alike_however_its_product_is_split() -> None:
    """B M and M^-1 A are the same W, and for delta to 0 a small step takes it to the same W."""
    moves = []
    for M in (torch.eye(3).double(), torch.randn(3, 3).double() + 2 * torch.eye(3).double()):
        model, layer = adapted(riemannian(delta=1e-12), base())
        torch.manual_seed(0)
        layer.A.data = torch.linalg.solve(M, torch.randn(3, 12).double())
        layer.B.data = torch.randn(8, 3).double() @ M
        backward(layer)
        riemannian(delta=1e-12).after_backward(model, STEP)
        moves.append(layer.B.grad @ layer.A + layer.B @ layer.A.grad)
    assert_close(moves[0], moves[1], rtol=1e-6, atol=1e-8)


def test_at_the_start_b_alone_moves_and_nothing_is_clipped() -> None:
    model, layer = adapted(riemannian(), base(), std=0.0)
    backward(layer)
    riemannian().after_backward(model, STEP)
    assert not layer.A.grad.any() and layer.B.grad.any() and layer.B.grad.isfinite().all()
    groups = riemannian().param_groups(model, 0.1, 0.01)
    assert all(group["clip"] is False for group in groups)
    with pytest.raises(ValueError, match="delta must be positive"):
        riemannian(delta=0.0)


def test_a_large_delta_is_plain_lora() -> None:
    model, layer = adapted(riemannian(), base())
    backward(layer)
    before = layer.A.grad.clone(), layer.B.grad.clone()
    riemannian(delta=1e9).after_backward(model, STEP)
    assert_close(layer.A.grad * 1e9, before[0], rtol=1e-6, atol=1e-8)
    assert_close(layer.B.grad * 1e9, before[1], rtol=1e-6, atol=1e-8)


def lora_pro() -> LoRAPro:
    return LoRAPro(**settings(), beta1=0.9, beta2=0.999)


def pro_layer() -> LoRAProLayer:
    layer = adapted(lora_pro(), base())[1]
    assert isinstance(layer, LoRAProLayer)
    return layer


def test_lora_pros_steps_move_w_as_near_to_the_gradient_as_they_can() -> None:
    layer = pro_layer()
    A, B, s = layer.A.detach(), layer.B.detach(), layer.scale
    G = torch.randn(8, 12).double()
    g_A, g_B = s * B.T @ G, s * G @ A.T
    outside_B = torch.eye(8).double() - B @ torch.linalg.pinv(B)
    outside_A = torch.eye(12).double() - torch.linalg.pinv(A) @ A
    best = G - outside_B @ G @ outside_A
    for h_A, h_B in (layer.nearest(g_A, g_B), layer.balanced(g_A, g_B)):
        assert_close(s * (B @ h_A + h_B @ A), best, rtol=1e-6, atol=1e-7)
        assert (g_A * h_A).sum() + (g_B * h_B).sum() > 0  # downhill
    # X takes them as near to LoRA's own steps as it can: any other is further away.
    h_A, h_B = layer.balanced(g_A, g_B)
    distance = (h_A - g_A).square().sum() + (h_B - g_B).square().sum()
    for _ in range(5):
        X = 0.01 * torch.randn(3, 3).double()
        other = (h_A + X @ A - g_A).square().sum() + (h_B - B @ X - g_B).square().sum()
        assert other > distance


def test_sylvesters_equation_is_solved() -> None:
    P, Q, C = (torch.randn(4, 4).double() for _ in range(3))
    P, Q = P @ P.T, Q @ Q.T
    X = sylvester(P, Q, C)
    assert_close(P @ X + X @ Q, C, rtol=1e-7, atol=1e-8)


def test_two_steps_are_those_of_adam_on_the_gradient_that_the_factors_make() -> None:
    layer = pro_layer()
    mean = square = torch.zeros(8, 12).double()
    for step in (1, 2):
        backward(layer)
        h_A, h_B = layer.nearest(layer.A.grad, layer.B.grad)
        G = layer.scale * (layer.B @ h_A + h_B @ layer.A)
        mean, square = 0.9 * mean + 0.1 * G, 0.999 * square + 0.001 * G**2
        adam = mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        expected = layer.balanced(layer.scale * layer.B.T @ adam, layer.scale * adam @ layer.A.T)
        layer.rewrite(0.9, 0.999, step)
        assert_close(layer.A.grad, expected[0], rtol=1e-6, atol=1e-8)
        assert_close(layer.B.grad, expected[1], rtol=1e-6, atol=1e-8)
        assert_close(layer.mean, mean.detach(), **EXACT)
        layer.A.grad = layer.B.grad = None


def test_at_the_start_b_takes_the_corrected_step_of_lora_fa() -> None:
    layer = adapted(lora_pro(), base(), std=0.0)[1]
    assert isinstance(layer, LoRAProLayer)
    backward(layer)
    g_B = layer.B.grad.clone()
    h_A, h_B = layer.nearest(layer.A.grad, g_B)
    assert not h_A.any()
    corrected = g_B @ torch.linalg.inv(layer.A @ layer.A.T) / layer.scale**2
    assert_close(h_B, corrected, rtol=1e-6, atol=1e-8)


def test_a_plain_group_moves_by_its_rate_and_decay_alone() -> None:
    own, other = nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(2))
    optimizer = FlatAdamW(
        [
            {"params": [own], "lr": 0.1, "weight_decay": 0.5, "plain": True},
            {"params": [other], "lr": 0.1, "weight_decay": 0.0},
        ]
    )
    for _ in range(2):
        before = own.detach().clone()
        own.grad, other.grad = torch.full((3, 2), 7.0), torch.full((2,), 7.0)
        optimizer.gather()
        optimizer.step()
        assert_close(own.detach(), before * (1 - 0.1 * 0.5) - 0.7)
    assert_close(other.detach(), torch.full((2,), 0.8))  # AdamW's step is its rate
    assert len(optimizer.state_dict()["state"]) == 1


def test_lora_pro_trains_at_its_own_rate_without_clipping(tiny_run: Callable) -> None:
    run = tiny_run("lora_pro", "train.clip=1e-6", "train.warmup=0.0", "train.epochs=1")
    run = replace(run, variant=replace(run.variant, lr=1e-3))
    job = prepare_run(run, run.task.load(run.data))
    layers = [m for m in job.loaded.model.modules() if isinstance(m, LoRAProLayer)]
    before = [layer.merged_weight().detach().clone() for layer in layers]
    fit(job.loaded.model, run.variant, job.batches, job.plan, TrainingListener())
    for layer, weight in zip(layers, before, strict=True):
        moved = (layer.merged_weight() - weight).abs().mean()
        assert 1e-4 < float(moved) < 3e-3  # of the order of the rate, as under full fine-tuning
    with pytest.raises(ValueError, match="beta2 must lie in"):
        LoRAPro(**settings(), beta1=0.9, beta2=1.0)


def lora_rite() -> LoRARITE:
    return LoRARITE(**settings(), beta1=0.9, beta2=0.999)


def rite_run(M: torch.Tensor, steps: int = 6) -> list[torch.Tensor]:
    """B A after every step, begun from B M and M^-1 A."""
    model, layer = adapted(lora_rite(), base())
    assert isinstance(layer, LoRARITELayer)
    generator = torch.Generator().manual_seed(0)
    A = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    B = torch.randn(8, 3, generator=generator, dtype=torch.float64)
    layer.A.data, layer.B.data = torch.linalg.solve(M, A), B @ M
    products = []
    for step in range(1, steps + 1):
        backward(layer)
        lora_rite().after_backward(model, Progress(step, steps))
        with torch.no_grad():
            for factor in (layer.A, layer.B):
                factor -= 0.01 * factor.grad
                factor.grad = None
        products.append((layer.B @ layer.A).detach())
    return products


def test_lora_rites_path_of_w_is_the_same_however_its_product_is_split() -> None:
    identity = torch.eye(3).double()
    M = torch.randn(3, 3).double() + 3 * identity
    for one, other in zip(rite_run(identity), rite_run(M), strict=True):
        assert_close(one, other, rtol=1e-8, atol=1e-10)


def test_the_first_step_of_lora_rite_is_that_of_its_formula() -> None:
    model, layer = adapted(lora_rite(), base())
    assert isinstance(layer, LoRARITELayer)
    backward(layer)
    # Small gradients, which are neither left out nor clipped.
    g_A, g_B = 1e-3 * layer.A.grad, 1e-3 * layer.B.grad
    layer.A.grad, layer.B.grad = g_A.clone(), g_B.clone()
    expected = []
    for gradient, other in ((g_A.T, layer.B), (g_B, layer.A.T)):
        R = torch.linalg.qr(other.detach()).R
        a = gradient @ torch.linalg.inv(R)
        values, vectors = torch.linalg.eigh(a.T @ a / len(a))  # both betas are 0 in step 1
        S = a @ vectors @ torch.diag(1 / (values.clamp_min(0).sqrt() + 1e-6)) @ vectors.T
        expected.append(S @ torch.linalg.inv(R).T)
    lora_rite().after_backward(model, STEP)
    assert_close(layer.A.grad, expected[0].T, rtol=1e-6, atol=1e-8)
    assert_close(layer.B.grad, expected[1], rtol=1e-6, atol=1e-8)


def test_from_b_zero_lora_rite_moves_b_alone_and_a_huge_gradient_is_left_out() -> None:
    model, layer = adapted(lora_rite(), base(), std=0.0)
    backward(layer)
    layer.B.grad *= 1e-3
    lora_rite().after_backward(model, STEP)
    assert not layer.A.grad.any() and layer.B.grad.any() and layer.B.grad.isfinite().all()
    model, layer = adapted(lora_rite(), base())
    backward(layer)
    layer.B.grad *= 1e6
    lora_rite().after_backward(model, STEP)
    assert not layer.B.grad.any() and layer.A.grad.isfinite().all()
    groups = lora_rite().param_groups(model, 1.0, 0.1)
    assert all(group["plain"] and not group["clip"] for group in groups)
    with pytest.raises(ValueError, match="beta1 must lie in"):
        LoRARITE(**settings(), beta1=1.0, beta2=0.9)
