"""Callers that read an adapted layer, differentiate it in other ways, or convert it."""

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from modules import ADAPTERS, FEW, MANY, method, nudge, only_layer, start_within
from torch import Tensor
from torch.func import functional_call, grad, jvp, vmap
from torch.testing import assert_close

from variants.base import AdapterLayer, adapter_layers, merge
from variants.forms import find_form

pytestmark = pytest.mark.thorough

D_IN, D_OUT = 32, 24
TIGHT = {"rtol": 1e-4, "atol": 1e-5}
SHAPES = [(FEW, D_IN), (1, FEW, D_IN), (MANY, D_IN), (4, MANY // 4, D_IN), (D_IN,)]


def adapted(name: str, model: nn.Module, target: str = "0", **settings: object) -> nn.Module:
    torch.manual_seed(0)
    method(name, target, **settings).adapt(model)
    nudge(model)
    return model.eval()


def one(name: str, **settings: object) -> AdapterLayer:
    return only_layer(adapted(name, nn.Sequential(nn.Linear(D_IN, D_OUT)), **settings))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ADAPTERS)
def test_the_output_may_be_changed_in_place(name: str, shape: tuple[int, ...]) -> None:
    layer, x = one(name), torch.randn(shape)
    found = F.relu(layer(x), inplace=True)
    found.sum().backward()
    grads = {n: p.grad for n, p in layer.named_parameters() if p.requires_grad}
    layer.zero_grad()
    expected = F.relu(layer(x))
    expected.sum().backward()
    assert_close(found, expected)
    for n, p in layer.named_parameters():
        if p.requires_grad:
            assert_close(grads[n], p.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ADAPTERS)
def test_its_weight_can_be_read_and_has_gradients(name: str, dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(D_IN, D_OUT)).to(dtype)
    layer = only_layer(adapted(name, model))
    assert (layer.in_features, layer.out_features) == (D_IN, D_OUT)
    assert layer.weight.dtype == dtype and layer.weight.shape == (D_OUT, D_IN)
    x = torch.randn(MANY, D_IN).to(dtype)
    y = F.linear(x, layer.weight, layer.bias)
    assert_close(y, layer(x), **(TIGHT if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.1}))
    y.sum().backward()
    assert all(p.grad is not None for p in layer.parameters() if p.requires_grad)


def attention() -> nn.Module:
    return nn.MultiheadAttention(D_IN, 4, batch_first=True)


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(D_IN, 4, 48, batch_first=True, dropout=0.0)


def call(model: nn.Module, x: Tensor) -> Tensor:
    return model(x, x, x)[0] if isinstance(model, nn.MultiheadAttention) else model(x)


@pytest.mark.parametrize(
    ("build", "target"),
    [(attention, "out_proj"), (encoder_layer, "out_proj"), (encoder_layer, "linear1"),
     (encoder_layer, "linear2")],
)  # fmt: skip
@pytest.mark.parametrize("name", ADAPTERS)
def test_modules_of_torch_that_read_weights_see_the_adapter(
    name: str, build: Callable[[], nn.Module], target: str
) -> None:
    torch.manual_seed(0)
    model, x = build().eval(), torch.randn(2, 5, D_IN)
    before = call(model, x)
    torch.manual_seed(0)
    method(name, target).adapt(model)
    with torch.no_grad():
        assert_close(call(model, x), before, **start_within(name, {}, 0.2))
    nudge(model)
    with_gradients = call(model, x)  # not torch's fast path, which only inference takes
    with torch.no_grad():
        fast = call(model, x)
    assert not torch.allclose(fast, before, atol=1e-3)
    with_gradients.sum().backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    merge(model)
    with torch.no_grad():
        for found in (with_gradients, fast):
            assert_close(call(model, x), found, rtol=1e-4, atol=1e-5)


def test_settings_of_the_base_can_be_read_and_nothing_else_of_it() -> None:
    class Marked(nn.Linear):
        def __init__(self, *sizes: int) -> None:
            super().__init__(*sizes)
            self.heads = 4

    layer = only_layer(adapted("lora", nn.Sequential(Marked(D_IN, D_OUT))))
    assert layer.heads == 4
    for name in ("kernel_size", "_heads", "absent"):
        with pytest.raises(AttributeError, match=f"'LoRALayer' object has no attribute '{name}'"):
            getattr(layer, name)


@pytest.mark.parametrize("tokens", [FEW, MANY])
@pytest.mark.parametrize("name", ADAPTERS)
def test_second_derivatives_are_those_of_the_merged_weight(name: str, tokens: int) -> None:
    layer = one(name).double()
    x = torch.randn(tokens, D_IN, dtype=torch.float64, requires_grad=True)
    leaves = [x, *(p for p in layer.parameters() if p.requires_grad)]

    def second(function: Callable[[Tensor], Tensor]) -> list[Tensor]:
        y = function(x).sin()
        first = torch.autograd.grad(y.sum(), leaves, create_graph=True)
        total = sum(g.square().sum() for g in first)
        assert isinstance(total, Tensor)
        return list(torch.autograd.grad(total, leaves))

    plain = second(lambda x: F.linear(x, layer.merged_weight(), layer.bias))
    for found, expected in zip(second(layer), plain, strict=True):
        assert_close(found, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("tokens", [FEW, MANY])
@pytest.mark.parametrize("name", ADAPTERS)
def test_transforms_of_functions_give_the_same_derivatives(name: str, tokens: int) -> None:
    layer = one(name).double()
    trained = {n: p.detach() for n, p in layer.named_parameters() if p.requires_grad}
    x = torch.randn(3, tokens, D_IN, dtype=torch.float64)

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x,)).square().mean()

    # One gradient for each example, as in influence functions and in private training.
    found = vmap(grad(loss), in_dims=(None, 0))(trained, x)
    direction = {n: torch.randn_like(p) for n, p in trained.items()}
    forward = jvp(lambda p: loss(p, x[0]), (trained,), (direction,))[1]
    for i in range(3):
        layer.zero_grad()
        layer(x[i]).square().mean().backward()
        grads = {n: p.grad for n, p in layer.named_parameters() if p.requires_grad}
        for n, expected in grads.items():
            assert_close(found[n][i], expected, rtol=1e-8, atol=1e-10)
        if i == 0:
            along = sum((grads[n] * direction[n]).sum() for n in trained)
            assert_close(forward, along, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ADAPTERS)
def test_a_model_that_is_rounded_after_adapting_keeps_what_trains(
    name: str, dtype: torch.dtype
) -> None:
    model = adapted(name, nn.Sequential(nn.Linear(D_IN, D_OUT), nn.Linear(D_OUT, 4)))
    layer = only_layer(model)
    before = {n: p.detach().clone() for n, p in layer.named_parameters() if p.requires_grad}
    x = torch.randn(MANY, D_IN)
    exact = layer(x)
    model.to(dtype)
    for n, p in layer.named_parameters():
        if p.requires_grad:
            assert p.dtype == torch.float32 and torch.equal(p, before[n])
    assert model[1].weight.dtype == layer.bias.dtype == dtype
    for tokens in (FEW, MANY):
        assert_close(layer(x[:tokens].to(dtype)).float(), exact[:tokens], rtol=0.1, atol=0.1)
    model(x.to(dtype)).float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters() if p.requires_grad)
    model.to(dtype)  # a gradient is converted as well, and must fit what it belongs to
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters() if p.requires_grad)
    assert layer.weight.dtype == dtype
    if find_form(layer.merge()) is not None:  # and not a layer of codes again
        assert layer.merge().weight.dtype == dtype


def test_a_layer_says_what_it_is() -> None:
    layer = one("dora")
    first = repr(layer).splitlines()
    assert first[0] == "DoRALayer("
    assert "rank=3, scale=5.33333, trained=192" in first[1]
    assert "frozen" in repr(layer.requires_grad_(False))
    for name in ADAPTERS:
        assert "trained=" in repr(one(name))


def test_a_shared_adapter_is_one_layer() -> None:
    linear = nn.Linear(D_IN, D_IN)
    model = nn.Sequential(linear, nn.ReLU(), linear)
    adapted("lora", model)
    assert len(list(adapter_layers(model))) == 1
