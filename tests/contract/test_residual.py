"""LoRA from a part of W0: which part, and that the start is W0 whatever the scale."""

import peft
import pytest
import torch
import torch.nn as nn
from peft_oracle import base, in_peft
from torch.testing import assert_close

from variants.base import Variant, adapter_layers
from variants.lora import LoRA
from variants.milora import MiLoRA
from variants.olora import OLoRA
from variants.pissa import PiSSA
from variants.residual import ResidualLayer, ResidualLoRA
from variants.rslora import RsLoRA

METHODS = [PiSSA, MiLoRA, OLoRA]
EXACT = {"rtol": 1e-10, "atol": 1e-12}


def settings(rank: int = 3, scale: float = 2.0, rslora: bool = False) -> dict:
    alpha = scale * (rank**0.5 if rslora else rank)
    return {
        "lr": 1.0, "rank": rank, "alpha": alpha, "dropout": 0.0, "rslora": rslora,
        "targets": ["0"],
    }  # fmt: skip


def started(
    method: type[ResidualLoRA], rank: int = 3, scale: float = 2.0, shape: tuple[int, int] = (8, 12)
) -> ResidualLayer:
    """A layer of a method at its start, in float64."""
    model = base(*reversed(shape))
    method(**settings(rank, scale)).adapt(model)
    layer = model[0]
    assert isinstance(layer, ResidualLayer)
    return layer


def part(layer: ResidualLayer) -> torch.Tensor:
    """s B_0 A_0."""
    return layer.scale * (layer.B_0 @ layer.A_0).detach()


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("method", METHODS)
def test_the_start_is_w0_for_every_scale(method: type[ResidualLoRA], scale: float) -> None:
    layer = started(method, scale=scale)
    assert torch.equal(layer.merged_weight(), layer.W0)
    x = torch.randn(5, 12).double()
    assert_close(layer(x), layer.base(x), **EXACT)
    assert part(layer).norm() > 0.1


@pytest.mark.parametrize("shape", [(8, 12), (12, 8)])
def test_pissa_and_milora_split_w0_between_them(shape: tuple[int, int]) -> None:
    first, last = started(PiSSA, 3, shape=shape), started(MiLoRA, 5, shape=shape)
    assert_close(part(first) + part(last), first.W0.detach(), **EXACT)
    S = torch.linalg.svdvals(first.W0.detach())
    assert_close(torch.linalg.svdvals(part(last))[:5], S[3:], **EXACT)
    left = torch.linalg.svdvals(last.W0.detach() - part(last))
    assert_close(left, torch.cat((S[:3], torch.zeros(5).double())), **EXACT)
    assert_close(torch.linalg.matrix_norm(part(last), 2), S[3], **EXACT)


def test_the_subspaces_of_milora_are_orthogonal_to_the_principal_ones() -> None:
    layer = started(MiLoRA, 3)
    U, _, Vh = torch.linalg.svd(layer.W0.detach(), full_matrices=False)
    assert_close(layer.B_0.T @ U[:, :5], torch.zeros(3, 5).double(), **EXACT)
    assert_close(layer.A_0 @ Vh[:5].T, torch.zeros(3, 5).double(), **EXACT)


def test_milora_of_a_weight_without_minor_directions_is_refused() -> None:
    model = nn.Sequential(nn.Linear(12, 8))
    model[0].weight.data[3] = model[0].weight.data[4]
    with pytest.raises(ValueError, match="the smallest of the singular values that it takes is"):
        MiLoRA(**settings()).adapt(model)


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_above_the_smaller_side_is_refused(method: type[ResidualLoRA]) -> None:
    with pytest.raises(ValueError, match="rank must be at most 8 on a 8 x 12 weight"):
        started(method, rank=9)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_olora_is_a_qr_decomposition_that_no_scale_divides(scale: float) -> None:
    layer = started(OLoRA, 3, scale)
    assert_close(layer.B_0.T @ layer.B_0, torch.eye(3).double(), **EXACT)
    assert torch.equal(layer.A_0, layer.A_0.triu())
    assert_close((layer.B_0 @ layer.A_0)[:, :3], layer.W0[:, :3], **EXACT)


def test_olora_starts_as_pefts_up_to_signs_of_pairs() -> None:
    model = base()
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "init_lora_weights": "olora"}
    theirs = in_peft(config, model.float()).base_model.model[0]  # it takes no other dtype
    assert isinstance(theirs, peft.tuners.lora.layer.Linear)
    layer = started(OLoRA, 3, 2.0)
    A, B = theirs.lora_A["default"].weight, theirs.lora_B["default"].weight
    signs = (layer.B_0 * B).sum(dim=0).sign()
    assert_close(layer.B_0 * signs, B.detach(), rtol=1e-5, atol=1e-6)  # they decompose in float32
    assert_close(layer.A_0 * signs[:, None], A.detach(), rtol=1e-5, atol=1e-6)
    assert_close(theirs.base_layer.weight, layer.W0 - part(layer), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_a_trained_change_has_twice_the_rank_and_is_a_lora_of_pefts(
    method: type[ResidualLoRA],
) -> None:
    model = base()
    original = base()
    variant: Variant = method(**settings(2))
    variant.adapt(model)
    for parameter in (model[0].A, model[0].B):
        parameter.data += torch.randn_like(parameter)
    (_, layer), *_ = adapter_layers(model)
    assert torch.linalg.matrix_rank(layer.merged_weight() - layer.W0) == 4
    form = variant.to_peft(model)
    theirs = in_peft(form.config, original)
    peft.set_peft_model_state_dict(
        theirs, {f"base_model.model.0.{end}": t for end, t in form.layers["0"].items()}
    )
    x = torch.randn(5, 12).double()
    assert_close(theirs(x), model(x), **EXACT)


@pytest.mark.parametrize(("method", "power"), [(RsLoRA, 0.0), (LoRA, -1.0)])
def test_what_a_step_does_to_its_token_keeps_its_size_in_every_rank(
    method: type[LoRA], power: float
) -> None:
    """SGD's first step changes y(x) by -lr s^2 g ||A x||^2, and ||A x||^2 grows as r does."""
    x, sizes = torch.randn(512), {}
    for rank in (8, 128):
        model = nn.Sequential(nn.Linear(512, 64))
        given = settings() | {"rank": rank, "alpha": 4.0, "rslora": method is RsLoRA}
        method(**given).adapt(model)
        sizes[rank] = float((model[0].scale * (model[0].A @ x).norm()) ** 2)
    assert sizes[128] / sizes[8] == pytest.approx(16**power, rel=0.5)


def test_rslora_without_its_scale_is_refused() -> None:
    with pytest.raises(ValueError, match="rslora must be true"):
        RsLoRA(**settings())
