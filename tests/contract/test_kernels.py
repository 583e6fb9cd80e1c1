"""The merged form: when it is taken, what it costs, and what it keeps."""

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from experiments.backbones.layers import CastLinear
from variants import base, dora, products
from variants.dora import DoRALayer
from variants.lora import LoRALayer
from variants.products import can_merge, merged_linear, merging_pays, side_product
from variants.quantize import NF4Linear

N, D_IN, D_OUT, RANK = 200, 48, 32, 4


@pytest.fixture(autouse=True)
def merged(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, ...]]]:
    """The shape of the input of every merged product."""
    shapes: list[tuple[int, ...]] = []

    def counting(x: Tensor, *rest: object) -> Tensor:
        shapes.append(tuple(x.shape))
        return products.merged_linear(x, *rest)

    for module in (base, dora):
        monkeypatch.setattr(module, "merged_linear", counting)
    yield shapes


def layer(cls: type[LoRALayer] = LoRALayer, dropout: float = 0.0, bias: bool = True) -> LoRALayer:
    """A layer that has been trained for a while."""
    torch.manual_seed(0)
    made = cls(nn.Linear(D_IN, D_OUT, bias=bias), RANK, 1.5, dropout)
    nn.init.normal_(made.B)
    return made


def tensors(dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """x, W0, A, B and a bias that all ask for a gradient but W0."""
    torch.manual_seed(0)
    shapes = (7, 3, D_IN), (D_OUT, D_IN), (RANK, D_IN), (D_OUT, RANK), (D_OUT,)
    made = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    return made[0], made[1].requires_grad_(False), *made[2:]


def test_the_gradients_are_right_by_finite_differences() -> None:
    x, W0, A, B, bias = tensors()
    assert torch.autograd.gradcheck(lambda x, A, B, bias: merged_linear(x, W0, A, B, 1.5, bias),
                                    (x[:2, :1], A, B, bias))  # fmt: skip


@pytest.mark.parametrize("needed", range(16))
def test_only_gradients_that_are_asked_for_are_made(needed: int) -> None:
    x, W0, A, B, bias = tensors()
    free = [t for i, t in enumerate((x, A, B, bias)) if needed >> i & 1]
    for tensor in (x, A, B, bias):
        tensor.requires_grad_(any(tensor is each for each in free))
    found = merged_linear(x, W0, A, B, 1.5, bias)
    expected = F.linear(x, W0 + 1.5 * B @ A, bias)
    assert_close(found, expected)
    if not free:
        assert not found.requires_grad
        return
    dy = torch.randn_like(found)
    right = torch.autograd.grad(expected, free, dy)
    for mine, theirs in zip(torch.autograd.grad(found, free, dy), right, strict=True):
        assert_close(mine, theirs)


@pytest.mark.parametrize("needed", range(8))
def test_the_side_product_makes_only_gradients_that_are_asked_for(needed: int) -> None:
    x, _, A, B, _ = tensors()
    free = [t for i, t in enumerate((x, A, B)) if needed >> i & 1]
    for tensor in (x, A, B):
        tensor.requires_grad_(any(tensor is each for each in free))
    found, expected = side_product(x, A, B, 1.5), 1.5 * x @ A.T @ B.T
    assert_close(found, expected)
    if free:
        dy = torch.randn_like(found)
        right = torch.autograd.grad(expected, free, dy)
        for mine, theirs in zip(torch.autograd.grad(found, free, dy), right, strict=True):
            assert_close(mine, theirs)


def test_the_side_product_in_bfloat16_rounds_as_torchs_products_do() -> None:
    x, _, A, B, _ = tensors()
    y = 1.5 * x @ A.T @ B.T
    dy = torch.randn_like(y)
    exact = (y, *torch.autograd.grad(y, (x, A, B), dy))

    def error(product: Callable[..., Tensor]) -> float:
        free = [t.detach().bfloat16().requires_grad_() for t in (x, A, B)]
        y = product(*free)
        found = (y, *torch.autograd.grad(y, free, dy.bfloat16()))
        assert {t.dtype for t in found} == {torch.bfloat16}
        pairs = zip(found, exact, strict=True)
        return max(float((one - right).abs().max() / right.abs().max()) for one, right in pairs)

    mine = error(lambda x, A, B: side_product(x, A, B, 1.5))
    assert mine < 0.02 and mine < 1.5 * error(lambda x, A, B: F.linear(F.linear(x, A), B) * 1.5)


@pytest.mark.parametrize("cls", [LoRALayer, DoRALayer])
def test_many_tokens_are_merged_and_few_are_not(cls: type[LoRALayer], merged: list) -> None:
    made, even = layer(cls), D_IN * D_OUT / (D_IN + D_OUT)
    made(torch.randn(int(even), D_IN))
    assert not merged
    made(torch.randn(1, int(even) + 1, D_IN))
    assert merged == [(1, int(even) + 1, D_IN)]


def test_a_high_rank_needs_twice_as_many_tokens() -> None:
    x, wide = torch.randn(100, 100), torch.randn(100, 64)
    assert merging_pays(x, wide.T[:8], wide[:, :8]) and not merging_pays(x, wide.T, wide)
    assert merging_pays(torch.cat((x, x)), wide.T, wide)


@pytest.mark.parametrize("cls", [LoRALayer, DoRALayer])
def test_nothing_is_merged_that_would_be_rounded_dropped_or_dequantised(
    cls: type[LoRALayer], merged: list
) -> None:
    x = torch.randn(N, D_IN)
    layer(cls, dropout=0.5)(x)
    half = layer(cls)
    half.base.weight.data = half.base.weight.data.bfloat16()
    half.base.__class__ = CastLinear
    half(x.bfloat16())
    half(x)
    cls(NF4Linear(nn.Linear(D_IN, D_OUT), 64, False), RANK, 1.5, 0.0)(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer(cls)(x)
    assert not merged
    layer(cls, dropout=0.5).eval()(x)
    assert merged == [(N, D_IN)]


def test_a_weight_that_trains_after_all_is_not_merged() -> None:
    made = layer()
    assert can_merge(torch.randn(N, D_IN), made.base)
    made.base.requires_grad_(True)
    made(torch.randn(N, D_IN)).sum().backward()
    assert made.base.weight.grad is not None and made.base.bias.grad is not None


@pytest.mark.parametrize("cls", [LoRALayer, DoRALayer])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_without_bias_and_a_bias_that_trains(
    cls: type[LoRALayer], bias: bool, merged: list
) -> None:
    made, x = layer(cls, bias=bias).double(), torch.randn(N, D_IN).double()
    if made.bias is not None:
        made.bias.requires_grad_(True)
    y = made(x)
    assert_close(y, F.linear(x, made.merged_weight(), made.bias))
    y.sum().backward()
    assert merged and (made.bias is None or (made.bias.grad == N).all())


def kept(made: nn.Module, x: Tensor) -> int:
    """Numbers that autograd keeps for the backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in made.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        made(x)
    return sum(sizes.values())


def test_the_input_is_all_that_is_kept_and_not_even_that_for_a_frozen_a() -> None:
    x = torch.randn(N, D_IN, requires_grad=True)
    made = layer()
    assert kept(made, x) == N * D_IN
    made.A.requires_grad_(False)
    assert kept(made, x) == N * RANK
    made.B.requires_grad_(False)
    assert kept(made, x) == 0


def test_of_input_and_inner_product_the_smaller_is_kept_for_a_frozen_a() -> None:
    x, made = torch.randn(N, D_IN).double(), layer().double()
    made.A = nn.Parameter(torch.randn(2 * D_IN, D_IN).double(), requires_grad=False)
    made.B = nn.Parameter(torch.randn(D_OUT, 2 * D_IN).double())
    assert kept(made, x) == N * D_IN
    dy = torch.randn(N, D_OUT).double()
    found = torch.autograd.grad(made(x), made.B, dy)[0]
    assert_close(found, torch.autograd.grad(x @ made.merged_weight().T, made.B, dy)[0])


def test_with_a_magnitude_the_output_before_it_is_kept_too() -> None:
    x = torch.randn(N, D_IN, requires_grad=True)
    assert kept(layer(DoRALayer), x) == N * (D_IN + D_OUT) + D_OUT + D_OUT  # c, and the norm


def test_the_products_are_those_of_the_frozen_layer_and_thin_ones() -> None:
    x, made = torch.randn(N, D_IN, requires_grad=True), layer()
    with FlopCounterMode(display=False) as counter:
        made(x).sum().backward()
    frozen = 2 * N * D_IN * D_OUT
    thin = 2 * N * RANK * (D_IN + D_OUT)
    total = 2 * frozen + 2 * 2 * RANK * D_IN * D_OUT + 2 * thin
    assert counter.get_total_flops() == total
    with FlopCounterMode(display=False) as counter:
        made(x.detach()).sum().backward()
    assert counter.get_total_flops() == total - frozen - 2 * RANK * D_IN * D_OUT


def test_without_gradients_nothing_is_made_for_them() -> None:
    x, made = torch.randn(N, D_IN), layer()
    made.A.requires_grad_(False)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        made(x)
    assert counter.get_total_flops() == 2 * D_IN * D_OUT * (N + RANK)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_gives_the_same_gradients(reentrant: bool) -> None:
    made, x = layer(), torch.randn(N, D_IN, requires_grad=True)
    inputs = [x, made.A, made.B]
    for tensor in inputs:
        tensor.grad = None
    made(x).square().sum().backward()
    plain = [tensor.grad for tensor in inputs]
    for tensor in inputs:
        tensor.grad = None
    checkpoint(made, x, use_reentrant=reentrant).square().sum().backward()
    for tensor, expected in zip(inputs, plain, strict=True):
        assert torch.equal(tensor.grad, expected)


def test_layers_that_share_factors_add_their_gradients() -> None:
    first, second = layer().double(), layer().double()
    second.A, second.B = first.A, first.B
    x = torch.randn(N, D_IN, dtype=torch.float64)

    def gradients(*functions: object) -> tuple[Tensor, ...]:
        total = sum(function(x).square().sum() for function in functions)
        return torch.autograd.grad(total, [first.A, first.B])

    plain = [lambda x, made=made: F.linear(x, made.merged_weight(), made.bias)
             for made in (first, second)]  # fmt: skip
    for found, expected in zip(gradients(first, second), gradients(*plain), strict=True):
        assert_close(found, expected)


def test_factors_that_moved_between_the_passes_are_an_error() -> None:
    made = layer()
    y = made(torch.randn(N, D_IN, requires_grad=True)).sum()
    with torch.no_grad():
        made.B.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_the_output_may_be_changed_in_place() -> None:
    for cls in (LoRALayer, DoRALayer):
        made, x = layer(cls), torch.randn(N, D_IN)
        F.relu(made(x), inplace=True).sum().backward()
        found = made.B.grad
        made.B.grad = None
        F.relu(made(x)).sum().backward()
        assert torch.equal(found, made.B.grad)


def test_a_magnitude_of_zero_has_a_gradient() -> None:
    made, x = layer(DoRALayer).double(), torch.randn(N, D_IN).double()
    with torch.no_grad():
        made.m[:3] = 0
        made.base.bias *= 1e6
    dy = torch.randn(N, D_OUT, dtype=torch.float64)
    found = torch.autograd.grad(made(x), made.m, dy)[0]
    expected = torch.autograd.grad(F.linear(x, made.merged_weight(), made.bias), made.m, dy)[0]
    assert found[:3].all()
    assert_close(found, expected)


def test_inputs_of_any_shape() -> None:
    made = LoRALayer(nn.Linear(D_IN, 1), RANK, 1.5, 0.0)  # one token is many for one output
    nn.init.normal_(made.B)
    for shape in ((D_IN,), (1, D_IN), (2, 3, 4, D_IN), (0, D_IN)):
        x = torch.randn(shape, requires_grad=True)
        y = made(x)
        assert_close(y, F.linear(x, made.merged_weight(), made.bias))
        y.sum().backward()
    odd = torch.randn(D_IN, N).T
    assert_close(made(odd), F.linear(odd, made.merged_weight(), made.bias))
