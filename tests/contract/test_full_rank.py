"""Changes of high rank from few numbers: RandLoRA and MoRA."""

import pytest
import torch
import torch.nn as nn
from peft_oracle import adapted, assert_peft_agrees, base
from torch.testing import assert_close

from variants.base import adapter_layers
from variants.mora import MoRA, MoRALayer
from variants.randlora import RandLoRA, RandLoRALayer, draw_bases

EXACT = {"rtol": 1e-10, "atol": 1e-12}
SHAPES = [(12, 8), (8, 12), (9, 9)]  # d_in, d_out


def randlora(rank: int = 3, seed: int = 5, targets: tuple[str, ...] = ("0",)) -> RandLoRA:
    return RandLoRA(lr=0.0, rank=rank, alpha=6.0, projection_seed=seed, targets=list(targets))


def mora(form: str = "rope", rank: int = 2) -> MoRA:
    return MoRA(lr=0.0, rank=rank, form=form, dropout=0.0, targets=["0"])


@pytest.mark.parametrize("rank", [3, 4, 20])
@pytest.mark.parametrize("shape", SHAPES)
def test_randlora_is_that_of_peft(shape: tuple[int, int], rank: int) -> None:
    assert assert_peft_agrees(randlora(rank), base(*shape)) == randlora(rank)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_update_is_a_sum_of_rescaled_products_of_full_rank(shape: tuple[int, int]) -> None:
    layer = adapted(randlora(), base(*shape))[1]
    assert isinstance(layer, RandLoRALayer)
    count, k = layer.gamma.shape
    assert (count, k) == (-(-min(shape) // 3), min(shape))
    A = layer.A[:, 0, :k]
    B = layer.B[: max(shape), :count].flatten(1)
    total = torch.zeros(max(shape), k).double()
    for j in range(count):
        columns = B[:, torch.arange(3) * count + j]
        total += columns @ torch.diag(layer.lamda[:, j]) @ A @ torch.diag(layer.gamma[j])
    total = 2.0 * total  # s = alpha / r
    assert_close(layer.delta(), total if shape[1] >= shape[0] else total.T, **EXACT)
    assert torch.linalg.matrix_rank(layer.delta()) == min(shape)


def test_only_lambda_has_a_gradient_in_the_first_step() -> None:
    layer = adapted(randlora(), base(), std=0.0)[1]
    assert isinstance(layer, RandLoRALayer)
    layer(torch.randn(5, 12).double()).square().sum().backward()
    assert layer.lamda.grad.any() and not layer.gamma.grad.any()
    assert layer.A.grad is None and layer.B.grad is None


def test_all_layers_share_the_bases_which_are_not_stored() -> None:
    model = nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 3))
    variant = randlora(targets=("0", "1"))
    variant.adapt(model)
    layers = [layer for _, layer in adapter_layers(model)]
    assert layers[0].A is layers[1].A and layers[0].B is layers[1].B
    assert layers[0].A.shape == (3, 1, 10) and layers[0].B.shape == (10, 4, 3)
    assert float(layers[0].A.std()) == pytest.approx(1.0, rel=0.01)
    state = variant.learned_state(model)
    assert set(state) == {
        "0.lamda", "0.gamma", "1.lamda", "1.gamma", "projection.seed", "projection.sha256",
    }  # fmt: skip
    with pytest.raises(ValueError, match=r"projection_seed 6 .*projection\.seed differs"):
        randlora(seed=6, targets=("0", "1")).load_state(model, state)
    state["projection.sha256"] = state["projection.sha256"] ^ 1
    with pytest.raises(ValueError, match="sha256 differs"):
        variant.load_state(model, state)


def test_another_seed_draws_other_bases() -> None:
    one, two = (draw_bases(3, [torch.Size((8, 12))], seed) for seed in (1, 2))
    assert not torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1])


# Inputs and outputs that the side divides, does not divide, and is larger than.
MORA_SHAPES = [(12, 12), (30, 11), (11, 30), (40, 7), (7, 40), (3, 5)]


@pytest.mark.parametrize("shape", MORA_SHAPES)
def test_sharing_folds_and_repeats(shape: tuple[int, int]) -> None:
    layer = adapted(mora("sharing"), base(*shape))[1]
    assert isinstance(layer, MoRALayer)
    (d_in, d_out), side = shape, len(layer.M)
    assert side == int((sum(shape) * 2) ** 0.5 + 0.5)
    C, D = torch.zeros(side, d_in).double(), torch.zeros(d_out, side).double()
    for t in range(-(-d_in // side) * side):
        C[t % side, t % d_in] += 1
    for u in range(d_out):
        D[u, u % side] = 1
    assert_close(layer.merged_weight() - layer.W0, D @ layer.M @ C, **EXACT)


@pytest.mark.parametrize("shape", MORA_SHAPES)
def test_rope_turns_every_block_by_its_place(shape: tuple[int, int]) -> None:
    layer = adapted(mora("rope"), base(*shape))[1]
    assert isinstance(layer, MoRALayer)
    (d_in, d_out), side = shape, len(layer.M)
    assert side % 2 == 0
    expected = torch.zeros(d_out, d_in).double()
    n = -(-d_in // side)
    rows = torch.zeros(n * side, d_in).double()
    for p in range(n):
        place = torch.zeros(side, d_in).double()  # block p of the inputs, which go round
        for i in range(side):
            place[i, (p * side + i) % d_in] += 1
        turn = torch.zeros(side, side).double()
        for i in range(side // 2):
            angle = torch.tensor(p * 10000.0 ** (-2 * i / side), dtype=torch.float64)
            j = i + side // 2
            turn[i, i] = turn[j, j] = angle.cos()
            turn[i, j], turn[j, i] = -angle.sin(), angle.sin()
        rows[p * side : (p + 1) * side] = layer.M @ turn @ place
    for u in range(d_out):
        expected[u] = rows[u % (n * side)]
    assert_close((layer.merged_weight() - layer.W0).detach(), expected.detach(), **EXACT)


def test_rope_has_a_higher_rank_than_sharing() -> None:
    ranks = {}
    for form in ("rope", "sharing"):
        layer = adapted(mora(form), base(40, 40))[1]
        ranks[form] = int(torch.linalg.matrix_rank((layer.merged_weight() - layer.W0).detach()))
    assert ranks["sharing"] <= 13 < ranks["rope"]


def test_a_form_that_is_not_known_is_named() -> None:
    with pytest.raises(ValueError, match="form must be rope or sharing, got 'type 6'"):
        mora("type 6")
