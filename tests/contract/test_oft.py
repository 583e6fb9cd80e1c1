"""OFT and BOFT: rotations by blocks, exactly, by PEFT's series, and as a butterfly."""

import pytest
import torch
import torch.nn as nn
from peft_oracle import adapted, assert_peft_agrees, base
from torch.testing import assert_close

from variants.boft import BOFT, BOFTLayer
from variants.oft import OFT, OFTLayer, cayley, skew

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def oft(block: int = 4, terms: int = 0) -> OFT:
    return OFT(lr=0.0, block=block, terms=terms, targets=["0"])


def trained(block: int = 4) -> OFTLayer:
    layer = adapted(oft(block), base())[1]
    assert isinstance(layer, OFTLayer)
    return layer


@pytest.mark.parametrize("terms", [0, 4, 5, 8])
@pytest.mark.parametrize("block", [2, 4, 12])
def test_output_merge_and_format_are_those_of_peft(block: int, terms: int) -> None:
    assert assert_peft_agrees(oft(block, terms), base()) == oft(block, terms)


@pytest.mark.parametrize("block", [2, 4, 12])
def test_every_block_is_a_rotation_and_w_keeps_its_rows(block: int) -> None:
    layer = trained(block)
    R = layer.turn().detach() + torch.eye(block).double()
    assert_close(R @ R.mT, torch.eye(block).double().expand_as(R), **EXACT)
    assert_close(torch.linalg.det(R), torch.ones(12 // block).double(), **EXACT)
    W, W0 = layer.merged_weight().detach(), layer.W0.detach()
    assert_close(W @ W.T, W0 @ W0.T, **EXACT)
    assert (W - W0).norm() > 0.1
    assert_close(W, W0 @ torch.block_diag(*R).T, **EXACT)


def test_two_inputs_turn_in_their_plane_by_twice_the_arc_of_q() -> None:
    q = torch.tensor([[0.3], [-2.0]]).double()
    R = cayley(skew(q, 2)) + torch.eye(2).double()
    angle = 2 * q[:, 0].atan()
    assert_close(R[:, 0, 0], angle.cos(), **EXACT)
    assert_close(R[:, 0, 1], angle.sin(), **EXACT)


def test_the_series_leaves_the_rotations_as_q_grows() -> None:
    errors = []
    for size in (0.01, 0.1, 0.5):
        Q = skew(torch.randn(1, 496, dtype=torch.float64), 32)
        Q = Q / torch.linalg.matrix_norm(Q, 2) * size
        errors.append(float((cayley(Q, 5) - cayley(Q)).norm()))
    assert errors[0] < 1e-6 < errors[1] < 1e-2 < errors[2]


def test_a_tiny_angle_is_not_lost_in_bfloat16() -> None:
    layer = OFTLayer(nn.Linear(64, 64, bias=False), block=4, terms=0)
    layer.base.bfloat16()
    nn.init.normal_(layer.q, std=1e-3)
    x = torch.randn(512, 64)
    exact = (layer.merged_weight() - layer.W0.float()).detach()
    found = (layer(x.bfloat16()).float() - layer.base(x.bfloat16()).float()).detach()
    slope = (found * (x @ exact.T)).sum() / (x @ exact.T).square().sum()
    assert float(slope) == pytest.approx(1.0, abs=0.15)  # on average, under the noise of rounding


def test_wrong_settings_and_checkpoints_are_named() -> None:
    with pytest.raises(ValueError, match="block must divide d_in=12, got 5"):
        oft(5).adapt(base())
    with pytest.raises(ValueError, match=r"terms must be 0 .* got 2"):
        oft(terms=2)
    model, _ = adapted(oft(), base())
    form = oft().to_peft(model)
    form.config["block_share"] = True
    with pytest.raises(ValueError, match="block_share=True, and only block_share=False"):
        OFT.from_foreign(form)


def boft(block: int = 4, factors: int = 1) -> BOFT:
    return BOFT(lr=0.0, block=block, factors=factors, targets=["0"])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("block", [2, 4, 12])
def test_boft_of_one_factor_is_that_of_peft(block: int, bias: bool) -> None:
    # Without its compiled kernels PEFT has no other.
    assert assert_peft_agrees(boft(block), base(bias=bias)) == boft(block)


@pytest.mark.parametrize(("block", "factors"), [(4, 3), (2, 4), (8, 2)])
def test_a_butterfly_is_a_product_of_sparse_rotations(block: int, factors: int) -> None:
    layer = adapted(boft(block, factors), base(32, 6))[1]
    assert isinstance(layer, BOFTLayer)
    half, total = block // 2, torch.eye(32).double()
    for i, turn in enumerate(layer.turns()):
        F = torch.zeros(32, 32).double()
        for k, R in enumerate(turn.detach() + torch.eye(block).double()):
            g, j = divmod(k, 2**i)
            first = (g * 2 ** (i + 1) + j) * half
            second = first + 2**i * half
            own = [*range(first, first + half), *range(second, second + half)]
            F[torch.tensor(own)[:, None], torch.tensor(own)] = R
        assert_close(F @ F.T, torch.eye(32).double(), **EXACT)
        assert ((F != 0).sum(dim=1) == block).all()
        total = total @ F
    expected = layer.s[:, None] * (layer.W0 @ total.T)
    assert_close(layer.merged_weight(), expected, **EXACT)
    assert float((total != 0).double().mean()) == block * 2 ** (factors - 1) / 32


def test_boft_of_one_factor_and_scale_one_is_oft() -> None:
    layer, plain = adapted(boft(), base())[1], adapted(oft(), base())[1]
    assert isinstance(layer, BOFTLayer) and isinstance(plain, OFTLayer)
    nn.init.ones_(layer.s)
    plain.q.data = layer.q.data[0]
    assert_close(layer.merged_weight(), plain.merged_weight(), **EXACT)


def test_bofts_scale_leaves_the_bias_and_is_not_decayed() -> None:
    model = base()
    boft().adapt(model)
    layer, x = model[0], torch.randn(3, 12).double()
    before = layer(x) - layer.bias
    nn.init.constant_(layer.s, 2.0)
    assert_close(layer(x) - layer.bias, 2 * before, **EXACT)
    decayed, kept = boft().param_groups(model, 1.0, 0.1)
    assert decayed["params"] == [layer.q] and kept["weight_decay"] == 0
    with pytest.raises(ValueError, match="must divide d_in=12, got block=4 and factors=3"):
        boft(4, 3).adapt(base())
    with pytest.raises(ValueError, match="block must be even"):
        boft(3)
