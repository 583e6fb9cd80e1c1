"""LoRA: start, scale, gradients, dropout and rank as the paper and its code have them."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.testing import assert_close

from variants.lora import LoRA, LoRALayer

SETTINGS = {"lr": 1.0, "rank": 2, "alpha": 3.0, "dropout": 0.0, "rslora": False, "targets": ["0"]}


def layer(dropout: float = 0.0, scale: float = 1.5) -> LoRALayer:
    """A layer that has been trained for a while, in float64."""
    torch.manual_seed(0)
    made = LoRALayer(nn.Linear(7, 5), 2, scale, dropout).double()
    nn.init.normal_(made.B)
    return made


def test_it_starts_as_the_base_to_the_last_bit() -> None:
    torch.manual_seed(0)
    base = nn.Linear(64, 48)
    made, x = LoRALayer(base, 8, 2.0, dropout=0.0), torch.randn(5, 64)
    assert torch.equal(made(x), base(x))
    assert torch.equal(made.merged_weight(), base.weight)


def test_a_is_drawn_as_in_the_authors_code_and_b_is_zero() -> None:
    torch.manual_seed(0)
    made = LoRALayer(nn.Linear(768, 768), 8, 2.0, dropout=0.0)
    assert float(made.A.detach().std()) == pytest.approx((3 * 768) ** -0.5, rel=0.02)
    assert made.A.abs().max() <= 768**-0.5
    assert not made.B.any()


@pytest.mark.parametrize(("rslora", "scale"), [(False, 8.0), (True, 16.0)])
def test_the_scale_is_alpha_over_the_rank_or_over_its_root(rslora: bool, scale: float) -> None:
    assert LoRA(**{**SETTINGS, "alpha": 32.0, "rank": 4, "rslora": rslora}).scale == scale


def test_only_b_has_a_gradient_in_the_first_step() -> None:
    made = layer()
    nn.init.zeros_(made.B)
    made(torch.randn(4, 7).double()).square().sum().backward()
    assert not made.A.grad.any() and made.B.grad.any()
    assert made.base.weight.grad is None and made.base.bias.grad is None


def test_the_gradients_are_those_of_the_formula() -> None:
    made = layer()
    x = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    g = torch.randn(4, 5, dtype=torch.float64)
    made(x).backward(g)
    G = g.T @ x.detach()  # dL/dW
    assert_close(made.B.grad, made.scale * G @ made.A.detach().T)
    assert_close(made.A.grad, made.scale * made.B.detach().T @ G)
    assert_close(x.grad, g @ made.merged_weight().detach())


def test_the_rank_of_the_change_is_at_most_r() -> None:
    made = layer()
    assert torch.linalg.matrix_rank(made.merged_weight() - made.W0) == 2


def test_dropout_falls_on_the_input_of_the_update_alone() -> None:
    made, x = layer(dropout=0.5), torch.randn(4, 7).double()
    torch.manual_seed(3)
    found = made(x)
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.5)
    assert_close(found, made.base(x) + 1.5 * dropped @ made.A.T @ made.B.T)
    assert_close(made.eval()(x), F.linear(x, made.merged_weight(), made.bias))


def test_dropout_leaves_the_mean_of_the_update_as_it_is() -> None:
    made, x = layer(dropout=0.3), torch.randn(1, 7).double()
    mean = made(x.expand(200_000, 7)).mean(dim=0)
    assert_close(mean, made.eval()(x)[0], rtol=0, atol=0.02)
