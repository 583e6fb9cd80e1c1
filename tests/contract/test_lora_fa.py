"""LoRA-FA: A never moves, inputs are not kept, the corrected gradient is the best there is."""

from collections.abc import Callable
from copy import deepcopy

import peft
import pytest
import torch
import torch.nn as nn
from peft.optimizers import create_lorafa_optimizer
from torch.testing import assert_close

from variants.base import Progress, adapter_layers
from variants.lora import LoRA, LoRALayer
from variants.lora_fa import LoRAFA

SETTINGS = {"lr": 1.0, "rank": 3, "alpha": 6.0, "dropout": 0.0, "rslora": False, "targets": ["0"]}


def saved_bytes(layer: nn.Module, x: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(kept.values())


@pytest.mark.parametrize(("n", "merged"), [(64, False), (512, True)])
def test_without_dropout_the_input_is_not_kept(n: int, merged: bool) -> None:
    d, rank = 256, 3
    x = torch.randn(n, d, requires_grad=True)
    frozen = LoRAFA(**SETTINGS, corrected=False).wrap(nn.Linear(d, d))
    plain = LoRALayer(nn.Linear(d, d), rank, 2.0, dropout=0.0)
    assert saved_bytes(frozen, x) == 4 * n * rank  # A x alone
    both = n * d + (0 if merged else n * rank)  # x; A x is made anew for many tokens
    assert saved_bytes(plain, x) == 4 * both


def test_the_corrected_gradient_moves_w_as_near_to_the_full_gradient_as_b_can() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5)).double()
    variant = LoRAFA(**SETTINGS, corrected=True)
    variant.adapt(model)
    layer = model[0]
    full = torch.randn(5, 7, dtype=torch.float64)  # G = dL/dW
    layer.B.grad = layer.scale * full @ layer.A.T
    variant.after_backward(model, Progress(1, 1))
    # Least squares: min over X of || s X A - G ||.
    best = torch.linalg.lstsq(layer.scale * layer.A.detach().T, full.T).solution.T
    assert_close(layer.B.grad, best)
    projector = torch.linalg.pinv(layer.A.detach()) @ layer.A.detach()
    assert_close(layer.scale * layer.B.grad @ layer.A.detach(), full @ projector)


def with_peft(dtype: torch.dtype, rslora: bool) -> tuple[nn.Module, nn.Module, LoRAFA]:
    """Our model and PEFT's with the same tensors."""
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 5)).to(dtype)
    config = peft.LoraConfig(
        r=3, lora_alpha=6, use_rslora=rslora, lora_dropout=0.0, target_modules=["0", "2"]
    )
    theirs = peft.get_peft_model(deepcopy(ours), config, autocast_adapter_dtype=False)
    variant = LoRAFA(**{**SETTINGS, "rslora": rslora, "targets": ["0", "2"]}, corrected=True)
    variant.adapt(ours)
    with torch.no_grad():
        for name, layer in adapter_layers(ours):
            their = theirs.base_model.model.get_submodule(name)
            their.lora_A["default"].weight.copy_(layer.A)
            their.lora_B["default"].weight.copy_(layer.B)
    return ours, theirs, variant


@pytest.mark.parametrize("rslora", [False, True])
def test_twenty_steps_are_those_of_pefts_optimizer(rslora: bool) -> None:
    # In float64, which PEFT's bfloat16 autocast leaves alone.
    ours, theirs, variant = with_peft(torch.float64, rslora)
    their_optimizer = create_lorafa_optimizer(theirs, r=3, lora_alpha=6, lr=0.01)
    # PEFT adds eps before it corrects the second moment, torch after: as good as none for both.
    their_optimizer.param_groups[0]["eps"] = 1e-12
    trained = [p for p in ours.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.0, eps=1e-12)
    for step in range(1, 21):
        x, y = torch.randn(16, 20).double(), torch.randn(16, 5).double()
        for net in (ours, theirs):
            (net(x) - y).pow(2).mean().backward()
        variant.after_backward(ours, Progress(step, 20))
        for each in (optimizer, their_optimizer):
            each.step()
            each.zero_grad()
        for name, layer in adapter_layers(ours):
            their = theirs.base_model.model.get_submodule(name)
            assert_close(layer.A, their.lora_A["default"].weight, rtol=0, atol=0)
            # It inverts A A^T + 1e-8 I.
            assert_close(layer.B, their.lora_B["default"].weight, rtol=1e-5, atol=1e-8)
    assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-7)


def test_the_corrected_gradient_is_that_of_pefts_optimizer_in_bfloat16() -> None:
    ours, theirs, variant = with_peft(torch.float32, False)
    optimizer = create_lorafa_optimizer(theirs, r=3, lora_alpha=6, lr=0.01)
    x, y = torch.randn(64, 20), torch.randn(64, 5)
    for net in (ours, theirs):
        (net(x) - y).pow(2).mean().backward()
    variant.after_backward(ours, Progress(1, 1))
    optimizer.step()
    for name, layer in adapter_layers(ours):
        state = optimizer.state[f"base_model.model.{name}.lora"]
        corrected = state["exp_avg_B"] / 0.1  # the first step's average: (1 - beta1) g
        assert (corrected - layer.B.grad).norm() < 0.01 * layer.B.grad.norm()


def test_the_correction_undoes_scale_and_any_change_of_basis_of_a() -> None:
    # The move of W that it stands for is G projected on A's rows, whatever A and s are.
    torch.manual_seed(0)
    full = torch.randn(5, 7, dtype=torch.float64)
    basis = torch.randn(3, 7, dtype=torch.float64)
    moves = []
    for alpha, change in ((6.0, torch.eye(3)), (96.0, torch.eye(3)), (6.0, torch.randn(3, 3))):
        model = nn.Sequential(nn.Linear(7, 5)).double()
        variant = LoRAFA(**{**SETTINGS, "alpha": alpha}, corrected=True)
        variant.adapt(model)
        layer = model[0]
        with torch.no_grad():
            layer.A.copy_(change.double() @ basis)
        layer.B.grad = layer.scale * full @ layer.A.detach().T
        variant.after_backward(model, Progress(1, 1))
        moves.append(layer.scale * layer.B.grad @ layer.A.detach())
    assert_close(moves[1], moves[0])
    assert_close(moves[2], moves[0])


def test_the_plain_algorithm_leaves_the_gradient_alone() -> None:
    model = nn.Sequential(nn.Linear(7, 5))
    variant = LoRAFA(**SETTINGS, corrected=False)
    variant.adapt(model)
    model[0].B.grad = torch.ones_like(model[0].B)
    variant.after_backward(model, Progress(1, 1))
    assert (model[0].B.grad == 1).all()


@pytest.mark.parametrize("corrected", ["true", "false"])
def test_a_stays_as_drawn_and_is_saved(tiny_run: Callable, tmp_path, corrected: str) -> None:
    from experiments.running.job import prepare_run
    from experiments.training.loop import TrainingListener, fit

    run = tiny_run("lora_fa", f"variant.corrected={corrected}")
    job = prepare_run(run, run.task.load(run.data))
    layers = dict(adapter_layers(job.loaded.model.backbone))
    before = {name: layer.A.detach().clone() for name, layer in layers.items()}
    fit(job.loaded.model, run.variant, job.batches, job.plan, TrainingListener())
    assert all(torch.equal(layers[name].A, A) for name, A in before.items())
    state = run.variant.learned_state(job.loaded.model.backbone)
    assert all(torch.equal(state[f"{name}.A"], A) for name, A in before.items())
    assert all(layer.B.any() for layer in layers.values())


def test_w_moves_within_the_rows_of_a_alone() -> None:
    ours, _, variant = with_peft(torch.float64, False)
    optimizer = torch.optim.AdamW([p for p in ours.parameters() if p.requires_grad], lr=0.1)
    for step in range(1, 6):
        ours(torch.randn(8, 20).double()).pow(2).sum().backward()
        variant.after_backward(ours, Progress(step, 5))
        optimizer.step()
        optimizer.zero_grad()
    for _, layer in adapter_layers(ours):
        delta = layer.merged_weight() - layer.W0
        projector = torch.linalg.pinv(layer.A.detach()) @ layer.A.detach()
        assert delta.abs().max() > 0.01
        assert_close(delta @ projector, delta, rtol=0, atol=1e-12)


def test_the_plain_algorithm_is_lora_with_a_rate_of_zero_for_a() -> None:
    results = []
    for frozen in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(7, 5))
        if frozen:
            LoRAFA(**SETTINGS, corrected=False).adapt(model)
        else:
            LoRA(**SETTINGS).adapt(model)
        layer = model[0]
        groups = [{"params": [layer.A], "lr": 0.0, "weight_decay": 0.0}, {"params": [layer.B]}]
        optimizer = torch.optim.AdamW(groups[frozen:], lr=0.1)
        for step in range(5):
            x = torch.randn(8, 7, generator=torch.Generator().manual_seed(step))
            model(x).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append(layer)
    assert torch.equal(results[0].A, results[1].A) and torch.equal(results[0].B, results[1].B)


def test_the_correction_does_nothing_where_it_has_nothing_to_do() -> None:
    # A A^T = I / s^2.
    model = nn.Sequential(nn.Linear(7, 5)).double()
    variant = LoRAFA(**SETTINGS, corrected=True)
    variant.adapt(model)
    with torch.no_grad():
        model[0].A.copy_(torch.eye(3, 7) / model[0].scale)
    gradient = torch.randn(5, 3, dtype=torch.float64)
    model[0].B.grad = gradient.clone()
    variant.after_backward(model, Progress(1, 1))
    assert_close(model[0].B.grad, gradient)
