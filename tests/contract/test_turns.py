"""What turns, folds or bounds: MiSS, RoAd, DeLoRA and HRA against their formulas and PEFT's."""

import pytest
import torch
import torch.nn as nn
from peft_oracle import adapted, assert_peft_agrees, base
from torch.testing import assert_close

from variants.delora import DeLoRA, DeLoRALayer
from variants.hra import HRA, HRALayer
from variants.miss import MiSS, MiSSLayer
from variants.road import RoAd, RoAdLayer

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def miss(rank: int = 5) -> MiSS:
    return MiSS(lr=0.0, rank=rank, dropout=0.0, targets=["0"])


def road(group: int = 2, entries: int = 1) -> RoAd:
    return RoAd(lr=0.0, group=group, entries=entries, targets=["0"])


def delora(strength: float = 3.0) -> DeLoRA:
    return DeLoRA(lr=0.0, rank=3, strength=strength, ratio=1.0, dropout=0.0, targets=["0"])


def hra(rank: int = 4, gamma: float = 0.0) -> HRA:
    return HRA(lr=0.0, rank=rank, gamma=gamma, targets=["0"])


@pytest.mark.parametrize("rank", [3, 5, 12])  # divides 12 inputs, does not, takes all
def test_miss_is_that_of_peft_whose_columns_repeat(rank: int) -> None:
    assert assert_peft_agrees(miss(rank), base()) == miss(rank)
    layer = adapted(miss(rank), base())[1]
    assert isinstance(layer, MiSSLayer)
    change = (layer.merged_weight() - layer.W0).detach()
    for t in range(12):
        assert_close(change[:, t], layer.D[t % rank].detach(), **EXACT)
    assert torch.linalg.matrix_rank(change) == min(rank, 8)


def test_the_gradient_of_a_row_of_d_is_a_sum_over_columns() -> None:
    layer = adapted(miss(), base())[1]
    assert isinstance(layer, MiSSLayer)
    x, g = torch.randn(7, 12).double(), torch.randn(7, 8).double()
    layer(x).backward(g)
    G = g.T @ x
    for i in range(5):
        assert_close(layer.D.grad[i], G[:, i::5].sum(dim=1), **EXACT)


def test_a_rank_above_the_inputs_is_refused() -> None:
    with pytest.raises(ValueError, match="rank must be at most 12"):
        miss(13).adapt(base())


@pytest.mark.parametrize("entries", [1, 2, 4])
@pytest.mark.parametrize("group", [2, 8])
def test_road_is_that_of_peft(group: int, entries: int) -> None:
    made = road(group, entries)
    assert assert_peft_agrees(made, base()) == made
    layer = adapted(made, base())[1]
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 8 * entries


def test_a_pair_of_neighbours_is_turned_and_stretched_with_its_bias() -> None:
    layer = RoAdLayer(nn.Linear(6, 4), group=2, entries=1)
    layer.base.weight.data.zero_()
    layer.t.data[:] = torch.tensor([torch.pi / 2, 0.0])
    layer.a.data[:] = torch.tensor([2.0, 1.0])
    b = layer.b0.detach()
    expected = torch.stack((-2 * b[1], 2 * b[0], b[2], b[3]))  # R b, as W0 is zero
    assert_close(layer(torch.randn(3, 6))[0], expected)
    assert_close(layer.merge()(torch.randn(6)), expected)


def test_an_angle_alone_keeps_the_length_of_every_pair() -> None:
    layer = adapted(road(), base())[1]
    assert isinstance(layer, RoAdLayer)
    nn.init.ones_(layer.a)
    x = torch.randn(5, 12).double()
    lengths = [y.unflatten(-1, (-1, 2)).norm(dim=-1) for y in (layer(x), layer.base(x))]
    assert_close(*lengths, **EXACT)


def test_a_group_must_be_even_and_divide_the_outputs() -> None:
    with pytest.raises(ValueError, match="group must be even, got 3"):
        road(group=3)
    with pytest.raises(ValueError, match="group must divide d_out=8, got 6"):
        road(group=6).adapt(base())


def test_delora_is_that_of_peft_at_twice_the_rank() -> None:
    again = assert_peft_agrees(delora(), base())
    assert (again.rank, again.strength) == (6, 6.0)


def test_deloras_start_cancels_whatever_lambda_is() -> None:
    layer = adapted(delora(), base(), std=0.0)[1]
    assert isinstance(layer, DeLoRALayer)
    for strength in (3.0, 50.0, -1.0):
        layer.lamda.data.fill_(strength)
        assert_close(layer.merged_weight(), layer.W0.detach(), **EXACT)


def test_deloras_change_has_directions_only_and_a_bound() -> None:
    layer = adapted(delora(), base())[1]
    assert isinstance(layer, DeLoRALayer)
    before = layer.merged_weight().detach()
    layer.A.data[1] *= 7
    layer.B.data[:, 2] *= 0.1
    assert_close(layer.merged_weight(), before, **EXACT)
    n = layer.W0.norm(dim=0)
    assert (before - layer.W0).norm() <= 2 * layer.lamda.abs() * n.max()
    # f by its formula, column by column.
    for A, B, sign in ((layer.A, layer.B, 1), (layer.A_0, layer.B_0, -1)):
        for i in range(3):
            before -= sign * layer.lamda / 3 * torch.outer(B[:, i], A[i] * n) / (
                B[:, i].norm() * A[i].norm()
            )  # fmt: skip
    assert_close(before, layer.W0.detach(), **EXACT)


def test_the_frozen_start_is_a_copy_and_lambda_has_its_own_rate() -> None:
    model = base()
    variant = DeLoRA(lr=0.0, rank=3, strength=3.0, ratio=4.0, dropout=0.0, targets=["0"])
    variant.adapt(model)
    layer = model[0]
    assert torch.equal(layer.A, layer.A_0) and layer.A.data_ptr() != layer.A_0.data_ptr()
    factors, strength = variant.param_groups(model, 0.1, 0.01)
    assert strength["params"] == [layer.lamda] and strength["lr"] == pytest.approx(0.4)
    assert strength["weight_decay"] == 0 and factors["lr"] == 0.1


def reflections(layer: HRALayer) -> torch.Tensor:
    """H_1 ... H_r, one by one."""
    chain = torch.eye(12).double()
    for u in layer.U.detach().T:
        chain = chain @ (torch.eye(12).double() - 2 * torch.outer(u, u) / u.square().sum())
    return chain


@pytest.mark.parametrize("rank", [2, 4, 14])
def test_hra_is_the_product_of_its_reflections_and_pefts(rank: int) -> None:
    assert assert_peft_agrees(hra(rank), base()) == hra(rank)
    layer = adapted(hra(rank), base())[1]
    assert isinstance(layer, HRALayer)
    W, chain = layer.merged_weight().detach(), reflections(layer)
    assert_close(W, layer.W0 @ chain, **EXACT)
    assert_close(chain.T @ chain, torch.eye(12).double(), **EXACT)
    assert float(torch.linalg.det(chain)) == pytest.approx(1.0)
    assert_close(W @ W.T, layer.W0 @ layer.W0.T, **EXACT)
    assert torch.linalg.matrix_rank(W - layer.W0) == min(rank, 8)


def test_only_directions_matter_and_a_pair_begins_to_part_at_once() -> None:
    layer = adapted(hra(), base(), std=0.0)[1]
    assert isinstance(layer, HRALayer)
    assert_close(layer.merged_weight(), layer.W0.detach(), **EXACT)
    layer(torch.randn(5, 12).double()).square().sum().backward()
    g, u = layer.U.grad, layer.U.detach()
    assert_close(g[:, 0], -g[:, 1], **EXACT)
    assert_close((g * u).sum(dim=0), torch.zeros(4).double(), **EXACT)
    assert g.abs().sum() > 0
    moved = adapted(hra(), base())[1]
    assert isinstance(moved, HRALayer)
    before = moved.merged_weight().detach()
    moved.U.data[:, 1] *= 5
    assert_close(moved.merged_weight(), before, **EXACT)


def test_hras_penalty_is_zero_for_orthonormal_vectors_and_odd_ranks_are_refused() -> None:
    model, layer = adapted(hra(gamma=0.5), base())
    U = layer.U.detach()
    expected = 0.5 * (torch.eye(4).double() - U.T @ U).square().sum()
    assert_close(hra(gamma=0.5).penalty(model), expected, **EXACT)
    layer.U.data = torch.linalg.qr(torch.randn(12, 4).double())[0]
    assert float(hra(gamma=0.5).penalty(model)) == pytest.approx(0, abs=1e-20)
    assert hra().penalty(model) == 0.0
    with pytest.raises(ValueError, match="rank must be even"):
        hra(3)
