"""Methods on a base of four bits: QDoRA and LoftQ."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from torch import Tensor
from torch.testing import assert_close

from analysis.load import load, results
from experiments.adapters import saved
from experiments.running.runner import execute
from experiments.study.audit import facts, remarks
from variants.dora import DoRA, DoRALayer
from variants.loftq import LoftQ
from variants.lora import LoRALayer
from variants.qdora import QDoRA
from variants.qlora import QLoRA
from variants.quantize import NF4Linear

SETTINGS = {
    "lr": 1.0, "rank": 4, "alpha": 8.0, "dropout": 0.0, "rslora": False, "targets": ["0"],
}  # fmt: skip
BITS = {"block": 64, "double": False, "backend": "torch"}


def model(d_in: int = 48, d_out: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(d_in, d_out))


def loftq(iterations: int = 1, rank: int = 4, **bits: object) -> LoftQ:
    return LoftQ(**SETTINGS | {"rank": rank}, **{**BITS, **bits}, iterations=iterations)


class Exact(NF4Linear):
    """A quantiser that loses nothing."""

    def __init__(self, linear: nn.Linear, *bits: object) -> None:
        nn.Module.__init__(self)
        self.exact = nn.Parameter(linear.weight.detach().clone(), requires_grad=False)
        self.bias, self.linear_class = linear.bias, nn.Linear

    @property
    def weight(self) -> Tensor:
        return self.exact


def test_qdoras_magnitude_is_that_of_the_quantised_weight() -> None:
    made, bare = model(), model()
    QDoRA(**SETTINGS, **BITS).adapt(made)
    QLoRA(**SETTINGS, **BITS).adapt(bare)
    layer = made[0]
    assert isinstance(layer, DoRALayer) and isinstance(layer.base, NF4Linear)
    assert_close(layer.m, bare[0].W0.norm(dim=1))
    original = model()[0].weight
    assert not torch.allclose(layer.m, original.norm(dim=1), rtol=1e-4)
    x = torch.randn(5, 48)
    assert_close(made(x), bare(x))  # the start is the quantised model


def test_on_an_exact_base_qdora_is_dora(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("variants.qlora.NF4Linear", Exact)
    quantised, plain = model(), model()
    torch.manual_seed(1)
    QDoRA(**SETTINGS, **BITS).adapt(quantised)
    torch.manual_seed(1)
    DoRA(**SETTINGS).adapt(plain)
    for layer in (quantised[0], plain[0]):
        torch.manual_seed(2)
        nn.init.normal_(layer.B, std=0.3)
        nn.init.uniform_(layer.m, 0.5, 2.0)
    x, grads = torch.randn(5, 48), []
    for made in (quantised, plain):
        y = made(x)
        y.square().sum().backward()
        grads.append((y.detach(), made[0].A.grad, made[0].B.grad, made[0].m.grad))
    for one, other in zip(*grads, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_the_norm_is_kept_while_bits_and_factors_are_what_they_were() -> None:
    made = model()
    QDoRA(**SETTINGS, **BITS).adapt(made)
    layer = made[0]
    first = layer.row_norm()
    assert layer.row_norm() is first
    layer.base.codes.bitwise_xor_(1)
    assert layer.row_norm() is not first
    assert not torch.equal(layer.row_norm(), first)


def change(layer: LoRALayer) -> Tensor:
    return layer.scale * layer.B @ layer.A


def error(variant: QLoRA) -> float:
    """How far the start is from the pretrained weight."""
    made = model()
    W0 = made[0].weight.detach().clone()
    variant.adapt(made)
    return float((made[0].merged_weight() - W0).norm())


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_one_iteration_leaves_what_the_best_product_cannot_reach(scale: float) -> None:
    made, bare = model(), model()
    W0 = bare[0].weight.detach().clone()
    LoftQ(**SETTINGS | {"alpha": 4 * scale}, **BITS, iterations=1).adapt(made)
    QLoRA(**SETTINGS, **BITS).adapt(bare)
    S = torch.linalg.svdvals(W0 - bare[0].W0)
    left = (made[0].merged_weight() - W0).norm()
    assert_close(left, S[4:].square().sum().sqrt(), rtol=1e-4, atol=1e-6)
    assert torch.equal(made[0].W0, bare[0].W0)


def test_the_start_is_nearer_to_the_pretrained_weight_than_the_quantised_one() -> None:
    quantised = error(QLoRA(**SETTINGS, **BITS))
    assert all(error(loftq(iterations)) < quantised for iterations in (1, 2, 5))
    assert error(loftq(1, rank=32)) < 1e-5  # a product of full rank makes up for all of it


def test_with_an_exact_quantiser_there_is_nothing_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("variants.loftq.NF4Linear", Exact)
    made = model()
    W0 = made[0].weight.detach().clone()
    loftq(3).adapt(made)
    assert torch.equal(made[0].W0, W0) and not change(made[0]).any()


def test_the_base_lies_on_the_grid_and_is_stored_and_restored() -> None:
    made, other = model(), model()
    variant = loftq(5)
    variant.adapt(made)
    base = made[0].base
    again = NF4Linear(deepcopy(base_as_linear(base)), 64, double=False)
    assert_close(again.weight, base.weight)
    state = {name: tensor.clone() for name, tensor in variant.learned_state(made).items()}
    assert set(state) == {"0.A", "0.B", "0.base.codes", "0.base.plain_scales"}
    other[0].weight.data += 0.1 * torch.randn(32, 48)  # as another library would fit it otherwise
    variant.adapt(other)
    assert not torch.equal(other[0].W0, made[0].W0)
    variant.load_state(other, state)
    assert torch.equal(other[0].merged_weight(), made[0].merged_weight())


def base_as_linear(base: NF4Linear) -> nn.Linear:
    linear = nn.Linear(48, 32)
    linear.weight = nn.Parameter(base.weight.detach())
    return linear


def test_a_run_keeps_its_quantised_base(tiny_run, tmp_path: Path) -> None:
    run = tiny_run("loftq", "train.epochs=1")
    result = execute(run, tmp_path)
    assert result.telemetry["starts_as_pretrained"] == 0.0
    stored = saved.read_adapter(tmp_path).state
    assert any(name.endswith("base.codes") for name in stored)


def test_tables_and_audits_say_what_a_method_starts_from(tiny_run, tmp_path: Path) -> None:
    for name in ("loftq", "lora", "dora"):
        execute(tiny_run(name, "train.epochs=1"), tmp_path / name)
    table = load(tmp_path).set_index("variant")["starts_as_pretrained"]
    assert table.to_dict() == {"loftq": False, "lora": True, "dora": True}
    known = {row["label"]["variant"]: facts([row]) for row in results(tmp_path)}
    said = "start is the pretrained model false (others true)"
    assert said in remarks(known)["loftq"] and said not in remarks(known)["lora"]


def test_no_iteration_is_refused() -> None:
    with pytest.raises(ValueError, match="iterations must be at least 1"):
        loftq(0)
    with pytest.raises(ValueError, match="rank must be at most 32"):
        loftq(rank=33).adapt(model())
