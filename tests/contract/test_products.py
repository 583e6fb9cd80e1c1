"""Entrywise and Kronecker products: HiRA, LoHa and LoKr against their formulas and PEFT's."""

from collections.abc import Callable

import pytest
import torch
from peft.tuners.lokr.layer import factorization
from peft_oracle import adapted, assert_peft_agrees, base
from torch.testing import assert_close

from variants.base import Variant
from variants.hira import HiRA, HiRALayer
from variants.loha import LoHa, LoHaLayer
from variants.lokr import LoKr, LoKrLayer, split
from variants.lora import LoRALayer

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def hira(rank: int = 2) -> HiRA:
    return HiRA(lr=0.0, rank=rank, dropout=0.0, targets=["0"])


def loha(rank: int = 3) -> LoHa:
    return LoHa(lr=0.0, rank=rank, alpha=6.0, targets=["0"])


def lokr(rank: int = 2, factor: int = -1, both: bool = False, zero: str = "C") -> LoKr:
    return LoKr(
        lr=0.0, rank=rank, alpha=3.0, factor=factor, both=both, zero=zero, targets=["0"]
    )  # fmt: skip


METHODS = {
    "hira": hira, "loha": loha, "lokr": lokr, "lokr both": lambda: lokr(1, both=True),
    "lokr full": lambda: lokr(9), "lokr by 3": lambda: lokr(1, factor=3),
}  # fmt: skip


@pytest.mark.parametrize("shape", [(12, 8), (10, 36), (7, 30)])
@pytest.mark.parametrize("name", METHODS)
def test_output_merge_and_format_are_those_of_peft(name: str, shape: tuple[int, int]) -> None:
    variant: Variant = METHODS[name]()
    assert assert_peft_agrees(variant, base(*shape)) == variant


def test_hira_changes_no_zero_and_by_a_factor_of_rank_r() -> None:
    model = base()
    model[0].weight.data[2, 3:6] = 0
    layer = adapted(hira(), model)[1]
    assert isinstance(layer, HiRALayer)
    change = (layer.merged_weight() - layer.W0).detach()
    assert not change[2, 3:6].any()
    factor = layer.B @ layer.A
    assert_close(layer.merged_weight(), layer.W0 * (1 + factor), **EXACT)
    assert torch.linalg.matrix_rank(change) > torch.linalg.matrix_rank(factor) == 2


def test_hiras_gradient_is_that_of_w_times_w0() -> None:
    layer = adapted(hira(), base())[1]
    assert isinstance(layer, HiRALayer)
    x, g = torch.randn(7, 12).double(), torch.randn(7, 8).double()
    layer(x).backward(g)
    of_product = (g.T @ x) * layer.W0
    assert_close(layer.B.grad, of_product @ layer.A.T, **EXACT)
    assert_close(layer.A.grad, layer.B.T @ of_product, **EXACT)


def test_lohas_rank_is_up_to_r_squared_and_its_pairs_may_change_places() -> None:
    layer = adapted(loha(), base(40, 30))[1]
    assert isinstance(layer, LoHaLayer)
    change = layer.delta().detach()
    assert torch.linalg.matrix_rank(change) == 9
    layer.A1, layer.A2 = layer.A2, layer.A1
    layer.B1, layer.B2 = layer.B2, layer.B1
    assert_close(layer.delta(), change, **EXACT)


def test_with_a_second_product_of_ones_loha_is_lora() -> None:
    layer = adapted(loha(1), base())[1]
    assert isinstance(layer, LoHaLayer)
    torch.nn.init.ones_(layer.A2)
    torch.nn.init.ones_(layer.B2)
    lora = LoRALayer(layer.base, 1, layer.scale, dropout=0.0).double()
    lora.A, lora.B = layer.A1, layer.B1
    x = torch.randn(5, 12).double()
    assert_close(layer(x), lora(x), **EXACT)


@pytest.mark.parametrize(
    ("make", "moves"),
    [
        (loha, {"A2"}),
        (hira, {"B"}),
        (lambda: lokr(zero="C"), {"C"}),
        (lambda: lokr(zero="W2"), {"W2_b"}),
        (lambda: lokr(9, zero="W2"), {"W2"}),
        (lambda: lokr(1, both=True), {"C_a"}),
    ],
)
def test_the_first_gradient_is_that_of_the_zero_factor_alone(
    make: Callable[[], Variant], moves: set[str]
) -> None:
    layer = adapted(make(), base(20, 30), std=0.0)[1]
    assert torch.equal(layer.merged_weight(), layer.W0)
    layer(torch.randn(5, 20).double()).square().sum().backward()
    trained = {name: p for name, p in layer.named_parameters() if p.requires_grad}
    assert {name for name, p in trained.items() if p.grad.any()} == moves


def test_lokrs_rank_is_the_product_of_two_ranks() -> None:
    layer = adapted(lokr(2), base(64, 36))[1]
    assert isinstance(layer, LoKrLayer)
    C = torch.linalg.matrix_rank(layer.full_matrix("C"))
    change = (layer.merged_weight() - layer.W0).detach()
    assert torch.linalg.matrix_rank(change) == 2 * C == 12
    assert layer.parts("C")[0].shape == (6, 8) and layer.full_matrix("W2").shape == (6, 8)


def test_a_side_is_split_as_in_peft_and_by_hand() -> None:
    assert split(768, -1) == (24, 32) and split(3072, -1) == (48, 64) and split(127, -1) == (1, 127)
    assert split(768, 32) == (32, 24) and split(768, 7) == (6, 128) and split(30, 4) == (3, 10)
    for n in (*range(1, 130), 384, 768, 1024, 1536, 2304):
        for factor in (-1, 1, 2, 3, 4, 7, 8, 16, 32):
            assert split(n, factor) == factorization(n, factor), (n, factor)


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="factor must be positive, or -1, got 0"):
        lokr(factor=0)
    with pytest.raises(ValueError, match="zero must be C or W2, got 'c'"):
        lokr(zero="c")
