"""Quantised bases: NF4 as bitsandbytes has it, groups that merge exactly."""

import sys

import pytest
import torch
import torch.nn as nn
from scipy.stats import norm
from torch.testing import assert_close

from variants import quantize
from variants.base import merge
from variants.lora import LoRALayer
from variants.qa_lora import QALoRA, QALoRALayer
from variants.qlora import QLoRA
from variants.quantize import NF4, GroupLinear, NF4Linear, check_bitsandbytes

QA = {"lr": 1.0, "rank": 3, "alpha": 6.0, "dropout": 0.0, "targets": ["0"]}
QLORA = {**QA, "rslora": False, "block": 64, "double": False}


def linear(d_in: int = 64, d_out: int = 48) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(d_in, d_out)


def test_the_levels_are_quantiles_of_the_normal_distribution() -> None:
    # As the authors' code builds them: 8 positive, 7 negative, and zero.
    offset = 1 - (1 / 32 + 1 / 30) / 2
    positive = norm.ppf(torch.linspace(offset, 0.5, 9)[:-1])
    negative = -norm.ppf(torch.linspace(offset, 0.5, 8)[:-1])
    levels = torch.tensor(sorted([*positive, 0.0, *negative])) / max(positive)
    assert_close(levels.float(), torch.tensor(NF4), rtol=0, atol=1e-6)


def test_levels_zero_and_block_maxima_are_kept_exactly() -> None:
    exact = linear(16, 4)
    with torch.no_grad():
        exact.weight.copy_(torch.tensor(NF4) * 0.37)
    quantised = NF4Linear(exact, block=16, double=False)
    assert_close(quantised.weight, exact.weight.detach())
    with torch.no_grad():
        exact.weight.zero_()
    assert not NF4Linear(exact, block=16, double=False).weight.any()


def test_the_error_is_within_half_the_widest_gap() -> None:
    plain = linear()
    quantised = NF4Linear(plain, block=64, double=False)
    error = (quantised.weight - plain.weight).abs().view(-1, 64)
    assert (error <= 0.152 * plain.weight.abs().view(-1, 64).amax(dim=1, keepdim=True)).all()
    relative = (quantised.weight - plain.weight).norm() / plain.weight.norm()
    assert relative < 0.12


def test_quantising_again_changes_nothing() -> None:
    once = NF4Linear(linear(), block=64, double=False)
    again = linear()
    again.weight = nn.Parameter(once.weight)
    assert torch.equal(NF4Linear(again, block=64, double=False).weight, once.weight)


def test_a_last_partial_block_is_read_right() -> None:
    odd = linear(7, 5)
    quantised = NF4Linear(odd, block=64, double=False)
    assert quantised.weight.shape == (5, 7)
    assert (quantised.weight - odd.weight).abs().max() <= 0.152 * odd.weight.abs().max()


def test_double_quantisation_keeps_scales_within_their_step() -> None:
    torch.manual_seed(0)
    large = nn.Linear(256, 256)
    plain = NF4Linear(large, block=64, double=False)
    double = NF4Linear(large, block=64, double=True)
    step = (plain.scales - plain.scales.mean()).abs().max() / 127
    assert (double.scales - plain.scales).abs().max() <= step / 2 + 1e-7
    stored = sum(b.numel() * b.element_size() for b in double.state_dict().values())
    bits = 8 * (stored - large.bias.numel() * 4) / large.weight.numel()
    assert bits == pytest.approx(4.127, abs=0.005)


def test_the_gradient_of_the_input_goes_through_the_stored_weight() -> None:
    quantised = NF4Linear(linear(), block=64, double=False)
    x = torch.randn(3, 64, requires_grad=True)
    g = torch.randn(3, 48)
    quantised(x).backward(g)
    assert_close(x.grad, g @ quantised.weight)
    assert not any(buffer.requires_grad for buffer in quantised.buffers())


def test_nf4_is_that_of_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional", reason="bitsandbytes is absent")
    plain = linear(768, 256)
    codes, state = functional.quantize_4bit(plain.weight.data, blocksize=64, quant_type="nf4")
    quantised = NF4Linear(plain, block=64, double=False)
    assert torch.equal(quantised.codes, codes.flatten())
    assert torch.equal(quantised.scales, state.absmax)
    assert torch.equal(quantised.weight, functional.dequantize_4bit(codes, state))


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block", [64, 128])
@pytest.mark.parametrize(("d_out", "d_in"), [(48, 64), (5, 7), (33, 70), (3, 1)])
def test_bitsandbytes_reads_the_same_bits_as_the_same_function(
    d_out: int, d_in: int, block: int, dtype: torch.dtype, double: bool
) -> None:
    plain = linear(d_in, d_out).to(dtype)
    read = [NF4Linear(plain, block, double, backend) for backend in ("torch", "bitsandbytes")]
    for name, stored in read[0].state_dict().items():
        assert torch.equal(stored, read[1].state_dict()[name])
    x, g = torch.randn(3, d_in).to(dtype), torch.randn(3, d_out).to(dtype)
    results = []
    for layer in read:
        leaf = x.clone().requires_grad_()
        y = layer(leaf)
        y.backward(g)
        assert layer.weight.dtype == dtype
        results.append((layer.weight, y.detach(), leaf.grad))
    for one, other in zip(*results, strict=True):
        assert_close(other, one, rtol=1e-6, atol=1e-7)


def test_a_layer_read_by_bitsandbytes_merges_into_the_same_weight() -> None:
    merged = []
    for backend in ("torch", "bitsandbytes"):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 48))
        QLoRA(**QLORA, backend=backend).adapt(model)
        model[0].B.data.normal_()
        x = torch.randn(3, 64)
        before = model(x)
        assert_close(model[0].merged_weight(), model[0].W0 + 2 * model[0].B @ model[0].A)
        merge(model)
        assert_close(model(x), before)
        merged.append(model[0].weight)
    assert_close(merged[0], merged[1])


def test_a_backend_or_block_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ValueError, match="backend must be torch or bitsandbytes, got 'cuda'"):
        QLoRA(**QLORA, backend="cuda")
    with pytest.raises(ValueError, match=r"block must be one of 64, .* got 100"):
        QLoRA(**{**QLORA, "block": 100}, backend="bitsandbytes")


def test_a_missing_package_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r'needs the package: pip install -e "\.\[bnb\]"'):
        QLoRA(**QLORA, backend="bitsandbytes").adapt(nn.Sequential(nn.Linear(64, 48)))


def test_a_device_without_kernels_is_said_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object) -> None:
        raise NotImplementedError("no kernel for it")

    monkeypatch.setattr(quantize, "bnb_weight", lacks)
    check_bitsandbytes.cache_clear()
    layer = NF4Linear(linear(), 64, False, "bitsandbytes")
    with pytest.raises(ValueError, match=r"on cpu here, use variant\.backend=torch .* no kernel"):
        layer(torch.randn(3, 64))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_bitsandbytes_reads_them_on_a_gpu_too() -> None:
    layer = NF4Linear(linear(), 64, False, "bitsandbytes")
    expected = layer.weight
    assert_close(layer.to("cuda").weight.cpu(), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_groups_err_by_at_most_half_a_step(bits: int) -> None:
    plain = linear()
    quantised = GroupLinear(plain, bits, group=16)
    assert quantised.q.max() <= 2**bits - 1
    error = (quantised.weight - plain.weight).abs().view(48, 4, 16)
    assert (error <= quantised.step[..., None] / 2 + 1e-7).all()


def test_a_constant_group_is_exact() -> None:
    flat = linear()
    with torch.no_grad():
        flat.weight.fill_(0.3)
    assert_close(GroupLinear(flat, 4, 16).weight, flat.weight.detach())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_merging_moves_zero_points_alone_and_is_exact(bits: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 48)).double()
    QALoRA(**QA, bits=bits, group=16).adapt(model)
    layer = model[0]
    assert isinstance(layer, QALoRALayer)
    layer.B.data.normal_()
    x = torch.randn(5, 64, dtype=torch.float64)
    before, q, step = model(x), layer.grouped.q.clone(), layer.grouped.step.clone()
    low = layer.grouped.low.clone()
    merge(model)
    assert isinstance(model[0], GroupLinear)
    assert_close(model(x), before, rtol=1e-12, atol=1e-12)
    assert torch.equal(model[0].q, q) and torch.equal(model[0].step, step)
    assert torch.equal(layer.grouped.low, low), "merging leaves the original"
    # Rounded to whole steps, as integer zero points would be, it is another function.
    model[0].low = (model[0].low / step).round() * step
    assert (model(x) - before).abs().max() > 1e-3


def test_the_update_is_constant_within_a_group_and_counts_as_in_the_paper() -> None:
    model = nn.Sequential(nn.Linear(64, 48))
    QALoRA(**QA, bits=4, group=16).adapt(model)
    layer = model[0]
    layer.B.data.normal_()
    delta = (layer.merged_weight() - layer.W0).view(48, 4, 16)
    assert (delta - delta[..., :1]).abs().max() < 1e-6
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 3 * (4 + 48)
    assert torch.linalg.matrix_rank(delta[..., 0]) <= 3


def test_a_group_that_does_not_divide_is_an_error() -> None:
    with pytest.raises(ValueError, match="group must divide d_in=64, got 24"):
        GroupLinear(linear(), 4, 24)


def test_one_input_per_group_is_lora_on_the_quantised_base_and_one_group_has_rank_one() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6)).double()
    QALoRA(**QA, bits=4, group=1).adapt(model)
    layer, x = model[0], torch.randn(5, 8).double()
    layer.B.data.normal_()
    plain = LoRALayer(layer.base, 3, layer.scale, 0.0)
    plain.A, plain.B = layer.A, layer.B
    assert_close(layer(x), plain(x))
    model = nn.Sequential(nn.Linear(8, 6)).double()
    QALoRA(**QA, bits=4, group=8).adapt(model)
    model[0].B.data.normal_()
    assert torch.linalg.matrix_rank(model[0].merged_weight() - model[0].W0) == 1


def test_a_constant_block_is_exact_and_an_entry_takes_four_and_a_half_bits() -> None:
    flat = linear(64, 64)
    with torch.no_grad():
        flat.weight.fill_(-0.3)
    layer = NF4Linear(flat, block=64, double=False)
    assert torch.equal(layer.weight, flat.weight)
    stored = sum(t.numel() * t.element_size() for n, t in layer.state_dict().items() if n != "bias")
    assert 8 * stored / flat.weight.numel() == 4.5
