"""The compiled kernels: the numbers of torch's words in every type, with any number of threads."""

import math
import os
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import Case
from numba import njit, typeof
from torch import Tensor
from torch.testing import assert_close

from experiments.backbones import attention as attending
from experiments.backbones import dropout, gates, language, norms
from experiments.backbones.attention import attention, rotate
from experiments.backbones.compiled import base as compiled
from experiments.backbones.dropout import mask
from experiments.backbones.language import compiled_cross_entropy, cross_entropy
from experiments.backbones.norms import (
    add_and_norm_backward_compiled,
    add_and_norm_compiled,
)
from experiments.backbones.stream import lay_out
from experiments.machine.processor import batch_multiple
from experiments.models.engine import Engine
from experiments.running.job import prepare_run
from experiments.settings.config import Run
from experiments.training.loop import Stepper, TrainingListener

CPU = torch.device("cpu")
TYPES = [torch.float64, torch.float32, torch.bfloat16]
ERROR = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1e-2}  # of the largest number


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """Equal but for rounding in this type."""
    assert found.dtype == dtype
    bound = ERROR[dtype] * float(expected.detach().abs().max())
    assert_close(found.double(), expected.double(), rtol=0, atol=bound)


def a_norm(d: int) -> nn.LayerNorm:
    """A frozen norm that has been trained."""
    norm = nn.LayerNorm(d).requires_grad_(False)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    return norm


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("d", [1, 19, 64])
def test_a_norm_is_that_of_torch(d: int, dtype: torch.dtype, alone: bool, p: float) -> None:
    torch.manual_seed(0)
    norm, n, seed = a_norm(d), 7, 3
    exact = deepcopy(norm).double()
    if dtype == torch.float64:
        norm = exact
    h, x, through, beside = (torch.randn(n, d).to(dtype) for _ in range(4))
    wide = [t.double().requires_grad_() for t in (h, x)]
    dropped = wide[0] * mask(wide[0].detach(), p, seed) if p else wide[0]
    total = wide[1] if alone else wide[1] + dropped
    expected = exact(total)
    y, summed, scale = add_and_norm_compiled(None if alone else h, x, norm, p, seed)
    close(y, expected, dtype)
    if not alone:
        close(summed, total, dtype)
    if d == 1:  # no deviation, and no gradient worth comparing
        return
    for other in (None, beside):
        outputs = [expected] if other is None else [expected, total]
        grads = [g.double() for g in ([through] if other is None else [through, beside])]
        right = torch.autograd.grad(outputs, wide, grads, retain_graph=True, allow_unused=True)
        to_x, to_h = add_and_norm_backward_compiled(
            through, other, expected.detach().to(dtype), scale, norm, 0.0 if alone else p, seed
        )
        close(to_x, right[1], dtype)
        if not alone:
            close(to_h, right[0], dtype)


def plain(q: Tensor, k: Tensor, v: Tensor, how: dict, p: float, seed: int) -> Tensor:
    """Attention over all tokens at once, with the dropout that the kernel draws."""
    lengths, places, heads, causal = how.values()
    examples = np.repeat(np.arange(len(lengths)), lengths)
    own = np.arange(len(examples)) if places is None else places
    seen = examples[own][:, None] == examples
    if causal:
        seen &= own[:, None] >= np.arange(len(examples))
    q, k, v = (x.view(len(x), heads, -1).transpose(0, 1) for x in (q, k, v))
    scores = (q @ k.mT / math.sqrt(q.shape[2])).masked_fill(~torch.from_numpy(seen), -math.inf)
    weights = scores.softmax(dim=2)
    if p:
        ones = torch.ones(heads * len(own), len(examples), dtype=q.dtype)
        weights = weights * mask(ones, p, seed).view(weights.shape)
    return (weights @ v).transpose(0, 1).flatten(1)


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("places", [None, np.array([0, 2, 9, 10, 62])])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_attention_is_that_of_torch(
    dtype: torch.dtype, places: np.ndarray | None, causal: bool, p: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    seed = 2**40 + 5
    monkeypatch.setattr(attending, "new_seed", lambda: seed)
    how = {"lengths": np.array([5, 1, 37, 20]), "places": places, "heads": 3, "causal": causal}
    q, k, v = (torch.randn(63, 3 * 18).to(dtype).requires_grad_() for _ in range(3))
    layout = lay_out(how["lengths"], CPU, causal, places)
    found = attention(layout.queries(q), k, v, layout, how["heads"], p)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    expected = plain(layout.queries(wide[0]), *wide[1:], how, p, seed)
    close(found, expected, dtype)
    dy = torch.randn_like(found)
    right = torch.autograd.grad(expected, wide, dy.double())
    for mine, theirs in zip(torch.autograd.grad(found, (q, k, v), dy), right, strict=True):
        close(mine, theirs, dtype)


@pytest.mark.parametrize("needed", range(1, 8))
def test_only_gradients_that_are_asked_for_are_made(needed: int) -> None:
    torch.manual_seed(0)
    layout = lay_out(np.array([4, 6]), CPU, False)
    inputs = [torch.randn(10, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    dy = torch.randn(10, 8, dtype=torch.float64)
    every = torch.autograd.grad(attention(*inputs, layout, 2, 0.0), inputs, dy)
    for i, tensor in enumerate(inputs):
        tensor.requires_grad_(bool(needed >> i & 1))
    attention(*inputs, layout, 2, 0.0).backward(dy)
    for tensor, expected in zip(inputs, every, strict=True):
        assert torch.equal(tensor.grad, expected) if tensor.requires_grad else tensor.grad is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_cross_entropy_is_that_of_torch(dtype: torch.dtype, smoothing: float) -> None:
    torch.manual_seed(0)
    logits, targets = 10 * torch.randn(5, 300).to(dtype), torch.randint(300, (5,))
    wide = logits.double().requires_grad_()
    losses = F.cross_entropy(wide, targets, reduction="none")
    smoothed = F.cross_entropy(wide, targets, reduction="sum", label_smoothing=smoothing)
    (right,) = torch.autograd.grad(smoothed, wide)
    for by in (cross_entropy, compiled_cross_entropy):
        loss, mean, grad = by(logits.clone(), targets, smoothing)
        close(grad, right, dtype)
        own = torch.float64 if dtype == torch.float64 else torch.float32
        close(loss, losses, own)
        close((1 - smoothing) * loss.sum() + smoothing * mean.sum(), smoothed, own)
    logits = logits.detach()
    logits[2, 7] = math.nan
    losses = compiled_cross_entropy(logits, targets, smoothing)[0]
    assert losses.isnan().tolist() == [False, False, True, False, False]


@pytest.fixture
def threads() -> Callable[[int], None]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def everything(dtype: torch.dtype) -> list[Tensor]:
    """What all kernels make of the same numbers."""
    torch.manual_seed(0)
    layout, norm = lay_out(np.array([3, 30, 7, 1, 9]), CPU, True), a_norm(32)
    x, h, dy = (torch.randn(50, 32).to(dtype) for _ in range(3))
    y, total, scale = add_and_norm_compiled(h, x, norm, 0.1, 5)
    backward = add_and_norm_backward_compiled(dy, x, y, scale, norm, 0.1, 5)
    q, k, v = (t.clone().requires_grad_() for t in (x, h, y))
    out = attention(q, k, v, layout, 4, 0.1)
    grads = torch.autograd.grad(out, (q, k, v), dy)
    return [dropout.drop(x, 0.1, 5), y, total, scale, *backward, out.detach(), *grads]


@pytest.mark.parametrize("dtype", TYPES[1:], ids=str)
def test_any_number_of_threads_gives_the_same_bits(
    dtype: torch.dtype, threads: Callable[[int], None]
) -> None:
    threads(1)
    alone = everything(dtype)
    threads(3)
    assert all(torch.equal(a, b) for a, b in zip(alone, everything(dtype), strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_process_has_threads_of_its_own(threads: Callable[[int], None]) -> None:
    threads(2)
    x = torch.ones(4, 4)
    expected = dropout.drop(x, 0.5, 1)
    child = os.fork()
    if not child:  # threads of the parent's would never do its work
        same = torch.equal(dropout.drop(x, 0.5, 1), expected)
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_is_no_number_stays_in_its_example() -> None:
    layout = lay_out(np.array([6, 20, 3]), CPU, False)
    for where in range(3):
        q, k, v = (torch.randn(29, 8) for _ in range(3))
        (q, k, v)[where][8, 3] = math.nan
        out = attention(q, k, v, layout, 2, 0.1)
        assert out[6:26].isnan().any()
        assert out[:6].isfinite().all() and out[26:].isfinite().all()
    large = torch.full((29, 8), 1e20)
    assert attention(large, -large, torch.ones(29, 8), layout, 2, 0.0).isnan().any()


@njit
def stored(x: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(x)):
        compiled.put(out, i, 0, x[i, 0])


@njit
def powers(x: np.ndarray, out: np.ndarray) -> None:
    for i in range(len(x)):
        out[i, 0] = compiled.power(x[i, 0])


def test_bfloat16_is_rounded_as_torch_rounds_it() -> None:
    bits = torch.arange(-(2**31), 2**31, 65521 // 7, dtype=torch.int64).to(torch.int32)
    ends = torch.tensor([math.inf, -math.inf, math.nan, 0.0, -0.0, 1.00390625, 1.01171875])
    nans = torch.tensor([-1, 2**31 - 1], dtype=torch.int32).view(torch.float32)  # all bits set
    x = torch.cat((bits.view(torch.float32), ends, nans))[:, None]
    out = torch.empty(x.shape, dtype=torch.bfloat16)
    stored(x.numpy(), compiled.array(out))
    assert_close(out, x.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_powers_are_exact_to_two_units() -> None:
    x = -torch.logspace(-8, 1.9, 10_001)[:, None]
    out = torch.empty_like(x)
    powers(x.numpy(), out.numpy())
    exact = x.double().exp()
    assert float(((out.double() - exact) / exact).abs().max()) < 2**-22
    least, nan = torch.tensor([[-1e30], [math.nan]]), torch.empty(2, 1)
    powers(least.numpy(), nan.numpy())
    assert 0 <= float(nan[0]) < 1e-37 and bool(nan[1].isnan())


@pytest.mark.parametrize("variant", ["lora", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_meets_no_kernel_that_is_not_loaded(
    tiny_run: Callable[..., Run], precision: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    met, original = set(), compiled.run

    def noting(kernel: Callable[..., None], *args: object, threads: int | None = None) -> None:
        given = [compiled.array(x) if isinstance(x, Tensor) else x for x in args]
        met.add((kernel.__name__, *map(typeof, given)))
        original(kernel, *args, threads=threads)

    for module in (compiled, attending, gates, language, norms):
        monkeypatch.setattr(module, "run", noting)
    run = tiny_run(variant, f"train.precision={precision}", "model.dropout=0.1")
    job = prepare_run(run, run.task.load(run.data))
    loaded = set(met)
    met.clear()
    Stepper(job.loaded.model, run.variant, job.batches, job.plan).step(1, TrainingListener())
    assert met and met <= loaded


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_a_batch_that_is_filled_up_gives_the_same_states(
    case: Callable[..., Case], family: str
) -> None:
    made = case("lora", "model.dropout=0.0", family=family)
    places = np.cumsum(made.batch.lengths) - 1
    with torch.no_grad():
        found = [
            Engine(multiple=multiple).states(made.model.backbone, made.batch, places)
            for multiple in (1, 16, made.batch.tokens)
        ]
    assert Engine(multiple=16).count_positions(made.batch) % 16 == 0
    for other in found[1:]:
        assert_close(other, found[0])
    prefix = replace(made.batch, prefix=(torch.randn(made.batch.tokens, 4), 1)).filled(16).prefix
    assert prefix is not None and len(prefix[0]) % 16 == 0


def test_only_products_that_keep_code_for_every_shape_get_few(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert batch_multiple(CPU, "fp32") == batch_multiple(torch.device("cuda"), "bf16") == 1
    for native, multiple in (("native", 16), ("float32", 1)):
        monkeypatch.setattr(
            "experiments.machine.processor.bfloat16_products", lambda device, native=native: native
        )
        assert batch_multiple(CPU, "bf16") == multiple


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("d", [1, 19, 64])
def test_an_rms_norm_is_that_of_torch(d: int, dtype: torch.dtype, alone: bool) -> None:
    torch.manual_seed(0)
    n, eps, like = 7, 1e-5, torch.float64 if dtype == torch.float64 else torch.float32
    weight = torch.empty(d, dtype=like).uniform_(-1.5, 1.5)
    h, x, through, beside = (torch.randn(n, d).to(dtype) for _ in range(4))
    wide = [t.double().requires_grad_() for t in (h, x)]
    total = wide[1] if alone else wide[0] + wide[1]
    expected = F.rms_norm(total, [d], weight.double(), eps)
    given = None if alone else h
    for forward in (norms.add_and_rms, norms.add_and_rms_compiled):
        y, summed, scale = forward(given, x, weight, eps)
        close(y, expected, dtype)
        if not alone:
            close(summed, total, dtype)
    if d == 1:  # the gradient is nearly none
        return
    for other in (None, beside):
        outputs = [expected] if other is None else [expected, total]
        grads = [g.double() for g in ([through] if other is None else [through, beside])]
        right = torch.autograd.grad(outputs, wide[1], grads, retain_graph=True)[0]
        for backward in (norms.add_and_rms_backward, norms.add_and_rms_backward_compiled):
            found = backward(through, other, expected.detach().to(dtype), scale, weight)
            close(found, right, dtype)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("zero", [False, True])
def test_an_rms_norm_that_trains_or_has_a_zero_goes_by_torch(frozen: bool, zero: bool) -> None:
    norm = nn.RMSNorm(6, eps=1e-6, dtype=torch.float64)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    if zero:
        norm.weight.data[2] = 0
    norm.requires_grad_(not frozen)
    h, x = (torch.randn(5, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    y, total = norms.add_rms(h, x, norm, 1e-6)
    mine = (y**2).sum() + (total**3).sum()
    theirs = (norm(h + x) ** 2).sum() + ((h + x) ** 3).sum()
    asked = [h, x, *([] if frozen else [norm.weight])]
    assert_close(torch.autograd.grad(mine, asked), torch.autograd.grad(theirs, asked))


def test_a_norm_alone_hands_its_input_on() -> None:
    norm = nn.RMSNorm(6, eps=1e-6, dtype=torch.float64).requires_grad_(False)
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)

    def both(x: Tensor) -> Tensor:
        y, total = norms.add_rms(None, x, norm, 1e-6)
        return (y * total).sum()

    torch.autograd.gradcheck(both, x)
    layer = a_norm(6).double()

    def layered(x: Tensor) -> Tensor:
        y, total = norms.add_norm(None, x, layer)
        return (y * total).sum()

    torch.autograd.gradcheck(layered, x)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("activation", ["silu", "gelu_pytorch_tanh"])
def test_a_gate_is_that_of_torch(activation: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    a, b, to_out = (3 * torch.randn(6, 37) for _ in range(3))
    a[0, :4] = torch.tensor([-200.0, 200.0, 0.0, -1e-3])
    a, b, to_out = (x.to(dtype) for x in (a, b, to_out))
    own, wide = ([x.to(t).requires_grad_() for x in (a, b)] for t in (dtype, torch.float64))
    found, expected = gates.gate(activation, *own), gates.ACTIVATIONS[activation](wide[0]) * wide[1]
    close(found, expected, dtype)
    found = torch.autograd.grad(found, own, to_out)
    expected = torch.autograd.grad(expected, wide, to_out.double())
    for one, other in zip(found, expected, strict=True):
        close(one, other, dtype)


@pytest.mark.parametrize("width", [4, 6])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_heads_are_turned_as_torch_turns_them(dtype: torch.dtype, width: int) -> None:
    torch.manual_seed(0)
    places = np.array([0, 2, 9, 10, 19])
    layout = lay_out(np.array([5, 1, 14]), CPU, True, places)
    q, k, v, dy = (torch.randn(20, d).to(dtype) for d in (4 * 6, 2 * 6, 2 * 6, 4 * 6))
    angles = torch.randn(20, width // 2).repeat(1, 2)
    turned = angles.cos(), angles.sin()
    own, wide = ([x.to(t).requires_grad_() for x in (q, k, v)] for t in (dtype, torch.float64))
    found = attention(layout.queries(own[0]), *own[1:], layout, 4, 0.0, 2, turned, 0.3)
    exact = [x.double() for x in turned]
    q, k = rotate(wide[0], *exact, 4), rotate(wide[1], *exact, 2)
    expected = attention(layout.queries(q), k, wide[2], layout, 4, 0.0, 2, None, 0.3)
    close(found, expected, dtype)
    grads = layout.queries(dy)
    found = torch.autograd.grad(found, own, grads)
    expected = torch.autograd.grad(expected, wide, grads.double())
    for one, other in zip(found, expected, strict=True):
        close(one, other, dtype)
