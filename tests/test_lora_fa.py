"""LoRA-FA: A never moves, inputs are not kept, the corrected gradient is the best there is."""

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
from torch.testing import assert_close

from variants.base import Progress, adapter_layers
from variants.lora import LoRALayer
from variants.lora_fa import LoRAFA

SETTINGS = {"lr": 1.0, "rank": 3, "alpha": 6.0, "dropout": 0.0, "rslora": False, "targets": ["0"]}


def saved_bytes(layer: nn.Module, x: torch.Tensor) -> int:
    """Bytes that autograd keeps for the backward pass, weights left out."""
    weights = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(x)
    return sum(kept.values())


def test_without_dropout_the_input_is_not_kept() -> None:
    n, d, rank = 512, 256, 3
    x = torch.randn(n, d, requires_grad=True)
    frozen = LoRAFA(**SETTINGS, corrected=False).wrap(nn.Linear(d, d))
    plain = LoRALayer(nn.Linear(d, d), rank, 2.0, dropout=0.0)
    assert saved_bytes(frozen, x) == 4 * n * rank  # A x alone
    assert saved_bytes(plain, x) == 4 * (n * rank + n * d)  # and x


def test_the_corrected_gradient_moves_w_as_near_to_the_full_gradient_as_b_can() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 5)).double()
    variant = LoRAFA(**SETTINGS, corrected=True)
    variant.adapt(model)
    layer = model[0]
    full = torch.randn(5, 7, dtype=torch.float64)  # G = dL/dW
    layer.B.grad = layer.scale * full @ layer.A.T
    variant.after_backward(model, Progress(1, 1))
    # Least squares: min over X of || s X A - G ||.
    best = torch.linalg.lstsq(layer.scale * layer.A.detach().T, full.T).solution.T
    assert_close(layer.B.grad, best)
    projector = torch.linalg.pinv(layer.A.detach()) @ layer.A.detach()
    assert_close(layer.scale * layer.B.grad @ layer.A.detach(), full @ projector)


def test_the_plain_algorithm_leaves_the_gradient_alone() -> None:
    model = nn.Sequential(nn.Linear(7, 5))
    variant = LoRAFA(**SETTINGS, corrected=False)
    variant.adapt(model)
    model[0].B.grad = torch.ones_like(model[0].B)
    variant.after_backward(model, Progress(1, 1))
    assert (model[0].B.grad == 1).all()


@pytest.mark.parametrize("corrected", ["true", "false"])
def test_a_stays_as_drawn_and_is_saved(tiny_run: Callable, tmp_path, corrected: str) -> None:
    from experiments.job import start
    from experiments.training import Watch, fit

    run = tiny_run("lora_fa", f"variant.corrected={corrected}")
    job = start(run, run.task.load(run.data))
    layers = dict(adapter_layers(job.loaded.model.backbone))
    before = {name: layer.A.detach().clone() for name, layer in layers.items()}
    fit(job.loaded.model, run.variant, job.batches, job.plan, Watch())
    assert all(torch.equal(layers[name].A, A) for name, A in before.items())
    state = run.variant.learned_state(job.loaded.model.backbone)
    assert all(torch.equal(state[f"{name}.A"], A) for name, A in before.items())
    assert all(layer.B.any() for layer in layers.values())
