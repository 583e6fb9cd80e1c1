"""Shared vectors and fixed places: VB-LoRA and SHiRA."""

from pathlib import Path

import pytest
import torch
import torch.nn as nn
from peft_oracle import adapted, assert_peft_agrees, base
from torch.testing import assert_close

from variants.base import adapter_layers
from variants.shira import SHiRA, SHiRALayer
from variants.vb_lora import VBLoRA, VBLoRALayer

EXACT = {"rtol": 1e-10, "atol": 1e-12}


def vb_lora(k: int = 2, ratio: float = 1.0, targets: tuple[str, ...] = ("0",)) -> VBLoRA:
    return VBLoRA(
        lr=0.0, rank=3, vectors=6, length=4, k=k, ratio=ratio, dropout=0.0, targets=list(targets)
    )  # fmt: skip


def shira(mask: str = "random", rank: int = 2, seed: int = 0) -> SHiRA:
    return SHiRA(lr=0.0, rank=rank, mask=mask, position_seed=seed, targets=["0"])


@pytest.mark.parametrize("k", [1, 2, 6])
def test_vb_lora_is_that_of_peft(k: int) -> None:
    assert assert_peft_agrees(vb_lora(k), base()) == vb_lora(k)


def test_a_piece_is_a_mixture_whose_weights_add_up_to_one() -> None:
    layer = adapted(vb_lora(), base())[1]
    assert isinstance(layer, VBLoRALayer)
    A, B, _ = layer.product()
    logits = layer.logits_A[1, 2]  # row 1 of A, inputs 8 to 11
    best = logits.topk(2)
    weights = best.values.softmax(dim=0)
    assert float(weights.sum()) == pytest.approx(1.0)
    assert_close(A[1, 8:12], weights @ layer.bank[best.indices], **EXACT)
    logits = layer.logits_B[1, 2]  # outputs 4 to 7, column 2 of B
    best = logits.topk(2)
    assert_close(B[4:8, 2], best.values.softmax(dim=0) @ layer.bank[best.indices], **EXACT)
    layer(torch.randn(5, 12).double()).square().sum().backward()
    assert int((layer.logits_A.grad != 0).sum(dim=-1).max()) == 2  # no other logit has a gradient


def test_all_layers_share_one_bank_that_is_counted_and_stored_once() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 12))
    variant = vb_lora(targets=("0", "1"), ratio=10.0)
    variant.adapt(model)
    layers = [layer for _, layer in adapter_layers(model)]
    assert layers[0].bank is layers[1].bank
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == 6 * 4 + 2 * 6 * (3 * 12 // 4 + 3 * 8 // 4)
    state = variant.learned_state(model)
    assert set(state) == {"0.bank", "0.logits_A", "0.logits_B", "1.logits_A", "1.logits_B"}
    bank, logits = variant.param_groups(model, 0.1, 0.0)
    assert bank["params"] == [layers[0].bank] and len(logits["params"]) == 4
    assert (bank["lr"], logits["lr"]) == (0.1, pytest.approx(1.0))
    renamed = {n.replace("0.bank", "1.bank"): t.clone() for n, t in state.items()}
    nn.init.zeros_(layers[0].bank)
    variant.load_state(model, renamed)
    assert layers[0].bank.any()


@pytest.mark.parametrize(("widths", "b"), [((768, 768), 256), ((384, 1536), 192), ((32, 64), 32)])
def test_a_vector_divides_all_widths(widths: tuple[int, int], b: int) -> None:
    model = nn.Sequential(nn.Linear(*widths, device="meta"))
    VBLoRA(
        lr=0.0, rank=4, vectors=90, length=256, k=2, ratio=1.0, dropout=0.0, targets=["0"]
    ).adapt(model)  # fmt: skip
    assert model[0].bank.shape == (90, b)


def test_shira_is_that_of_peft() -> None:
    assert assert_peft_agrees(shira(), base()) == shira()


@pytest.mark.parametrize("mask", ["random", "magnitude"])
def test_all_but_the_places_keep_their_bits(mask: str) -> None:
    layer = adapted(shira(mask), base())[1]
    assert isinstance(layer, SHiRALayer)
    changed = layer.merged_weight() != layer.W0
    assert int(changed.sum()) == len(layer.values) == 2 * (12 + 8)
    rows, columns = layer.positions.long()
    assert changed[rows, columns].all()
    if mask == "magnitude":
        assert layer.W0[changed].abs().min() >= layer.W0[~changed].abs().max()
    assert_close(layer.merged_weight() - layer.W0, layer.delta(), **EXACT)


def test_places_follow_from_the_seed_and_are_part_of_the_adapter() -> None:
    first, same, other = (adapted(shira(seed=s), base())[1] for s in (0, 0, 1))
    assert torch.equal(first.positions, same.positions)
    assert not torch.equal(first.positions, other.positions)
    model = base()
    shira(seed=1).adapt(model)
    state = shira().learned_state(model)
    assert set(state) == {"0.values", "0.positions"}
    again = base()
    shira(seed=0).adapt(again)
    shira(seed=0).load_state(again, state)  # what was stored counts, not the seed
    assert torch.equal(again[0].positions, other.positions)


def test_places_outside_of_the_weight_are_refused() -> None:
    model = base()
    shira().adapt(model)
    state = {name: tensor.clone() for name, tensor in shira().learned_state(model).items()}
    d_out, d_in = model[0].W0.shape
    for place in ((0, d_in), (d_out, 0), (-1, 0)):
        state["0.positions"][:, 0] = torch.tensor(place)
        with pytest.raises(ValueError, match="Some positions of 0 lie outside of its weight"):
            shira().load_state(model, state)


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rank 5 makes 100 trained entries of"):
        shira(rank=5).adapt(base())
    with pytest.raises(ValueError, match="mask must be random or magnitude"):
        shira("gradient")
    with pytest.raises(ValueError, match="k must lie in 1 to vectors=6, got 7"):
        vb_lora(7)
