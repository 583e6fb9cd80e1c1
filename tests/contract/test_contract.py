"""What every variant owes, over conf/variant/*.yaml: a method is tested once its YAML exists."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from cases import FAMILIES, Trained, adapted, logits, train_steps, trained_case
from conftest import VARIANTS, Case
from passes import compute_norms_exactly

from experiments.backbones.layers import float_masters
from experiments.machine.randomness import seed_everything
from experiments.models.engine import Engine
from experiments.running.job import prepare_run
from experiments.training.probe import ProbeRun
from variants.base import (
    AdapterLayer,
    Progress,
    Variant,
    adapter_layers,
    merge,
    replace_module,
)

PRECISIONS = ["fp32", "bf16"]
TOKENS = {"few": 15, "many": 120}  # a layer may compute in another form for many

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


@torch.no_grad()
def nudge(model: nn.Module) -> None:
    """Move everything that trains away from where it was born."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)


def nudged(case: Callable[..., Case], variant: str, family: str, precision: str = "fp32") -> Case:
    """A variant in place, away from where it began."""
    made = adapted(case, variant, family, precision)
    nudge(made.model)
    return made


@pytest.fixture
def trained(case: Callable[..., Case]) -> Callable[..., Trained]:
    """`trained_case` of what is told."""
    return partial(trained_case, case)


@pytest.fixture
def moved(case: Callable[..., Case], trained: Callable[..., Trained]) -> Callable[..., Case]:
    """A case that is away from where it began: `nudged` at random, or `trained`."""

    def make(state: str, *which: str) -> Case:
        if state == "trained":
            return trained(*which).case
        return nudged(case, *which)

    return make


def tolerance(precision: str) -> dict[str, float]:
    return {"rtol": 1e-4, "atol": 1e-5} if precision == "fp32" else {"rtol": 0.05, "atol": 0.05}


@every_case
def test_an_adapted_model_starts_as_the_pretrained_one(
    case: Callable[..., Case], variant: str, family: str, precision: str
) -> None:
    pretrained = logits(case(variant, family=family, precision=precision))
    made = adapted(case, variant, family, precision)
    begun = logits(made)
    assert begun.isfinite().all()
    if made.run.variant.starts_as_pretrained:
        torch.testing.assert_close(begun, pretrained, **tolerance(precision))
    for name, layer in dict(adapter_layers(made.model.backbone)).items():
        replace_module(made.model.backbone, name, layer.base)
    if made.run.variant.starts_as_pretrained:
        torch.testing.assert_close(begun, logits(made), **tolerance(precision))
    else:  # a quantised base, or what starts beside it, is near the pretrained model
        torch.testing.assert_close(begun, pretrained, rtol=0.0, atol=0.05)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_prepared_model_starts_as_the_method_says(tiny_run: Callable, variant: str) -> None:
    job = prepare_run(run := tiny_run(variant), data := run.task.load(run.data))
    model = job.loaded.model.eval()
    trial = ProbeRun(model, run.variant, job.examples, job.plan, run.seed)
    run.variant.prepare(model.backbone, trial.probe())
    rows = np.arange(8)
    batch = job.examples.batch(rows)
    bare = prepare_run(
        replace(run, variant=tiny_run("head_only").variant), data
    ).loaded.model.eval()
    with torch.no_grad():
        found, pretrained = model.eval()(batch), bare(batch)
    if run.variant.starts_as_pretrained:
        torch.testing.assert_close(found, pretrained, **tolerance("fp32"))
    else:
        assert found.isfinite().all() and not torch.equal(found, pretrained)


@every_case
@pytest.mark.parametrize("state", ["nudged", "trained"])
def test_a_layer_is_its_merged_weight(
    moved: Callable[..., Case], variant: str, family: str, precision: str, state: str
) -> None:
    made = moved(state, variant, family, precision)
    dtype = torch.float32 if precision == "fp32" else torch.bfloat16
    for _, layer in adapter_layers(made.model.backbone):
        d_out, d_in = layer.W0.shape
        weight = layer.merged_weight()
        assert weight.shape == (d_out, d_in) and weight.dtype == torch.float32
        for tokens in TOKENS.values():
            x = torch.randn(3, tokens // 3, d_in, generator=torch.Generator().manual_seed(2))
            x = x.to(dtype)
            with torch.no_grad():
                bias = layer.merged_bias()
                bias = None if bias is None else bias.float()
                expected = F.linear(x.float(), weight, bias)
                size = max(1.0, float(expected.std()))  # by which roundings of bfloat16 grow
                torch.testing.assert_close(
                    layer(x).float() / size, expected / size, **tolerance(precision)
                )


@every_case
@pytest.mark.parametrize("state", ["nudged", "trained"])
def test_a_merged_model_has_no_adapter_and_the_same_outputs(
    moved: Callable[..., Case], variant: str, family: str, precision: str, state: str
) -> None:
    made = moved(state, variant, family, precision)
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
    case: Callable[..., Case], trained: Callable, variant: str, family: str, precision: str
) -> None:
    made = trained(variant, family, precision).case
    state = {k: t.clone() for k, t in made.run.variant.learned_state(made.model.backbone).items()}
    head = {k: t.clone() for k, t in made.model.head.state_dict().items()}
    fresh = case(variant, family=family, precision=precision)
    seed_everything(1)
    fresh.run.variant.adapt(fresh.model.backbone)
    float_masters(fresh.model)
    fresh.run.variant.load_state(fresh.model.backbone, state)
    fresh.model.head.load_state_dict(head)
    assert torch.equal(logits(fresh), logits(made))


@every_case
def test_training_moves_what_trains_and_nothing_else(
    trained: Callable[..., Trained], variant: str, family: str, precision: str
) -> None:
    ended = trained(variant, family, precision)
    made, before = ended.case, ended.before
    backbone = made.model.backbone
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


def gradients(made: Case, engine: Engine) -> dict[str, torch.Tensor]:
    """The gradients of one batch in training mode, every time with the same dropout."""
    made.model.engine = engine
    engine.prepare(made.model.backbone)
    made.model.train()
    torch.manual_seed(3)
    made.model.loss(made.batch)[0].backward()
    named = made.model.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


@pytest.mark.parametrize("engine", [Engine(recompute_mlp=True), Engine("transformers")], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_the_same_under_checkpointing(
    case: Callable[..., Case], variant: str, family: str, engine: Engine
) -> None:
    plain = gradients(nudged(case, variant, family), replace(engine, recompute_mlp=False))
    found = gradients(nudged(case, variant, family), replace(engine, checkpointing=True))
    assert plain.keys() == found.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_are_the_same_under_every_engine(
    case: Callable[..., Case], variant: str, family: str
) -> None:
    def undropped() -> Case:
        made = nudged(case, variant, family)
        made.model.double()
        compute_norms_exactly(made.model)
        for module in made.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        return made

    ours = gradients(undropped(), Engine())
    theirs = gradients(undropped(), Engine("transformers"))
    # A parameter without an effect gets no gradient here and one of zero there.
    for name in ours.keys() | theirs.keys():
        left, right = ours.get(name), theirs.get(name)
        zero = torch.zeros_like(left if left is not None else right)
        torch.testing.assert_close(
            zero if left is None else left, zero if right is None else right,
            rtol=1e-7, atol=1e-9,
        )  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_telemetry_is_numbers(case: Callable[..., Case], variant: str) -> None:
    made = adapted(case, variant, "roberta")
    train_steps(made, steps=2)
    telemetry = made.run.variant.telemetry(made.model.backbone)
    assert all(isinstance(value, float) for value in telemetry.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_lie_in_memory_as_what_they_belong_to(
    case: Callable[..., Case], variant: str
) -> None:
    made = adapted(case, variant, "roberta")
    backbone = made.model.backbone
    made.model.train()
    for step in (1, 2):  # in the first one some gradients are zero
        made.model.loss(made.batch)[0].backward()
        made.run.variant.after_backward(backbone, Progress(step, 2))
        for name, p in backbone.named_parameters():  # fused optimisers read one as the other
            assert p.grad is None or p.grad.stride() == p.stride(), name
        nudge(backbone)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_is_frozen_and_has_a_file_of_its_name(tiny_run: Callable, variant: str) -> None:
    run = tiny_run(variant)
    assert isinstance(run.variant, Variant)
    assert run.label["variant"] == variant
    with pytest.raises(AttributeError):
        run.variant.lr = 1.0


def flows(
    layer: AdapterLayer, function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
) -> dict[str, torch.Tensor]:
    """The output, and every gradient for one fixed gradient of the output."""
    trained = {n: p for n, p in layer.named_parameters() if p.requires_grad}
    inputs = trained | ({"x": x} if x.requires_grad else {})
    y = function(x)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
    found = torch.autograd.grad(y, list(inputs.values()), dy)
    return {"y": y.detach(), **dict(zip(inputs, found, strict=True))}


@pytest.mark.parametrize("state", ["nudged", "trained"])
@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_output_and_gradients_are_those_of_the_merged_weight(
    moved: Callable[..., Case], variant: str, dtype: torch.dtype, tokens: str, state: str
) -> None:
    made = moved(state, variant, "roberta", "fp32")
    made.model.to(dtype).train()
    for _, layer in adapter_layers(made.model.backbone):
        if layer.dropping():
            continue
        shape = (3, TOKENS[tokens] // 3, layer.W0.shape[1])
        x = torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)
        for with_x in (True, False):
            x.requires_grad_(with_x)
            found = flows(layer, layer, x)
            plain = lambda x: F.linear(x, layer.merged_weight().to(dtype), layer.merged_bias())  # noqa: B023, E731
            for name, expected in flows(layer, plain, x).items():
                error = (found[name] - expected).norm() / expected.norm()
                assert error < (1e-5 if dtype == torch.float32 else 1e-12), (name, float(error))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layer_is_its_merged_weight_to_the_last_digits_of_float64(
    case: Callable[..., Case], variant: str
) -> None:
    made = nudged(case, variant, "roberta")
    made.model.double()
    for _, layer in adapter_layers(made.model.backbone):
        x = torch.randn(3, layer.W0.shape[1], generator=torch.Generator().manual_seed(2)).double()
        expected = F.linear(x, layer.merged_weight().double(), layer.merged_bias())
        torch.testing.assert_close(layer(x), expected, rtol=1e-11, atol=1e-12)
