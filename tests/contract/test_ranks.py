"""Ranks that change while training: DyLoRA draws them, SoRA closes them."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from peft_oracle import adapted, base
from torch.testing import assert_close

from experiments.running.job import prepare_run
from experiments.training.loop import TrainingListener, fit
from variants.base import Progress
from variants.dylora import DyLoRA, DyLoRALayer
from variants.layerwise import layers_of
from variants.sora import SoRA, SoRALayer

EXACT = {"rtol": 1e-10, "atol": 1e-12}
LORA = {
    "lr": 1.0, "rank": 4, "alpha": 8.0, "dropout": 0.0, "rslora": False, "targets": ["0"],
}  # fmt: skip


def dylora(frozen: bool = False, seed: int = 0) -> DyLoRA:
    return DyLoRA(**LORA, frozen=frozen, rank_seed=seed)


def sora(xi: float = 0.1, gamma: float = 0.0) -> SoRA:
    return SoRA(lr=1.0, rank=4, alpha=8.0, dropout=0.0, xi=xi, gamma=gamma, targets=["0"])


def drawn(variant: DyLoRA) -> DyLoRALayer:
    layer = adapted(variant, base())[1]
    assert isinstance(layer, DyLoRALayer)
    return layer.train()


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("b", [1, 2, 3, 4])
def test_a_step_sees_the_first_ranks_at_alpha_over_their_number(b: int, frozen: bool) -> None:
    layer, x = drawn(dylora(frozen)), torch.randn(5, 12).double()
    layer.b.fill_(b)
    expected = layer.base(x) + 8.0 / b * x @ layer.A[:b].T @ layer.B[:, :b].T
    assert_close(layer(x), expected, **EXACT)
    layer(x).square().sum().backward()
    seen = [i for i in range(4) if layer.A.grad[i].any() or layer.B.grad[:, i].any()]
    assert seen == ([b - 1] if frozen else list(range(b)))
    layer.eval()
    assert_close(layer(x), F.linear(x, layer.merged_weight(), layer.bias), **EXACT)


def test_ranks_are_uniform_follow_from_the_seed_and_are_the_same_in_all_layers() -> None:
    made = dylora()
    ranks = Counter(made.drawn(step) for step in range(1, 4001))
    assert set(ranks) == {1, 2, 3, 4}
    assert all(abs(count - 1000) < 4 * 1000**0.5 for count in ranks.values())
    assert [made.drawn(s) for s in range(20)] == [dylora().drawn(s) for s in range(20)]
    assert [made.drawn(s) for s in range(20)] != [dylora(seed=1000).drawn(s) for s in range(20)]
    model = nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 12))
    replace(made, targets=["0", "1"]).adapt(model)
    for step in range(6):
        made.after_step(model, Progress(step, 10))
        assert {int(layer.b) for layer in layers_of(model, DyLoRALayer).values()} == {
            made.drawn(step + 1)
        }


def test_dylora_has_no_dropout_and_lora_scale() -> None:
    with pytest.raises(ValueError, match="dropout must be 0"):
        replace(dylora(), dropout=0.1)
    with pytest.raises(ValueError, match="rslora must be false"):
        replace(dylora(), rslora=True)


def test_a_gate_shrinks_by_xi_and_no_further_than_zero() -> None:
    model, layer = adapted(sora(), base())
    layer.g.data = torch.tensor([0.05, 0.15, -0.21, 0.1], dtype=torch.float64)
    sora(xi=0.1).after_step(model, Progress(1, 10))
    # The released code makes 0.15 zero too: there all below 2 xi are.
    assert_close(layer.g.detach(), torch.tensor([0, 0.05, -0.11, 0]).double(), rtol=0, atol=1e-8)


def test_a_closed_gate_takes_its_rank_out_and_pruning_changes_nothing() -> None:
    model, layer = adapted(sora(), base())
    assert isinstance(layer, SoRALayer)
    layer.g.data[1] = layer.g.data[3] = 0
    change = layer.merged_weight() - layer.W0
    expected = layer.scale * (layer.B[:, [0, 2]] * layer.g[[0, 2]]) @ layer.A[[0, 2]]
    assert_close(change, expected, **EXACT)
    telemetry = sora().telemetry(model)
    assert telemetry == {"rank": 2.0, "left": 2 * (12 + 8 + 1), "rank/0": 2.0}
    form = sora().to_peft(model)
    product = form.layers["0"]["lora_B.weight"] @ form.layers["0"]["lora_A.weight"]
    assert_close(layer.scale * product, change, **EXACT)


def test_sparsity_grows_with_xi(tiny_run: Callable) -> None:
    left = []
    for xi in (0.0, 0.01, 0.1):
        run = tiny_run("sora", f"variant.xi={xi}")
        job = prepare_run(run, run.task.load(run.data))
        fit(job.loaded.model, run.variant, job.batches, job.plan, TrainingListener())
        left.append(run.variant.telemetry(job.loaded.model.backbone)["rank"])
    assert left[0] == 4 * 8 and left[0] > left[1] > left[2]


def test_the_penalty_is_the_mean_of_all_gates_and_gates_are_not_decayed() -> None:
    model, layer = adapted(sora(gamma=3.0), base())
    assert_close(sora(gamma=3.0).penalty(model), 3.0 * layer.g.abs().mean(), **EXACT)
    assert sora().penalty(model) == 0.0
    decayed, kept = sora().param_groups(model, 1.0, 0.1)
    assert kept["params"] == [layer.g] and kept["weight_decay"] == 0
    assert len(decayed["params"]) == 2
    with pytest.raises(ValueError, match="xi must not be negative"):
        sora(xi=-1.0)
