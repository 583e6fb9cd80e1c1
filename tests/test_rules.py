"""Own rules for the gradients of LoRA's factors: Riemannian preconditioning."""

import pytest
import torch
from peft.optimizers import create_riemannian_optimizer
from peft_oracle import adapted, base, in_peft
from torch.testing import assert_close

from variants.base import Progress
from variants.lora import LoRALayer
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
