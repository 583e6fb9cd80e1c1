"""LoRA-XS: frozen singular bases, and nothing but R trained and stored."""

import pytest
import torch
import torch.nn as nn
from peft_oracle import adapted, base, in_peft
from torch.testing import assert_close

from variants.lora_xs import LoRAXS, LoRAXSLayer
from variants.spectral import signed_svd

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def method(rank: int = 3, alpha: float = 6.0) -> LoRAXS:
    return LoRAXS(lr=1.0, rank=rank, alpha=alpha, dropout=0.0, targets=["0"])


def trained() -> LoRAXSLayer:
    layer = adapted(method(), base())[1]
    assert isinstance(layer, LoRAXSLayer)
    return layer


def test_the_change_stays_in_the_principal_subspaces() -> None:
    layer = trained()
    U, _, Vh = torch.linalg.svd(layer.W0.detach(), full_matrices=False)
    change = (layer.merged_weight() - layer.W0).detach()
    assert change.norm() > 0.1
    assert_close(U[:, 3:].T @ change, torch.zeros(5, 12).double(), **EXACT)
    assert_close(change @ Vh[3:].T, torch.zeros(8, 5).double(), **EXACT)


def test_an_identity_over_s_is_the_principal_part_of_w0() -> None:
    layer = trained()
    layer.R.data = torch.eye(3).double() / layer.scale
    U, S, Vh = torch.linalg.svd(layer.W0.detach(), full_matrices=False)
    part = (U[:, :3] * S[:3]) @ Vh[:3]
    assert_close(layer.merged_weight() - layer.W0, part, **EXACT)


def test_the_gradient_of_r_is_that_of_w_between_the_bases_and_does_not_depend_on_r() -> None:
    layer = trained()
    x, g = torch.randn(7, 12).double(), torch.randn(7, 8).double()
    expected = layer.scale * layer.B.T @ (g.T @ x) @ layer.A.T
    for R in (torch.zeros(3, 3).double(), torch.randn(3, 3).double()):
        layer.R.data, layer.R.grad = R, None
        layer(x).backward(g)
        assert_close(layer.R.grad, expected, **EXACT)
    assert layer.A.grad is None and layer.B.grad is None


def test_signs_follow_a_rule_and_other_vectors_are_refused() -> None:
    W0 = torch.randn(8, 12)
    U, S, Vh = signed_svd(W0)
    assert_close((U * S) @ Vh, W0)
    assert (U.gather(0, U.abs().argmax(dim=0, keepdim=True)) > 0).all()
    model, other = base(), base()
    method().adapt(model)
    state = method().learned_state(model)
    assert set(state) == {"0.R", "0.basis"}
    nearly = state | {"0.basis": state["0.basis"] * (1 + 1e-6)}
    method().load_state(model, nearly)  # another library's rounding
    other[0].weight.data[0] *= -1
    method().adapt(other)
    with pytest.raises(ValueError, match=r"other singular vectors of 0 .*0\.basis differs"):
        method().load_state(other, state)
    with pytest.raises(ValueError, match=r"0\.basis differs"):
        method(rank=2).load_state(model, {"0.R": state["0.R"]})


def test_it_is_a_lora_of_pefts() -> None:
    variant, model = method(), base()
    ours, _ = adapted(variant, model)
    form = variant.to_peft(ours)
    theirs = in_peft(form.config, model)
    layer = theirs.base_model.model[0]
    layer.lora_A["default"].weight.data = form.layers["0"]["lora_A.weight"]
    layer.lora_B["default"].weight.data = form.layers["0"]["lora_B.weight"]
    x = torch.randn(5, 12).double()
    assert_close(theirs(x), ours(x), **EXACT)


def test_a_rank_above_the_smaller_side_is_refused() -> None:
    with pytest.raises(ValueError, match="rank must be at most 8"):
        method(rank=9).adapt(nn.Sequential(nn.Linear(12, 8)))
