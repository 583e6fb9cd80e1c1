"""Starts from the gradient of W0: LoRA-GA and LoRA-One."""

from collections.abc import Callable

import pytest
import torch
from peft_oracle import adapted, base
from torch import Tensor
from torch.testing import assert_close

from experiments.running.job import prepare_run
from experiments.training.probe import ProbeRun
from variants.layerwise import layers_of
from variants.lora import LoRALayer
from variants.lora_ga import LoRAGA, choose_triplets
from variants.lora_one import LoRAOne
from variants.residual import ResidualLayer

EXACT = {"rtol": 1e-9, "atol": 1e-11}
SETTINGS = {
    "lr": 1.0, "rank": 3, "alpha": 2.0 * 3**0.5, "dropout": 0.0, "rslora": True, "targets": ["0"],
    "rows": 8, "head_steps": 0,
}  # fmt: skip


def lora_ga(direction: str = "ArB2r", gamma: float = 16.0, **changes: int) -> LoRAGA:
    return LoRAGA(**SETTINGS | changes, gamma=gamma, direction=direction)


def lora_one(gamma: float = 128.0) -> LoRAOne:
    return LoRAOne(**SETTINGS, gamma=gamma)


def gradient() -> Tensor:
    return torch.randn(8, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def begun(direction: str = "ArB2r") -> ResidualLayer:
    layer = adapted(lora_ga(direction), base(), std=0.0)[1]
    assert isinstance(layer, ResidualLayer)
    layer.begin_with(*lora_ga(direction).along(gradient()))
    return layer


@pytest.mark.parametrize("direction", ["ArB2r", "A2rBr", "ArBr"])
def test_the_first_step_goes_along_the_best_approximation_of_the_gradient(direction: str) -> None:
    layer, G = begun(direction), gradient()
    c2 = 8**0.5 / 16.0
    assert_close(layer.A_0 @ layer.A_0.T, c2 * torch.eye(3).double(), **EXACT)
    assert_close(layer.B_0.T @ layer.B_0, c2 * torch.eye(3).double(), **EXACT)
    assert_close(layer.merged_weight(), layer.W0.detach(), **EXACT)
    # L = <G, W>: a gradient step of lr on A and B, and what it does to W in first order.
    (layer.merged_weight() * G).sum().backward()
    moved = layer.scale * (layer.B.grad @ layer.A + layer.B @ layer.A.grad)
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    best = (U[:, :6] * S[:6]) @ Vh[:6]
    assert_close(moved, layer.scale**2 * c2 * best, **EXACT)


def test_a_takes_the_first_right_and_b_the_next_left_vectors() -> None:
    layer, G = begun(), gradient()
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    assert_close(layer.B_0.T @ U[:, :3], torch.zeros(3, 3).double(), **EXACT)
    assert_close(layer.A_0 @ Vh[3:].T, torch.zeros(3, 5).double(), **EXACT)
    size = torch.linalg.matrix_norm(layer.scale * layer.B_0 @ layer.A_0, 2)
    assert float(size) == pytest.approx(layer.scale * 8**0.5 / 16)
    assert choose_triplets("ArBr", 2) == ([1, 3], [0, 2]) and choose_triplets("A2rBr", 2) == (
        [2, 3],
        [0, 1],
    )


def test_lora_one_starts_a_normalised_step_against_the_gradient() -> None:
    A, B = lora_one().along(-gradient())
    start, G = 2.0 * B @ A, gradient()
    U, S, Vh = torch.linalg.svd(-G, full_matrices=False)
    expected = 2.0 / 128.0 / S[0] * (U[:, :3] * S[:3]) @ Vh[:3]
    assert_close(start, expected, **EXACT)
    assert float(torch.linalg.matrix_norm(start, 2)) == pytest.approx(2.0 / 128.0)
    assert (start * G).sum() < 0


def probe_of(tiny_run: Callable, variant: str, *overrides: str) -> ProbeRun:
    run = tiny_run(variant, *overrides)
    job = prepare_run(run, run.task.load(run.data))
    job.loaded.model.eval()
    return ProbeRun(job.loaded.model, run.variant, job.examples, job.plan, run.seed)


def test_the_loss_of_the_probe_falls_at_the_start(tiny_run: Callable) -> None:
    made = probe_of(tiny_run, "lora_one", "variant.rows=32", "variant.head_steps=0")
    batch = made.data.batch(made.stratified(32))
    before = float(made.model.loss(batch)[0].detach())
    made.variant.prepare(made.model.backbone, made.probe())
    after = float(made.model.loss(batch)[0].detach())
    assert after < before


def test_a_prepared_run_has_the_starts_of_its_gradients(tiny_run: Callable) -> None:
    made = probe_of(tiny_run, "lora_ga", "variant.head_steps=0")
    gradients = made.gradients(made.variant.rows, 0)
    made.variant.prepare(made.model.backbone, made.probe())
    for name, layer in layers_of(made.model.backbone, ResidualLayer).items():
        A, B = made.variant.along(gradients[name])
        assert_close(layer.B_0 @ layer.A_0, B @ A, rtol=1e-4, atol=1e-5)


def test_wrong_settings_are_named() -> None:
    for wrong, said in (
        ({"direction": "BrAr"}, "direction must be one of ArB2r"),
        ({"gamma": 0.0}, "gamma must be positive"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"head_steps": -1}, "head_steps must not be negative"),
    ):
        with pytest.raises(ValueError, match=said):
            lora_ga(**wrong)
    with pytest.raises(ValueError, match="rank must be at most 4 on a 8 x 12 weight"):
        lora_ga(rank=5).adapt(base())
    with pytest.raises(ValueError, match="gamma must be positive"):
        lora_one(0.0)
    assert isinstance(adapted(lora_one(), base())[1], LoRALayer)
