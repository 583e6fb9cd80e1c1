"""VeRA: one random pair for all layers, two trained vectors in each."""

from collections.abc import Callable

import peft
import pytest
import torch
import torch.nn as nn
from torch.testing import assert_close

from variants.base import adapter_layers
from variants.lora import LoRALayer
from variants.vera import VeRA, VeRALayer, draw_projections

SETTINGS = {"lr": 1.0, "rank": 4, "d_initial": 0.1, "dropout": 0.0}


def two_shapes() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.Linear(10, 3), nn.Linear(3, 6))


def test_projections_are_those_that_peft_draws_from_a_key() -> None:
    # Measured with PEFT 0.21.2 and torch 2.13 on a CPU, key 0.
    A, B = draw_projections(2, 4, 3, seed=0)
    assert_close(A, torch.tensor([
        [-0.009169445, 0.65700656, -1.0080204, -0.90133756],
        [-0.47171584, 0.32842436, -0.024266092, 0.97108734],
    ]))  # fmt: skip
    assert_close(B, torch.tensor([
        [-0.15370919, 0.45832238], [-0.52344841, -0.34046122], [-1.65471208, -1.14710629],
    ]))  # fmt: skip
    wide, _ = draw_projections(1024, 768, 768, seed=0)
    assert_close(wide[0, :3], torch.tensor([-0.00066174765, 0.04741536, -0.0727476]))


def test_all_layers_share_one_pair_and_slice_it(case: Callable) -> None:
    model = two_shapes()
    VeRA(**SETTINGS, projection_seed=3, targets=["0", "1", "2"]).adapt(model)
    layers = [layer for _, layer in adapter_layers(model)]
    assert len({id(layer.A) for layer in layers}) == len({id(layer.B) for layer in layers}) == 1
    assert layers[0].A.shape == (4, 10) and layers[0].B.shape == (10, 4)
    A, B = layers[1].projections()
    assert A.shape == (4, 10) and B.shape == (3, 4)
    assert torch.equal(B, layers[0].B[:3])
    model.double()  # moving keeps them one tensor
    assert len({id(layer.A) for layer in layers}) == 1


def test_only_the_vectors_train_and_the_count_is_the_papers() -> None:
    model = two_shapes()
    VeRA(**SETTINGS, projection_seed=0, targets=["0", "1", "2"]).adapt(model)
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert {n.rpartition(".")[2] for n in trained} == {"b", "d"}
    assert sum(p.numel() for p in trained.values()) == 3 * 4 + (10 + 3 + 6)
    for _, layer in adapter_layers(model):
        assert (layer.d == 0.1).all() and not layer.b.any()


def test_no_vector_is_decayed() -> None:
    model = two_shapes()
    variant = VeRA(**SETTINGS, projection_seed=0, targets=["0"])
    variant.adapt(model)
    assert all(group["weight_decay"] == 0 for group in variant.param_groups(model, 1.0, 0.1))


def test_an_adapter_of_other_projections_is_refused() -> None:
    first, second = two_shapes(), two_shapes()
    one = VeRA(**SETTINGS, projection_seed=0, targets=["0"])
    other = VeRA(**SETTINGS, projection_seed=1, targets=["0"])
    one.adapt(first)
    other.adapt(second)
    with pytest.raises(ValueError, match="projection_seed 1"):
        other.load_state(second, one.learned_state(first))
    state = one.learned_state(first)
    state["projection.sha256"] = state["projection.sha256"].clone()
    state["projection.sha256"][0] ^= 1
    with pytest.raises(ValueError, match="sha256 differs"):
        one.load_state(first, state)


def test_neither_projection_is_stored() -> None:
    model = two_shapes()
    variant = VeRA(**SETTINGS, projection_seed=0, targets=["0", "2"])
    variant.adapt(model)
    assert set(variant.learned_state(model)) == {
        "0.b", "0.d", "2.b", "2.d", "projection.seed", "projection.sha256",
    }  # fmt: skip


def test_output_and_gradients_are_those_of_peft() -> None:
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(6, 10)).double()
    config = peft.VeraConfig(r=4, target_modules=["0"], projection_prng_key=5)
    theirs = peft.get_peft_model(nn.Sequential(nn.Linear(6, 10)).double(), config).double()
    theirs.base_model.model[0].base_layer.load_state_dict(base[0].state_dict())
    VeRA(**SETTINGS, projection_seed=5, targets=["0"]).adapt(base)
    layer = base[0]
    assert isinstance(layer, VeRALayer)
    their = theirs.base_model.model[0]
    with torch.no_grad():
        for vector, name in ((layer.b, "vera_lambda_b"), (layer.d, "vera_lambda_d")):
            vector.copy_(torch.randn_like(vector))
            getattr(their, name)["default"].copy_(vector)
    x = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    their_x = x.detach().clone().requires_grad_()
    assert_close(base(x), theirs(their_x))
    base(x).pow(2).sum().backward()
    theirs(their_x).pow(2).sum().backward()
    assert_close(x.grad, their_x.grad)
    assert_close(layer.b.grad, their.vera_lambda_b["default"].grad)
    assert_close(layer.d.grad, their.vera_lambda_d["default"].grad)


def nudged_layer() -> VeRALayer:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 10)).double()
    VeRA(**SETTINGS, projection_seed=0, targets=["0"]).adapt(model)
    layer = model[0]
    assert isinstance(layer, VeRALayer)
    nn.init.normal_(layer.b)
    nn.init.normal_(layer.d)
    return layer


def test_only_b_has_a_gradient_in_the_first_step() -> None:
    layer = nudged_layer()
    nn.init.zeros_(layer.b)
    layer(torch.randn(3, 6).double()).square().sum().backward()
    assert layer.b.grad.any() and not layer.d.grad.any()
    assert layer.A.grad is None and layer.B.grad is None


def test_it_is_the_lora_of_scaled_projections() -> None:
    layer = nudged_layer()
    lora = LoRALayer(layer.base, 4, scale=1.0, dropout=0.0)
    lora.A = nn.Parameter(layer.d[:, None] * layer.A)
    lora.B = nn.Parameter(layer.b[:, None] * layer.B)
    x = torch.randn(3, 6).double()
    assert_close(layer(x), lora(x), rtol=1e-12, atol=1e-12)
    assert_close(layer.merged_weight(), lora.merged_weight(), rtol=1e-12, atol=1e-12)


def test_for_many_tokens_it_keeps_one_small_product_and_one_matrix() -> None:
    torch.manual_seed(0)
    n, d_in, d_out, rank = 400, 48, 32, 16
    model = nn.Sequential(nn.Linear(d_in, d_out))
    VeRA(**{**SETTINGS, "rank": rank}, projection_seed=0, targets=["0"]).adapt(model)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes() // 4
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.randn(n, d_in, requires_grad=True))
    assert sum(kept.values()) == rank * n + d_out * rank  # A x, and b B d


def test_another_seed_gives_other_projections_of_the_same_spread() -> None:
    one, two = (draw_projections(256, 768, 768, seed) for seed in (1, 2))
    assert not torch.equal(one[0], two[0]) and not torch.equal(one[1], two[1])
    assert float(one[0].std()) == pytest.approx((2 / 768) ** 0.5, rel=0.01)
    assert float(one[1].std()) == pytest.approx((2 / 256) ** 0.5, rel=0.01)
