"""Starts from what comes into layers: EVA and CorDA."""

from collections.abc import Callable, Iterable
from pathlib import Path

import peft
import pytest
import torch
import torch.nn as nn
from peft.tuners.lora.config import CordaConfig
from peft.tuners.lora.corda import preprocess_corda
from peft_oracle import adapted, base
from torch import Tensor
from torch.testing import assert_close

from experiments.adapters import saved
from experiments.running.job import prepare_run
from experiments.running.runner import execute
from experiments.training.probe import ProbeRun
from variants.activations import Moments, input_moments
from variants.corda import CorDA
from variants.eva import EVA, directions, distribute, resize
from variants.layerwise import layers_of
from variants.lora import LoRALayer
from variants.milora import MiLoRA
from variants.pissa import PiSSA
from variants.residual import ResidualLayer

EXACT = {"rtol": 1e-9, "atol": 1e-11}
SETTINGS = {
    "lr": 1.0, "rank": 3, "alpha": 6.0, "dropout": 0.0, "rslora": False, "targets": ["0"],
}  # fmt: skip


def moments(*inputs: Tensor) -> Moments:
    width = inputs[0].shape[1]
    found = Moments(torch.zeros(width).double(), torch.zeros(width, width).double())
    for x in inputs:
        found.add(x)
    return found


def eva(rho: float = 2.0) -> EVA:
    return EVA(**SETTINGS, rho=rho, share=1.0)


def corda(mode: str = "ipm") -> CorDA:
    return CorDA(**SETTINGS, mode=mode, share=1.0)


def prepared(tiny_run: Callable, variant: str, *overrides: str, **options: str) -> ProbeRun:
    run = tiny_run(variant, *overrides, **options)
    job = prepare_run(run, run.task.load(run.data))
    made = ProbeRun(job.loaded.model, run.variant, job.examples, job.plan, run.seed)
    run.variant.prepare(job.loaded.model.backbone, made.probe())
    return made


# What is seen of the data.


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_moments_are_those_of_real_tokens_and_shared_by_equal_inputs(
    tiny_run: Callable, family: str
) -> None:
    run = tiny_run("lora", "variant.targets=${model.linears.all}", family=family)
    job = prepare_run(run, run.task.load(run.data))
    made = ProbeRun(job.loaded.model, run.variant, job.examples, job.plan, run.seed)
    backbone = made.model.backbone
    layers = layers_of(backbone, LoRALayer)
    found = input_moments(backbone, layers, made.batches(0.5))
    assert found.keys() == layers.keys()
    tokens = int(made.data.lengths[made.rows(0.5)].sum())
    assert all(one.tokens == tokens for one in found.values())
    names = list(layers)
    # q, k and v of a block are fed by one tensor, and nothing else is.
    assert found[names[0]] is found[names[1]] is found[names[2]]
    assert len({id(one) for one in found.values()}) == 2 * 4
    seen: list[Tensor] = []
    hook = layers[names[0]].register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    made.model.eval()
    with torch.no_grad():
        for row in made.rows(0.5):  # one by one there is no padding
            backbone(**made.data.batch(made.rows(1.0)[row : row + 1]).inputs)
    hook.remove()
    x = torch.cat([t.flatten(0, 1) for t in seen]).double()
    assert_close(found[names[0]].second, x.T @ x, rtol=1e-5, atol=1e-4)
    assert_close(found[names[0]].covariance(), x.T.cov(correction=0), rtol=1e-4, atol=1e-6)


def test_without_a_batch_there_are_no_moments() -> None:
    with pytest.raises(ValueError, match="saw no batch"):
        input_moments(nn.Sequential(), {}, [])


# EVA.


def planted(tokens: int = 500) -> tuple[Tensor, Tensor]:
    """Inputs [tokens, 12] of variance in three directions, far from zero, and the directions."""
    generator = torch.Generator().manual_seed(1)
    V = torch.linalg.qr(torch.randn(12, 3, generator=generator).double())[0]
    spread = torch.tensor([3.0, 2.0, 1.0]).double()
    x = torch.randn(tokens, 3, generator=generator).double() * spread @ V.T
    return x + 0.01 * torch.randn(tokens, 12, generator=generator).double() + 20.0, V.T


def test_planted_directions_are_found_though_the_mean_is_large() -> None:
    x, V = planted()
    found, shares = directions(moments(x), 5)
    assert_close(found @ found.T, torch.eye(5).double(), **EXACT)
    assert_close((found[:3] @ V.T).abs(), torch.eye(3).double(), rtol=0, atol=0.12)
    assert float(shares[:3].sum()) == pytest.approx(1.0, abs=1e-3)
    assert (found.gather(1, found.abs().argmax(dim=1, keepdim=True)) > 0).all()


def test_the_order_of_examples_and_their_batches_make_no_difference() -> None:
    x, _ = planted()
    shuffled = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(2))]
    one, other = directions(moments(x), 3), directions(moments(*shuffled.split(77)), 3)
    assert_close(one[0], other[0], rtol=1e-6, atol=1e-8)
    assert_close(one[1], other[1], rtol=1e-6, atol=1e-8)


def test_ranks_go_to_the_best_directions_and_add_up() -> None:
    ratios = {
        "a": torch.tensor([0.9, 0.05, 0.01]),
        "b": torch.tensor([0.3, 0.2, 0.1]),
        "c": torch.tensor([0.04, 0.03, 0.02]),
    }
    assert distribute(ratios, 4) == {"a": 1, "b": 3, "c": 0}
    assert sum(distribute(ratios, 7).values()) == 7


def test_a_probe_gives_directions_ranks_and_the_pretrained_model(tiny_run: Callable) -> None:
    made = prepared(tiny_run, "eva", "variant.rank=4", "variant.targets=${model.linears.all}")
    layers = layers_of(made.model.backbone, LoRALayer)
    ranks = {name: len(layer.A) for name, layer in layers.items()}
    assert sum(ranks.values()) == 4 * len(layers) and len(set(ranks.values())) > 1
    assert max(ranks.values()) <= 8
    for layer in layers.values():
        assert_close(layer.A @ layer.A.T, torch.eye(len(layer.A)), rtol=1e-5, atol=1e-5)
        assert not layer.B.any() and layer.scale == 4.0
    block = [layers[f"encoder.layer.0.attention.self.{n}"] for n in ("query", "key", "value")]
    assert torch.equal(block[0].A, block[1].A) and torch.equal(block[0].A, block[2].A)
    telemetry = made.variant.telemetry(made.model.backbone)
    assert telemetry["rank"] == 4 * len(layers)


def test_at_rho_one_every_layer_keeps_its_rank(tiny_run: Callable) -> None:
    made = prepared(tiny_run, "eva", "variant.rho=1.0", "variant.targets=${model.linears.all}")
    assert {len(layer.A) for layer in layers_of(made.model.backbone, LoRALayer).values()} == {8}


def test_ranks_survive_saving_also_a_rank_of_zero(
    tiny_run: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uneven(ratios: dict[str, Tensor], total: int) -> dict[str, int]:
        return dict(zip(ratios, (0, 5, 8, 3), strict=True))

    monkeypatch.setattr("variants.eva.distribute", uneven)
    run = tiny_run("eva")
    execute(run, tmp_path)
    restored = saved.restore(tmp_path).loaded.model.backbone
    layers = layers_of(restored, LoRALayer)
    assert [len(layer.A) for layer in layers.values()] == [0, 5, 8, 3]
    assert all(layer.B.any() for layer in layers.values() if len(layer.A))
    x = torch.randn(2, 32)
    first = next(iter(layers.values()))
    assert torch.equal(first(x), first.base(x))
    form = run.variant.to_peft(restored)
    assert [len(t["lora_A.weight"]) for t in form.layers.values()] == [5, 8, 3]


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="rho must be at least 1"):
        eva(0.5)
    with pytest.raises(ValueError, match="mode must be ipm or kpm, got 'ip'"):
        corda("ip")
    for method, own in ((EVA, {"rho": 1.0}), (CorDA, {"mode": "ipm"})):
        with pytest.raises(ValueError, match="share must lie in"):
            method(**SETTINGS, **own, share=0.0)


def test_a_layer_of_rank_zero_is_its_base() -> None:
    layer = LoRALayer(nn.Linear(6, 4), 2, 2.0, dropout=0.0)
    resize(layer, 0)
    for tokens in (3, 300):  # both forms
        x = torch.randn(tokens, 6, requires_grad=True)
        assert_close(layer(x), layer.base(x))
        layer(x).sum().backward()
    assert torch.equal(layer.merge().weight, layer.base.weight)


# CorDA.


def oriented(mode: str, C: Tensor) -> ResidualLayer:
    layer = adapted(corda(mode), base(), std=0.0)[1]
    assert isinstance(layer, ResidualLayer)
    layer.begin_with(*corda(mode).oriented(layer.W0, C))
    return layer


@pytest.mark.parametrize(("mode", "method"), [("ipm", PiSSA), ("kpm", MiLoRA)])
def test_for_white_inputs_it_is_pissa_or_milora(mode: str, method: type) -> None:
    layer = oriented(mode, torch.eye(12).double())
    A, B = method(**SETTINGS).start_of(layer)
    assert_close(layer.B_0 @ layer.A_0, B @ A, **EXACT)


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_what_is_left_of_w0_is_what_was_not_taken_as_inputs_see_it(mode: str) -> None:
    x, _ = planted()
    C = moments(x).second
    layer = oriented(mode, C)
    damped = C + 0.01 * C.diagonal().mean() * torch.eye(12).double()
    W0, S = layer.W0.detach(), torch.linalg.svdvals(layer.W0.detach() @ damped)
    left = (W0 - layer.scale * layer.B_0 @ layer.A_0) @ damped
    taken = S[:3] if mode == "ipm" else S[-3:]
    rest = (S.square().sum() - taken.square().sum()).sqrt()
    assert_close(torch.linalg.matrix_norm(left), rest, rtol=1e-6, atol=0)
    assert_close(layer.merged_weight(), W0, **EXACT)
    gram = layer.B_0.T @ layer.B_0
    assert_close(gram, gram.diagonal().diag(), **EXACT)


def test_more_tokens_or_larger_inputs_do_not_make_one_factor_the_larger() -> None:
    x, _ = planted()
    one, other = oriented("ipm", moments(x).second), oriented("ipm", moments(7 * x, 7 * x).second)
    assert_close(one.A_0, other.A_0, **EXACT)
    assert_close(one.B_0, other.B_0, **EXACT)


@pytest.mark.parametrize("mode", ["ipm", "kpm"])
def test_the_start_is_that_of_peft_on_one_batch(mode: str) -> None:
    x, _ = planted()
    x = (x - 19).float()
    model = base().float()
    config = peft.LoraConfig(
        r=3, lora_alpha=6, target_modules=["0"], init_lora_weights="corda",
        corda_config=CordaConfig(corda_method=mode),
    )  # fmt: skip
    mine = oriented(mode, moments(x).second)
    preprocess_corda(model, config, run_model=lambda: model(x))
    theirs = peft.get_peft_model(model, config).base_model.model[0]
    product = theirs.lora_B["default"].weight @ theirs.lora_A["default"].weight
    expected = (mine.B_0 @ mine.A_0).float()
    assert_close(product, expected, rtol=1e-2, atol=1e-3)  # they decompose in float32


def test_a_prepared_start_is_stored_and_restored(tiny_run: Callable, tmp_path: Path) -> None:
    run = tiny_run("corda")
    execute(run, tmp_path)
    stored: Iterable[str] = saved.read_adapter(tmp_path).state
    assert {name.rpartition(".")[2] for name in stored} == {"A", "B", "A_0", "B_0"}
