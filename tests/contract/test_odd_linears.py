"""Linear layers that are more than their weight: every method is right on them, or refuses."""

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from modules import (
    ADAPTERS,
    DROPPING,
    FEW,
    MANY,
    QUANTISED,
    method,
    moved_bias,
    nudge,
    only_layer,
    start_within,
)
from torch import Tensor
from torch.testing import assert_close

from variants.base import AdapterLayer, mark_additive, merge
from variants.forms import mark_linear_map
from variants.residual import ResidualLayer

pytestmark = pytest.mark.thorough

D_IN, D_OUT = 32, 24


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


class Wider(nn.Linear):
    """Like routers and decoupled layers: its output is not its weight's."""

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(super().forward(x), (0, 2))


class Router(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = super().forward(x)
        return y.softmax(dim=-1), y


def hooked(linear: nn.Linear) -> nn.Linear:
    linear.register_forward_hook(lambda module, inputs, y: 3 * y)
    return linear


def pre_hooked(linear: nn.Linear) -> nn.Linear:
    linear.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    return linear


def patched(linear: nn.Linear) -> nn.Linear:
    """As accelerate's hooks do it."""
    own = linear.forward
    linear.forward = lambda x: own(x) * 3  # type: ignore[method-assign]
    return linear


ODD: dict[str, Callable[[], nn.Linear]] = {
    "a subclass": lambda: Scaled(D_IN, D_OUT),
    "a hook": lambda: hooked(nn.Linear(D_IN, D_OUT)),
    "a hook on the input": lambda: pre_hooked(nn.Linear(D_IN, D_OUT)),
    "a forward of the object": lambda: patched(nn.Linear(D_IN, D_OUT)),
}


def adapt(name: str, linear: nn.Module, **settings: object) -> nn.Sequential | None:
    """A model of one layer, adapted; None where the method refuses in a sentence."""
    model = nn.Sequential(linear)
    torch.manual_seed(1)
    try:
        method(name, "0", **settings).adapt(model)
    except ValueError as error:
        assert str(error).endswith(".") and "0" in str(error)
        return None
    return model.eval()


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ADAPTERS)
def test_what_the_base_does_beside_its_weight_is_kept_for_few_tokens_and_many(
    name: str, odd: str
) -> None:
    torch.manual_seed(0)
    linear = ODD[odd]()
    few, many = torch.randn(FEW, D_IN), torch.randn(4, MANY // 4, D_IN)
    with torch.no_grad():
        before = [linear(x) for x in (few, many)]
    model = adapt(name, linear)
    if model is None:
        assert name in QUANTISED
        return
    for x, y in zip((few, many), before, strict=True):
        assert_close(model(x), y, **start_within(name, {"rtol": 1e-5, "atol": 1e-5}, 0.01))
    nudge(model)
    layer = only_layer(model)
    with torch.no_grad():
        change = layer.merged_weight() - layer.W0
        for x in (few, many):
            expected = layer.base(x) + F.linear(x, change, moved_bias(layer))
            assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_hook_that_comes_later_is_kept_too(name: str) -> None:
    model = adapt(name, nn.Linear(D_IN, D_OUT))
    assert model is not None
    nudge(model)
    layer = only_layer(model)
    for x in (torch.randn(FEW, D_IN), torch.randn(MANY, D_IN)):
        with torch.no_grad():
            change = layer.merged_weight() - layer.W0
            expected = 3 * layer.base(x) + F.linear(x, change, moved_bias(layer))
            handle = layer.base.register_forward_hook(lambda module, inputs, y: 3 * y)
            assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
            handle.remove()


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("name", ADAPTERS)
def test_what_has_no_plain_equal_is_not_merged(name: str, odd: str) -> None:
    model = adapt(name, ODD[odd]())
    if model is not None:
        layer = only_layer(model)
        with pytest.raises(ValueError, match=r"^0 cannot be merged\. .*(hooks|of its own)"):
            merge(model)
        assert model[0] is layer


@pytest.mark.parametrize("odd", [Wider, Router])
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_output_of_another_form_is_refused(name: str, odd: type[nn.Linear]) -> None:
    model = adapt(name, odd(D_IN, D_OUT))
    if model is None:
        return
    for tokens in (FEW, MANY):
        with pytest.raises(ValueError, match=f"^{odd.__name__} returns .* leave it out"):
            model(torch.randn(tokens, D_IN))


@pytest.mark.parametrize(
    ("name", "dropout"), [(n, 0.0) for n in ADAPTERS] + [(n, 0.5) for n in DROPPING]
)
def test_gradients_and_dropout_reach_a_layer_beside_its_base(name: str, dropout: float) -> None:
    settings = {"dropout": dropout} if name in DROPPING else {}
    model = adapt(name, Scaled(D_IN, D_OUT), **settings)
    if model is None:
        return
    nudge(model)
    x = torch.randn(MANY, D_IN, requires_grad=True)
    torch.manual_seed(2)
    y = model.train()(x)
    y.sum().backward()
    assert x.grad is not None and x.grad.any()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    layer = only_layer(model)
    torch.manual_seed(2)
    dropped = F.dropout(x, dropout)
    change, start = layer.compute_change(), torch.zeros(D_OUT, D_IN)
    if isinstance(layer, ResidualLayer):  # its start is subtracted without dropout
        start = layer.scale * layer.B_0 @ layer.A_0
    expected = F.linear(dropped, change + start, moved_bias(layer)) - x @ start.T
    assert_close(y, layer.base(x) + expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_compiled_layer_is_merged_into_one_of_its_own(name: str) -> None:
    linear = nn.Linear(D_IN, D_OUT)
    linear.compile(backend="eager")
    model = adapt(name, linear)
    assert model is not None
    nudge(model)
    x = torch.randn(MANY, D_IN)
    y = model(x)
    merge(model)
    assert_close(model(x), y, rtol=1e-4, atol=1e-5)


def test_a_forward_pass_that_is_marked_is_that_of_a_linear_layer() -> None:
    class Marked(nn.Linear):
        @mark_linear_map
        def forward(self, input: Tensor) -> Tensor:
            return input @ self.weight.T + self.bias

    class Under(Marked):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    x = torch.randn(MANY, D_IN)
    for cls in (Marked, Under):
        model = adapt("dora", cls(D_IN, D_OUT))
        assert model is not None
        nudge(model)
        y = model(x)
        if cls is Under:
            with pytest.raises(ValueError, match="Under has a forward pass of its own"):
                merge(model)
            continue
        merge(model)
        assert type(model[0]) is Marked
        assert_close(model(x), y, rtol=1e-4, atol=1e-5)


class Turned(AdapterLayer):
    """A method as one writes it: the equation, and for speed a forward pass of its own."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.R = nn.Parameter(torch.eye(self.W0.shape[0]))

    def merged_weight(self) -> Tensor:
        return self.R @ self.W0


class Quick(Turned):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.R @ self.W0, self.bias)


class Odd(Turned):
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return F.linear(x, self.R @ self.W0, self.bias)


@pytest.mark.parametrize("cls", [Turned, Quick, Odd])
def test_a_method_gets_this_whatever_of_it_it_has_written_itself(cls: type[AdapterLayer]) -> None:
    layer = cls(hooked(nn.Linear(D_IN, D_OUT)))
    nudge(layer)
    for x in (torch.randn(FEW, D_IN), torch.randn(MANY, D_IN)):
        expected = layer.base(x) + x @ (layer.merged_weight() - layer.W0).T
        assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


def test_a_mark_is_not_inherited_by_an_update_of_another_form() -> None:
    class Plain(Turned):
        @mark_additive
        def update(self, x: Tensor, y: Tensor) -> Tensor:
            return y + F.linear(x, self.compute_change())

    class Rescaled(Plain):
        def update(self, x: Tensor, y: Tensor) -> Tensor:
            return 2 * super().update(x, y)

        def merged_weight(self) -> Tensor:
            return 2 * super().merged_weight()

    x = torch.randn(MANY, D_IN)
    for cls in (Plain, Rescaled):
        layer = cls(Scaled(D_IN, D_OUT))
        nudge(layer)
        expected = layer.base(x) + x @ (layer.merged_weight() - layer.W0).T
        assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_weight_that_is_computed_when_it_is_read_is_merged_into_a_plain_layer(name: str) -> None:
    torch.manual_seed(0)
    linear = nn.utils.parametrizations.weight_norm(nn.Linear(D_IN, D_OUT))
    few, many = torch.randn(FEW, D_IN), torch.randn(MANY, D_IN)
    before = linear(few)
    model = adapt(name, linear)
    if model is None:
        return
    assert_close(model(few), before, **start_within(name, {"rtol": 1e-5, "atol": 1e-5}, 0.01))
    nudge(model)
    after = [model(few), model(many)]
    merge(model)
    assert type(model[0]) is nn.Linear
    for x, y in zip((few, many), after, strict=True):
        assert_close(model(x), y, rtol=1e-4, atol=1e-5)
