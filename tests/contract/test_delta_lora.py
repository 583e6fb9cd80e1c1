"""Delta-LoRA: the telescoped form is the literal algorithm."""

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.testing import assert_close

from variants.base import Progress
from variants.delta_lora import DeltaLoRA, DeltaLoRALayer
from variants.lora import LoRA, LoRALayer

SETTINGS = {"lr": 1.0, "rank": 2, "alpha": 3.0, "dropout": 0.0, "rslora": False, "targets": ["0"]}
TOTAL = 12


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    draw = lambda *size: torch.randn(*size, generator=generator, dtype=torch.float64)  # noqa: E731
    return draw(9, 6), draw(9, 5)


def literal(base: nn.Linear, A0: torch.Tensor, K: int, ratio: float, decay: float):
    """Algorithm 1 step by step: W itself moves, for t > K with t from 0."""
    scale = SETTINGS["alpha"] / SETTINGS["rank"]
    W = base.weight.detach().clone()
    A = nn.Parameter(A0.clone())
    B = nn.Parameter(torch.zeros(5, 2, dtype=torch.float64))
    optimizer = torch.optim.AdamW([A, B], lr=0.05, weight_decay=decay)
    losses = []
    for t in range(TOTAL):
        x, y = data(t)
        loss = F.mse_loss(F.linear(x, W, base.bias) + scale * x @ A.T @ B.T, y)
        loss.backward()
        before = (B @ A).detach()
        optimizer.step()
        optimizer.zero_grad()
        if t > K:
            W = W + ratio * scale * ((B @ A).detach() - before)
        losses.append(loss.item())
    return W, A.detach(), B.detach(), losses


@pytest.mark.parametrize("tokens", ["few", "many"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("K", [0, 3, 7])
def test_the_telescoped_form_is_the_literal_algorithm(
    monkeypatch: pytest.MonkeyPatch, K: int, decay: float, tokens: str
) -> None:
    if tokens == "few":  # the nine are many for a layer as small as this
        monkeypatch.setattr(DeltaLoRALayer, "factors", lambda self: None)
    assert_literal(K, decay)


def assert_literal(K: int, decay: float) -> None:
    """Train by the algorithm and by ours."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5)).double()
    base, ratio = model[0], 0.7
    variant = DeltaLoRA(**SETTINGS, ratio=ratio, start=K / TOTAL)
    variant.adapt(model)
    layer = model[0]
    assert isinstance(layer, DeltaLoRALayer)
    W, A, B, losses = literal(base, layer.A.detach(), K, ratio, decay)
    W0 = base.weight.detach().clone()
    optimizer = torch.optim.AdamW([layer.A, layer.B], lr=0.05, weight_decay=decay)
    found = []
    for step in range(1, TOTAL + 1):
        x, y = data(step - 1)
        loss = F.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        variant.after_step(model, Progress(step, TOTAL))
        optimizer.zero_grad()
        found.append(loss.item())
    assert found == pytest.approx(losses, rel=1e-10)
    assert_close(layer.A.detach(), A)
    assert_close(layer.B.detach(), B)
    merged = layer.merged_weight().detach()
    assert_close(merged, W + layer.scale * B @ A)
    assert torch.equal(base.weight, W0) and base.weight.grad is None
    assert torch.linalg.matrix_rank(merged - W0, rtol=1e-8) <= 2 * variant.rank


def test_before_w_moves_it_is_lora_bit_for_bit() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(6, 5)
    layer = DeltaLoRALayer(linear, 2, 1.5, ratio=0.7)
    plain = LoRALayer(linear, 2, 1.5, dropout=0.0)
    with torch.no_grad():
        layer.B.normal_()
        plain.A.copy_(layer.A)
        plain.B.copy_(layer.B)
    x = torch.randn(4, 6)
    assert torch.equal(layer(x), plain(x))
    layer.start()
    assert_close(layer(x), plain(x))  # the moved part starts at nothing


def test_the_moved_part_gives_a_gradient_to_the_input_and_none_to_the_factors() -> None:
    torch.manual_seed(0)
    layer = DeltaLoRALayer(nn.Linear(6, 5).double(), 2, 1.5, ratio=0.7)
    with torch.no_grad():
        layer.B.normal_()
        layer.start()
        layer.B.normal_()
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    g = torch.randn(4, 5, dtype=torch.float64)
    layer(x).backward(g)
    assert_close(x.grad, g @ layer.merged_weight().detach())
    assert_close(layer.B.grad, layer.scale * g.T @ x.detach() @ layer.A.detach().T)
    assert layer.A_k.grad is None and not layer.A_k.requires_grad


def test_dropout_is_an_error() -> None:
    with pytest.raises(ValueError, match="delta_lora has no dropout"):
        DeltaLoRA(**{**SETTINGS, "dropout": 0.1}, ratio=0.5, start=0.1)


def test_the_saved_state_is_two_pairs(case: Callable) -> None:
    model = nn.Sequential(nn.Linear(6, 5))
    variant = DeltaLoRA(**SETTINGS, ratio=0.5, start=0.0)
    variant.adapt(model)
    assert set(variant.learned_state(model)) == {"0.A", "0.B"}
    variant.after_step(model, Progress(1, 10))
    assert set(variant.learned_state(model)) == {"0.A", "0.B", "0.A_k", "0.B_k"}


def test_without_a_ratio_it_is_lora_to_the_end() -> None:
    results = []
    for method in (LoRA(**SETTINGS), DeltaLoRA(**SETTINGS, ratio=0.0, start=0.0)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 5)).double()
        method.adapt(model)
        optimizer = torch.optim.AdamW([model[0].A, model[0].B], lr=0.05)
        for step in range(1, 6):
            x, y = data(step)
            F.mse_loss(model(x), y).backward()
            optimizer.step()
            method.after_step(model, Progress(step, 5))
            optimizer.zero_grad()
        results.append(model[0])
    assert_close(results[1].B, results[0].B, rtol=1e-12, atol=1e-12)
    assert_close(results[1].A, results[0].A, rtol=1e-12, atol=1e-12)


def test_without_dropout_w_and_the_product_have_one_gradient() -> None:
    torch.manual_seed(0)
    x, g = torch.randn(4, 6).double(), torch.randn(4, 5).double()
    W = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    product = torch.zeros(5, 6, dtype=torch.float64, requires_grad=True)
    for dropped, same in ((x, True), (F.dropout(x, 0.5), False)):
        (F.linear(x, W) + F.linear(dropped, product)).backward(g)
        assert torch.equal(W.grad, product.grad) == same
        W.grad = product.grad = None
