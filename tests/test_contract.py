"""What every variant owes, over conf/variant/*.yaml: a method is tested once its YAML exists."""

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import VARIANTS, Case

from experiments.layers import float_masters
from experiments.randomness import seed_everything
from variants.base import AdapterLayer, Variant, adapter_layers, merge, replace_module

FAMILIES = ["roberta", "bert", "gpt2"]
PRECISIONS = ["fp32", "bf16"]

everywhere = [
    pytest.mark.parametrize("precision", PRECISIONS),
    pytest.mark.parametrize("family", FAMILIES),
    pytest.mark.parametrize("variant", VARIANTS),
]


def every_case(test: Callable) -> Callable:
    """Run a test for every variant on every family in both precisions."""
    for mark in everywhere:
        test = mark(test)
    return test


def adapted(case: Callable[..., Case], variant: str, family: str, precision: str = "fp32") -> Case:
    """A variant in place, its adapters initialised from a seed."""
    made = case(variant, f"train.precision={precision}", family=family)
    seed_everything(0)
    made.run.variant.adapt(made.model.backbone)
    float_masters(made.model)
    return made


@torch.no_grad()
def nudge(model: nn.Module) -> None:
    """Move everything that trains away from where it was born."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def train_steps(made: Case, steps: int = 20) -> None:
    """Train on one batch, hooks included, as the loop does."""
    from variants.base import Progress, decay_groups

    model, variant = made.model, made.run.variant
    groups = variant.param_groups(model.backbone, 1e-2, 0.01)
    optimizer = torch.optim.AdamW(groups + decay_groups(model.head, 1e-2, 0.0))
    model.train()
    for step in range(1, steps + 1):
        loss, _ = model.loss(made.batch)
        (loss / len(made.batch.rows) + variant.penalty(model.backbone)).backward()
        variant.after_backward(model.backbone, Progress(step, steps))
        optimizer.step()
        variant.after_step(model.backbone, Progress(step, steps))
        optimizer.zero_grad()
    model.eval()


@torch.no_grad()
def logits(made: Case) -> torch.Tensor:
    return made.model(made.batch)


def tolerance(precision: str) -> dict[str, float]:
    return {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.05, "atol": 0.05}


@every_case
def test_an_adapted_model_starts_as_the_pretrained_one(
    case: Callable[..., Case], variant: str, family: str, precision: str
) -> None:
    pretrained = logits(case(variant, f"train.precision={precision}", family=family))
    made = adapted(case, variant, family, precision)
    start = logits(made)
    layers = dict(adapter_layers(made.model.backbone))
    for name, layer in layers.items():
        replace_module(made.model.backbone, name, layer.base)
    torch.testing.assert_close(start, logits(made), **tolerance(precision))
    # A quantised base is not the pretrained one, but near it.
    quantised = any(not isinstance(layer.base, nn.Linear) for layer in layers.values())
    close = {"rtol": 0.0, "atol": 0.05} if quantised else tolerance(precision)
    torch.testing.assert_close(start, pretrained, **close)


@every_case
@pytest.mark.parametrize("state", ["nudged", "trained"])
def test_a_layer_is_its_merged_weight(
    case: Callable[..., Case], variant: str, family: str, precision: str, state: str
) -> None:
    made = adapted(case, variant, family, precision)
    nudge(made.model) if state == "nudged" else train_steps(made)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    for _, layer in adapter_layers(made.model.backbone):
        d_out, d_in = layer.W0.shape
        x = torch.randn(3, 5, d_in, generator=torch.Generator().manual_seed(2)).to(dtype)
        weight = layer.merged_weight()
        assert weight.shape == (d_out, d_in) and weight.dtype == torch.float32
        with torch.no_grad():
            bias = None if layer.bias is None else layer.bias.float()
            expected = F.linear(x.float(), weight, bias)
            torch.testing.assert_close(layer(x).float(), expected, **tolerance(precision))


@every_case
@pytest.mark.parametrize("state", ["nudged", "trained"])
def test_a_merged_model_has_no_adapter_and_the_same_outputs(
    case: Callable[..., Case], variant: str, family: str, precision: str, state: str
) -> None:
    made = adapted(case, variant, family, precision)
    nudge(made.model) if state == "nudged" else train_steps(made)
    before = logits(made)
    merge(made.model.backbone)
    assert not any(isinstance(module, AdapterLayer) for module in made.model.modules())
    # A bfloat16 base rounds the merged weight, so the outputs differ by that rounding.
    torch.testing.assert_close(logits(made), before, **tolerance(precision))


@every_case
def test_every_trainable_parameter_is_in_one_optimiser_group_and_float32(
    case: Callable[..., Case], variant: str, family: str, precision: str
) -> None:
    made = adapted(case, variant, family, precision)
    backbone = made.model.backbone
    groups = made.run.variant.param_groups(backbone, 1e-3, 0.1)
    grouped = [id(p) for group in groups for p in group["params"]]
    trainable = [id(p) for p in backbone.parameters() if p.requires_grad]
    assert sorted(grouped) == sorted(trainable)
    assert all(p.dtype == torch.float32 for p in made.model.parameters() if p.requires_grad)
    assert all(p.ndim > 1 for g in groups if g["weight_decay"] > 0 for p in g["params"])


@every_case
def test_learned_state_restores_the_trained_model(
    case: Callable[..., Case], variant: str, family: str, precision: str
) -> None:
    made = adapted(case, variant, family, precision)
    train_steps(made)
    state = {k: t.clone() for k, t in made.run.variant.learned_state(made.model.backbone).items()}
    head = {k: t.clone() for k, t in made.model.head.state_dict().items()}
    fresh = case(variant, f"train.precision={precision}", family=family)
    seed_everything(1)
    fresh.run.variant.adapt(fresh.model.backbone)
    float_masters(fresh.model)
    fresh.run.variant.load_state(fresh.model.backbone, state)
    fresh.model.head.load_state_dict(head)
    assert torch.equal(logits(fresh), logits(made))


@every_case
def test_training_moves_what_trains_and_nothing_else(
    case: Callable[..., Case], variant: str, family: str, precision: str
) -> None:
    made = adapted(case, variant, family, precision)
    backbone = made.model.backbone
    before = {name: p.detach().clone() for name, p in backbone.named_parameters()}
    train_steps(made)
    declared = set(made.run.variant.learned_state(backbone))
    moved = {
        name
        for name, p in backbone.named_parameters()
        if name not in before or not torch.equal(p.detach(), before[name])
    }
    trainable = {n for n, p in backbone.named_parameters() if p.requires_grad}
    assert moved <= declared
    assert trainable - moved <= unused(family, trainable)


def unused(family: str, names: set[str]) -> set[str]:
    """Parameters that a batch without their index, or softmax, gives no gradient."""
    return {n for n in names if "key.bias" in n or "c_attn.k.bias" in n}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_the_same_under_checkpointing(
    case: Callable[..., Case], variant: str, family: str
) -> None:
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        made = adapted(case, variant, family)
        nudge(made.model)
        if checkpointing:
            made.model.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        # Training mode, in which alone transformers recomputes, with the same dropout.
        made.model.train()
        torch.manual_seed(3)
        made.model.loss(made.batch)[0].backward()
        named = made.model.named_parameters()
        return {name: p.grad.clone() for name, p in named if p.grad is not None}

    plain, recomputed = gradients(False), gradients(True)
    assert plain.keys() == recomputed.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient)


@pytest.mark.parametrize("variant", VARIANTS)
def test_telemetry_is_numbers(case: Callable[..., Case], variant: str) -> None:
    made = adapted(case, variant, "roberta")
    train_steps(made, steps=2)
    telemetry = made.run.variant.telemetry(made.model.backbone)
    assert all(isinstance(value, float) for value in telemetry.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_frozen_and_has_a_file_of_its_name(tiny_run: Callable, variant: str) -> None:
    run = tiny_run(variant)
    assert isinstance(run.variant, Variant)
    assert run.label["variant"] == variant
    with pytest.raises(AttributeError):
        run.variant.lr = 1.0
