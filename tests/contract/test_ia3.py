"""(IA)3: outputs with their bias, inputs without it, and how many numbers there are."""

import pytest
import torch
import torch.nn as nn
from peft_oracle import assert_peft_agrees, base
from torch.testing import assert_close

from variants.base import merge
from variants.ia3 import IA3, IA3InputLayer, IA3Layer


def test_an_output_vector_of_two_doubles_the_output_with_its_bias() -> None:
    layer, x = IA3Layer(nn.Linear(6, 4)), torch.randn(3, 6)
    nn.init.constant_(layer.l, 2.0)
    assert torch.equal(layer(x), 2 * layer.base(x))
    assert torch.equal(layer.merge()(x), 2 * layer.base(x))
    nn.init.zeros_(layer.l)
    assert not layer(x).any() and not layer.merge()(x).any()


def test_an_input_vector_leaves_the_bias_as_it_was() -> None:
    layer, x = IA3InputLayer(nn.Linear(6, 4)), torch.randn(3, 6)
    nn.init.constant_(layer.l, 2.0)
    assert_close(layer(x), 2 * (layer.base(x) - layer.bias) + layer.bias)
    assert layer.merge().bias is layer.bias


def test_the_gradient_of_l_is_a_sum_over_tokens() -> None:
    layer = IA3Layer(nn.Linear(6, 4)).double()
    nn.init.uniform_(layer.l, 0.5, 2.0)
    x, g = torch.randn(7, 6).double(), torch.randn(7, 4).double()
    y = layer(x)
    y.backward(g)
    assert_close(layer.l.grad, (y * g).sum(dim=0) / layer.l)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", ["targets", "feedforward"])
def test_output_merge_and_format_are_those_of_peft(side: str, bias: bool) -> None:
    sides = {"targets": [], "feedforward": []} | {side: ["0"]}
    read = assert_peft_agrees(IA3(lr=1.0, **sides), base(bias=bias))
    assert read == IA3(lr=0.0, **sides)


def test_no_vector_is_decayed_and_a_target_must_exist() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    variant = IA3(lr=1.0, targets=["0"], feedforward=[])
    variant.adapt(model)
    assert all(group["weight_decay"] == 0 for group in variant.param_groups(model, 1.0, 0.1))
    merge(model)
    with pytest.raises(ValueError, match="must name at least one linear layer"):
        IA3(lr=1.0, targets=[], feedforward=[]).adapt(model)
