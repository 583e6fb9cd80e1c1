"""DoRA: the norm in two forms, when it is computed, and what it does to W and to the gradient."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from variants.base import adapter_layers
from variants.dora import DoRA, DoRALayer

SETTINGS = {"lr": 1.0, "rank": 2, "alpha": 4.0, "dropout": 0.0, "rslora": False, "targets": ["0"]}


def layer(d_in: int = 12, d_out: int = 5, rank: int = 2, dropout: float = 0.0) -> DoRALayer:
    """A layer that has been trained for a while."""
    torch.manual_seed(0)
    made = DoRALayer(nn.Linear(d_in, d_out), rank, scale=1.5, dropout=dropout)
    nn.init.normal_(made.B, std=0.3)
    nn.init.uniform_(made.m, 0.5, 2.0)
    return made


def exact_norm(made: DoRALayer) -> Tensor:
    W0, A, B = (tensor.detach().double() for tensor in (made.W0, made.A, made.B))
    return (W0 + made.scale * B @ A).norm(dim=1)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[DoRALayer]:
    """The layers whose norm was computed, one entry for each time."""
    computed: list[DoRALayer] = []
    right = DoRALayer.new_norm

    def new_norm(self: DoRALayer) -> Tensor:
        computed.append(self)
        return right(self)

    monkeypatch.setattr(DoRALayer, "new_norm", new_norm)
    return computed


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("d_out", "d_in", "rank"), [(384, 384, 8), (96, 768, 8), (64, 1536, 64)])
def test_both_forms_of_the_norm_are_exact_to_float32(
    d_out: int, d_in: int, rank: int, dtype: torch.dtype
) -> None:
    made = layer(d_in, d_out, rank)
    made.base.weight.data = made.base.weight.data.to(dtype)
    with torch.no_grad():
        for norm in (made.plain_norm(), made.gram_norm(), made.row_norm()):
            assert norm.dtype == torch.float32
            assert_close(norm.double(), exact_norm(made), rtol=5e-7, atol=0)


def test_the_short_form_stays_exact_where_the_update_takes_a_row_away() -> None:
    made = layer(512, 6, 2)
    with torch.no_grad():
        nearly = -(made.B @ made.A) * made.scale * (1 + 1e-3)
        made.base.weight.copy_(nearly)
        assert_close(made.gram_norm().double(), exact_norm(made), rtol=1e-3, atol=0)
        assert_close(made.gram_norm(), made.plain_norm())


def test_low_ranks_of_wide_layers_take_the_short_form(monkeypatch: pytest.MonkeyPatch) -> None:
    short = torch.zeros(4)
    monkeypatch.setattr(DoRALayer, "gram_norm", lambda self: short)
    assert layer(128, 4, rank=2).new_norm() is short
    assert layer(127, 4, rank=2).new_norm() is not short


def step(made: DoRALayer, optimizer: torch.optim.Optimizer) -> None:
    x = torch.randn(3, made.A.shape[1], dtype=made.A.dtype)
    made(x).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("options", [{"fused": True}, {"foreach": True}, {"foreach": False}])
def test_a_step_of_any_optimiser_makes_the_norm_new(options: dict) -> None:
    made = layer()
    optimizer = torch.optim.AdamW([made.A, made.B, made.m], lr=0.1, **options)
    for _ in range(3):
        step(made, optimizer)
        assert_close(made.row_norm(), exact_norm(made).float())


@torch.no_grad()
def write_data(made: DoRALayer) -> None:
    made.B.data.mul_(2)


@torch.no_grad()
def replace_data(made: DoRALayer) -> None:
    made.A.data = made.A + 1


@torch.no_grad()
def copy_one(made: DoRALayer) -> None:
    made.B.copy_(made.B + 1)


def load_state(made: DoRALayer) -> None:
    made.load_state_dict({name: t + 0.5 for name, t in made.state_dict().items()})


@torch.no_grad()
def load_base(made: DoRALayer) -> None:
    made.base.weight.copy_(made.base.weight * 3)


def rescale(made: DoRALayer) -> None:
    made.scale = 0.1


def double(made: DoRALayer) -> None:
    made.double()


def new_parameter(made: DoRALayer) -> None:
    """Another one at the same address, written to behind autograd's back."""
    made.base.weight = nn.Parameter(made.base.weight.data.mul_(3), requires_grad=False)


def there_and_back(made: DoRALayer) -> None:
    """Rounded to bfloat16, and in float32 again where it was."""
    made.base.bfloat16()
    made.base.float()


def loaded_in_inference(made: DoRALayer) -> None:
    with torch.inference_mode():
        made.base.weight = nn.Parameter(made.base.weight * 3, requires_grad=False)
    made.row_norm()
    with torch.inference_mode():
        made.base.weight.mul_(0.5)


def write_weights_data(made: DoRALayer) -> None:
    made.base.weight.data.mul_(2)
    made.reset_cache()


@pytest.mark.parametrize("rank", [2, 20])  # each form once
@pytest.mark.parametrize(
    "change",
    [
        write_data, replace_data, copy_one, load_state, load_base, rescale, double, new_parameter,
        there_and_back, loaded_in_inference, write_weights_data,
    ],
)  # fmt: skip
def test_the_norm_is_new_when_a_tensor_changed(change: Callable, rank: int) -> None:
    made = layer(d_in=256, rank=rank)
    before = made.row_norm()
    change(made)
    after = made.row_norm()
    assert after is not before
    assert_close(after.double(), exact_norm(made), rtol=5e-7, atol=0)


def test_a_norm_in_float64_has_its_precision() -> None:
    made = layer(512, 6, 2)
    made.row_norm()
    made.double()
    assert made.row_norm().dtype == torch.float64
    assert_close(made.row_norm(), exact_norm(made), rtol=1e-13, atol=0)


def test_a_copy_has_a_norm_of_its_own() -> None:
    made = layer()
    made.row_norm()
    copy = deepcopy(made)
    with torch.no_grad():
        copy.B.add_(1)
    assert_close(copy.row_norm(), exact_norm(copy).float())
    assert_close(made.row_norm(), exact_norm(made).float())


def test_a_norm_from_inference_can_be_used_in_training() -> None:
    made = layer()
    x = torch.randn(3, 12)
    with torch.inference_mode():
        made.eval()(x)
    made.train()(x).sum().backward()
    assert made.m.grad is not None


def test_the_parts_of_a_batch_and_an_evaluation_need_one_norm(
    tiny_run: Callable, counted: list[DoRALayer]
) -> None:
    from experiments.running.job import prepare_run
    from experiments.training.loop import TrainingListener, fit

    run = tiny_run("dora", "train.epochs=1", "train.batch_size=16", "train.accumulate=4")
    job = prepare_run(run, run.task.load(run.data))
    model = job.loaded.model
    fit(model, run.variant, job.batches, job.plan, TrainingListener())
    layers = [made for _, made in adapter_layers(model.backbone)]
    assert [counted.count(made) for made in layers] == [job.plan.total] * len(layers)
    counted.clear()
    with torch.no_grad():
        for part in job.batches.parts(1):
            model.eval()(part)
    assert [counted.count(made) for made in layers] == [1] * len(layers)


def test_a_row_of_w_is_as_long_as_its_magnitude() -> None:
    made = layer()
    assert_close(made.merged_weight().norm(dim=1), made.m)


def test_twice_the_magnitude_is_twice_the_weight_and_the_same_bias() -> None:
    made, x = layer(), torch.randn(3, 12)
    before = made(x)
    with torch.no_grad():
        made.m.mul_(2)
    bias = made.bias
    assert_close(made(x) - bias, 2 * (before - bias))


def test_with_the_norm_for_magnitude_it_is_lora() -> None:
    made, x = layer(), torch.randn(3, 12)
    with torch.no_grad():
        made.m.copy_(made.row_norm())
        weight = made.W0 + made.scale * made.B @ made.A
    assert_close(made(x), F.linear(x, weight, made.bias))


def test_the_gradients_are_those_of_eq_11() -> None:
    made = layer().double()
    x, g = torch.randn(7, 12).double(), torch.randn(7, 5).double()
    made(x).backward(g)
    with torch.no_grad():
        G = g.T @ x  # dL/dW'
        V = made.W0 + made.scale * made.B @ made.A
        C = V.norm(dim=1)
        dV = (made.m / C)[:, None] * G  # C is a constant
        assert_close(made.m.grad, (G * V / C[:, None]).sum(dim=1))
        assert_close(made.B.grad, made.scale * dV @ made.A.T)
        assert_close(made.A.grad, made.scale * made.B.T @ dV)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("change", [0.99, 0.997, 1.003, 1.01])
def test_a_small_change_of_magnitude_is_seen_in_bfloat16(change: float, dropout: float) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 256)
    linear.weight.data = linear.weight.data.bfloat16()
    linear.bias.data = linear.bias.data.bfloat16()
    layer = DoRALayer(linear, 4, 1.0, dropout)
    x = torch.randn(64, 64).bfloat16()
    outputs = []
    for factor in (1.0, change):
        torch.manual_seed(1)
        layer.m.data = layer.row_norm() * factor
        outputs.append(layer(x).detach().double() - linear.bias.double())
    # Numbers of eight bits next to 1 are 0.996 and 1.008; over many outputs rounding averages out.
    grown = (outputs[1] * outputs[0]).sum() / outputs[0].square().sum()
    assert float(grown) == pytest.approx(change, abs=5e-4)


def test_dropout_draws_one_mask_for_both_branches() -> None:
    made = layer(dropout=0.5)
    x = torch.randn(4, 12)
    torch.manual_seed(3)
    found = made(x)
    torch.manual_seed(3)
    dropped = F.dropout(x, 0.5)
    c = made.m / exact_norm(made).float()
    branch = made.scale * dropped @ made.A.T @ made.B.T
    expected = made.base(x) + (c - 1) * (dropped @ made.W0.T) + c * branch
    assert_close(found, expected)


def test_the_magnitude_starts_as_the_norm_of_w_and_counts_one_per_output() -> None:
    model = nn.Sequential(nn.Linear(12, 5))
    DoRA(**SETTINGS).adapt(model)
    assert torch.equal(model[0].m, model[0].W0.norm(dim=1))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 2 * (12 + 5) + 5


@pytest.mark.parametrize("rank", [2, 20])  # each form once
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_factor_is_exactly_one_at_the_start_also_under_autocast(
    rank: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(256, 40)
    linear.weight.data = torch.randn(256, 40).T.to(dtype)  # not contiguous, as transposed ones
    made = DoRALayer(linear, rank, 1.5, 0.0)
    ones = torch.ones(40)
    for on in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=on):
            made.reset_cache()
            assert torch.equal(made.compute_rescaling(made.row_norm()), ones)
            assert torch.equal(made.compute_rescaling(made.plain_norm()), ones)


@pytest.mark.parametrize("rank", [2, 20])
def test_a_forward_pass_under_autocast_leaves_nothing_behind(rank: int) -> None:
    made, x = layer(256, 40, rank), torch.randn(400, 256)
    with torch.autocast("cpu", torch.bfloat16):
        made.eval()(x)
        rounded = made.merge().weight
    expected = F.linear(x, made.merged_weight(), made.bias)
    assert_close(made(x), expected)
    assert torch.equal(rounded, made.merge().weight)


@pytest.mark.parametrize("rank", [2, 20])
def test_a_row_of_zeros_trains_and_is_never_nan(rank: int) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 5)
    with torch.no_grad():
        linear.weight[1] = 0
    few, many = torch.randn(2, 128), torch.randn(200, 128)
    before = linear(few)
    made = DoRALayer(linear, rank, 1.5, 0.0)
    assert_close(made(few), before)
    optimizer = torch.optim.Adam([made.A, made.B, made.m], lr=0.01)
    target = torch.randn(200, 5)
    for _ in range(3):
        assert_close(made(few), F.linear(few, made.merged_weight(), made.bias))
        (made(many) - target).square().mean().backward()
        assert all(p.grad.isfinite().all() for p in (made.A, made.B, made.m))
        optimizer.step()
        optimizer.zero_grad()
    assert made.m[1] != 0 and made.merged_weight()[1].any()


@pytest.mark.parametrize("rank", [2, 20])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_layer_that_is_rounded_after_adapting_still_works(rank: int, dtype: torch.dtype) -> None:
    made = layer(256, 40, rank).to(dtype)
    x = torch.randn(60, 256).to(dtype)
    expected = F.linear(x.float(), made.merged_weight().float(), made.bias.float())
    assert_close(made(x).float(), expected, rtol=0.03, atol=0.03)
    made(x).sum().backward()
    assert made.merged_weight().dtype == torch.float32 and made.merge().weight.dtype == dtype


@pytest.mark.parametrize("tokens", [3, 300])
@pytest.mark.parametrize("rank", [2, 20])
def test_it_compiles_without_a_graph_break(rank: int, tokens: int) -> None:
    torch.compiler.reset()
    made, x = layer(256, 40, rank), torch.randn(tokens, 256)
    compiled = torch.compile(made, fullgraph=True, backend="aot_eager")
    assert_close(compiled(x), made(x))
    compiled(x).sum().backward()
    found = [p.grad.clone() for p in (made.A, made.B, made.m)]
    for p in (made.A, made.B, made.m):
        p.grad = None
    made(x).sum().backward()
    for p, grad in zip((made.A, made.B, made.m), found, strict=True):
        assert_close(p.grad, grad, rtol=1e-4, atol=1e-5)
