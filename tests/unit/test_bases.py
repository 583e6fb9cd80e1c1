"""What is built on W0 or on a grid over it: ABBA, SVFT and GraLoRA."""

import pytest
import torch
import torch.nn as nn
from peft_oracle import adapted, assert_peft_agrees, base, in_peft
from torch.testing import assert_close

from variants.abba import ABBA, ABBALayer
from variants.gralora import GraLoRA, GraLoRALayer
from variants.svft import SVFT, SVFTLayer

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def gralora(k: int = 2, rank: int = 4) -> GraLoRA:
    return GraLoRA(lr=0.0, rank=rank, alpha=2.0 * rank, k=k, dropout=0.0, targets=["0"])


def abba() -> ABBA:
    return ABBA(lr=0.0, rank1=2, rank2=3, alpha=4.0, targets=["0"])


def svft(off_diagonals: int = 0) -> SVFT:
    return SVFT(lr=0.0, off_diagonals=off_diagonals, targets=["0"])


@pytest.mark.parametrize("k", [1, 2, 4])
def test_gralora_is_that_of_peft(k: int) -> None:
    assert assert_peft_agrees(gralora(k), base()) == gralora(k)


def test_every_block_has_a_pair_of_its_own_and_the_rank_grows_by_k() -> None:
    layer = adapted(gralora(), base(40, 40))[1]
    assert isinstance(layer, GraLoRALayer)
    change = (layer.merged_weight() - layer.W0).detach()
    for i in range(2):  # inputs
        for j in range(2):  # outputs
            A, B = layer.A[i][:, 2 * j : 2 * j + 2], layer.B[j][2 * i : 2 * i + 2]
            block = change[20 * j : 20 * j + 20, 20 * i : 20 * i + 20]
            assert_close(block, layer.scale * (A @ B).T, **EXACT)
    assert torch.linalg.matrix_rank(change) == 8  # 2 r
    assert sum(p.numel() for p in layer.parameters() if p.requires_grad) == 4 * 80


def test_one_block_is_lora_and_wrong_grids_are_named() -> None:
    layer = adapted(gralora(1), base())[1]
    assert isinstance(layer, GraLoRALayer)
    expected = layer.W0 + layer.scale * layer.B[0].T @ layer.A[0].T
    assert_close(layer.merged_weight(), expected, **EXACT)
    with pytest.raises(ValueError, match="k must divide rank=4, got 3"):
        gralora(3)
    with pytest.raises(ValueError, match="k must divide both sides of a 7 x 12 weight"):
        gralora(2).adapt(base(12, 7))


def test_abba_is_a_product_of_two_products_entry_by_entry() -> None:
    layer = adapted(abba(), base(40, 30))[1]
    assert isinstance(layer, ABBALayer)
    expected = 4.0 * (layer.B1 @ layer.A1) * (layer.B2 @ layer.A2)
    assert_close(layer.merged_weight() - layer.W0, expected, **EXACT)
    assert torch.linalg.matrix_rank(expected) == 6


def test_abbas_first_pair_is_the_best_approximation_of_w0_and_b2_alone_begins_to_move() -> None:
    layer = adapted(abba(), base(), std=0.0)[1]
    assert isinstance(layer, ABBALayer)
    U, S, Vh = torch.linalg.svd(layer.W0.detach(), full_matrices=False)
    assert_close((layer.B1 @ layer.A1).detach(), (U[:, :2] * S[:2]) @ Vh[:2], **EXACT)
    assert torch.equal(layer.merged_weight(), layer.W0)
    assert layer.A2.abs().max() <= (6 / 12) ** 0.5
    layer(torch.randn(5, 12).double()).square().sum().backward()
    moved = {name for name, p in layer.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"B2"}


def test_abba_is_a_lora_of_pefts() -> None:
    variant, model = abba(), base()
    ours, _ = adapted(variant, model)
    form = variant.to_peft(ours)
    theirs = in_peft(form.config, model)
    layer = theirs.base_model.model[0]
    layer.lora_A["default"].weight.data = form.layers["0"]["lora_A.weight"]
    layer.lora_B["default"].weight.data = form.layers["0"]["lora_B.weight"]
    x = torch.randn(5, 12).double()
    assert_close(theirs(x), ours(x), **EXACT)


@pytest.mark.parametrize("off_diagonals", [0, 1, 3])
def test_svft_moves_its_diagonals_between_singular_vectors_alone(off_diagonals: int) -> None:
    layer = adapted(svft(off_diagonals), base())[1]
    assert isinstance(layer, SVFTLayer)
    U, _, Vh = torch.linalg.svd(layer.W0.detach(), full_matrices=False)
    M = U.T @ (layer.merged_weight() - layer.W0).detach() @ Vh.T
    i, j = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    band = (i - j).abs() <= off_diagonals
    assert_close(M[~band], torch.zeros(int((~band).sum())).double(), **EXACT)
    assert (M[band] != 0).all()
    d = off_diagonals
    assert int(band.sum()) == layer.m.numel() == 8 * (2 * d + 1) - d * (d + 1)


def test_plain_svft_changes_singular_values_and_no_sign_of_a_pair() -> None:
    layer = adapted(svft(), base())[1]
    assert isinstance(layer, SVFTLayer)
    S = torch.linalg.svdvals(layer.W0.detach())
    expected = (S + layer.m.detach()).abs().sort(descending=True).values
    assert_close(torch.linalg.svdvals(layer.merged_weight().detach()), expected, **EXACT)
    before = layer.merged_weight().detach()
    layer.A.data[3] *= -1
    layer.B.data[:, 3] *= -1
    assert_close(layer.merged_weight(), before, **EXACT)


def test_the_gradient_of_m_is_that_of_w_between_singular_vectors() -> None:
    layer = adapted(svft(), base(), std=0.0)[1]
    assert isinstance(layer, SVFTLayer)
    x, g = torch.randn(7, 12).double(), torch.randn(7, 8).double()
    layer(x).backward(g)
    assert_close(layer.m.grad, (layer.B.T @ (g.T @ x) @ layer.A.T).diagonal(), **EXACT)
    state = svft().learned_state(nn.Sequential(layer))
    assert set(state) == {"0.m", "0.basis"}
    with pytest.raises(ValueError, match="off_diagonals must be below 8"):
        svft(8).adapt(base())
    with pytest.raises(ValueError, match="off_diagonals must not be negative"):
        svft(-1)
