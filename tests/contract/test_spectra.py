"""Updates that are transforms of few numbers: FourierFT and WaveFT."""

import pytest
import torch
from peft_oracle import adapted, base, in_peft
from torch.testing import assert_close

from variants.fourierft import FourierFT, FourierFTLayer
from variants.seeded import draw_positions
from variants.waveft import WaveFT, WaveFTLayer, haar

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def fourierft(n: int = 20, begin: str = "normal", seed: int = 777) -> FourierFT:
    return FourierFT(lr=0.0, n=n, alpha=50.0, begin=begin, position_seed=seed, targets=["0"])


def trained(shape: tuple[int, int], n: int = 20) -> FourierFTLayer:
    layer = adapted(fourierft(n), base(*shape))[1]
    assert isinstance(layer, FourierFTLayer)
    return layer


@pytest.mark.parametrize("n", [1, 20, 63])
@pytest.mark.parametrize("shape", [(12, 8), (9, 8), (8, 9), (7, 9)])  # even and odd sides
def test_the_update_is_a_sum_of_cosines(shape: tuple[int, int], n: int) -> None:
    layer = trained(shape, n)
    d_in, d_out = shape
    p, q = torch.arange(d_out).double()[:, None, None], torch.arange(d_in).double()[:, None]
    j, k = layer.positions // d_in, layer.positions % d_in
    waves = torch.cos(2 * torch.pi * (p * j / d_out + q * k / d_in))
    assert_close(layer.delta(), 50 / (d_out * d_in) * waves @ layer.c, **EXACT)
    # The gradient of one number is that of W along its wave.
    x, g = torch.randn(7, d_in).double(), torch.randn(7, d_out).double()
    layer(x).backward(g)
    along = 50 / (d_out * d_in) * torch.einsum("pq,pqn->n", g.T @ x, waves)
    assert_close(layer.c.grad, along, **EXACT)


def test_the_update_is_even() -> None:
    change = trained((12, 8)).delta().detach()
    assert_close(change, change[-torch.arange(8)][:, -torch.arange(12)], **EXACT)


@pytest.mark.parametrize("shape", [(12, 8), (9, 7)])
def test_output_merge_and_format_are_those_of_peft(shape: tuple[int, int]) -> None:
    # PEFT transforms in float32 whatever the dtype, so numbers that it holds exactly.
    variant, model = fourierft(), base(*shape)
    ours, layer = adapted(variant, model)
    layer.c.data = layer.c.data.float().double()
    form = variant.to_peft(ours)
    theirs = in_peft(form.config, model)
    theirs.base_model.model[0].fourierft_spectrum["default"].data = layer.c.data.clone()
    x = torch.randn(5, shape[0]).double()
    assert_close(theirs(x), ours(x), rtol=1e-5, atol=1e-5)
    again, state = FourierFT.from_foreign(form) or ()
    assert again == variant and torch.equal(state["0.c"], layer.c)


def test_positions_are_those_of_peft_and_of_the_authors() -> None:
    # Printed for a 768 x 768 matrix and these seeds; (row, column).
    for seed, expected in (
        (777, [(509, 359), (239, 147), (538, 367), (500, 200)]),
        (2024, [(607, 392), (331, 644), (592, 550), (323, 140)]),
    ):
        found = draw_positions(1000, 768 * 768, seed)
        assert [divmod(int(i), 768) for i in found[:4]] == expected
        assert len(found.unique()) == 1000


def test_a_zero_start_is_the_pretrained_model_and_a_normal_one_is_not() -> None:
    for begin, same in (("zero", True), ("normal", False)):
        variant, model = fourierft(begin=begin), base()
        variant.adapt(model)
        assert variant.starts_as_pretrained == same
        assert torch.equal(model[0].merged_weight(), model[0].W0) == same


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match=r"n must lie in 1 to 96, .* got 97"):
        fourierft(97).adapt(base())
    with pytest.raises(ValueError, match="begin must be normal or zero"):
        fourierft(begin="one")


def waveft(n: int = 20) -> WaveFT:
    return WaveFT(lr=0.0, n=n, alpha=5.0, position_seed=777, targets=["0"])


@pytest.mark.parametrize("shape", [(12, 8), (9, 8), (8, 9), (7, 9)])  # even and odd sides
def test_waveft_is_that_of_peft(shape: tuple[int, int]) -> None:
    # Its synthesis rounds 1/sqrt(2) to float32.
    variant, model = waveft(), base(*shape)
    ours, layer = adapted(variant, model)
    form = variant.to_peft(ours)
    theirs = in_peft(form.config, model)
    theirs.base_model.model[0].waveft_spectrum["default"].data = layer.c.data.clone()
    x = torch.randn(5, shape[0]).double()
    assert_close(theirs(x), ours(x), rtol=1e-5, atol=1e-5)
    again, state = WaveFT.from_foreign(form) or ()
    assert again == variant and torch.equal(state["0.c"], layer.c)


def test_a_wavelet_moves_four_neighbours_and_keeps_lengths() -> None:
    layer = adapted(waveft(), base())[1]
    assert isinstance(layer, WaveFTLayer)
    assert_close(layer.delta().norm(), 5.0 * layer.c.norm(), **EXACT)
    one = torch.zeros(8, 12).double()
    one[1, 7] = 1.0  # in the quadrant of differences between rows, at (1, 1)
    patch = haar(one)
    assert_close(patch[2:4, 2:4], torch.tensor([[0.5, 0.5], [-0.5, -0.5]]).double(), **EXACT)
    assert int((patch != 0).sum()) == 4
