"""Hooks that nobody calls are missed, and a loop of one's own calls them all."""

import warnings
from copy import deepcopy

import pytest
import torch
import torch.nn as nn
from modules import METHODS, looks_at_data, method, nudge, steps
from torch import Tensor

from variants.base import Probe, Progress, Variant, adapter_layers
from variants.hook_watch import WATCHED

D = 16
MISSED = {
    "adalora": "penalty, after_step",
    "delta_lora": "after_step",
    "lora_drop": "prepare",
    "lora_fa": "after_backward",
    "lora_plus": "param_groups",
    "corda": "prepare",
    "delora": "param_groups",
    "dylora": "after_step",
    "eva": "prepare",
    "lora_ga": "prepare",
    "lora_one": "prepare",
    "lora_pro": "param_groups, after_backward",
    "lora_rite": "param_groups, after_backward",
    "riemannian": "param_groups, after_backward",
    "sora": "after_step",
    "vb_lora": "param_groups",
}


def model_of(name: str, **settings: object) -> tuple[nn.Module, Variant]:
    model = nn.Sequential(nn.Linear(D, D), nn.Linear(D, D))
    variant = method(name, ["0", "1"], **settings)
    variant.adapt(model)
    return model, variant


def plain_loop(model: nn.Module, count: int) -> list[str]:
    """Train without any hook, as one does; returns what was warned of."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(count):
            model(torch.randn(4, D)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    return [str(w.message) for w in caught if "hooks" in str(w.message)]


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("last_k", "head_only")])
def test_a_loop_that_calls_no_hook_is_warned_once_at_its_second_step(name: str) -> None:
    model, variant = model_of(name)
    assert plain_loop(model, 1) == []
    said = plain_loop(model, 4)
    if name not in MISSED:
        assert said == []
        return
    (text,) = said
    assert text.startswith(f"{type(variant).__name__} has hooks that this training does not call:")
    assert f" {MISSED[name]}. " in text


@pytest.mark.parametrize("name", MISSED)
def test_nobody_is_warned_who_calls_them(name: str) -> None:
    model, variant = model_of(name)
    if looks_at_data(name):
        nudge(model)
        layers = dict(adapter_layers(model))
        probe = Probe(
            fit=lambda share, count: None,
            batches=lambda share: [{"input": torch.randn(3, D)}],
            gradients=lambda rows, count: {n: torch.randn(D, D) for n in layers},
        )
        variant.prepare(model, probe)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps(model, variant, lambda: torch.randn(4, D))
    assert not [w for w in WATCHED if w.variant is variant]


def test_a_hook_of_another_model_is_not_taken_for_this_ones() -> None:
    variant = method("delta_lora", ["0", "1"])
    models = [nn.Sequential(nn.Linear(D, D), nn.Linear(D, D)) for _ in range(2)]
    for model in models:
        variant.adapt(model)
    variant.after_step(models[0], Progress(1, 5))
    assert plain_loop(models[0], 3) == []
    assert len(plain_loop(models[1], 3)) == 1


def test_a_hook_may_be_called_with_the_model_around_the_adapted_one() -> None:
    inner = nn.Sequential(nn.Linear(D, D), nn.Linear(D, D))
    outer = nn.Sequential(inner, nn.Linear(D, 2))
    variant = method("delta_lora", ["0", "1"])
    variant.adapt(inner)
    variant.after_step(outer, Progress(1, 5))
    assert plain_loop(outer, 3) == []


def test_what_was_prepared_elsewhere_need_not_be_prepared_again() -> None:
    model, variant = model_of("lora_drop")
    state = {n: t.clone() for n, t in variant.learned_state(model).items()}
    again, variant = model_of("lora_drop")
    variant.load_state(again, state)
    assert plain_loop(again, 3) == []


def test_hooks_that_do_nothing_are_not_missed() -> None:
    assert plain_loop(model_of("lora_fa", corrected=False)[0], 3) == []


def test_a_method_of_ones_own_is_watched_too_and_a_copy_or_a_dead_model_is_not() -> None:
    class Shrinking(type(method("lora", "0"))):
        def after_step(self, model: nn.Module, progress: Progress) -> None:
            pass

        def penalty(self, model: nn.Module) -> Tensor | float:
            return 0.0

    settings = vars(method("lora", ["0", "1"]))
    model = nn.Sequential(nn.Linear(D, D), nn.Linear(D, D))
    Shrinking(**settings).adapt(model)
    assert plain_loop(deepcopy(model), 3) == []
    assert (
        "Shrinking has hooks that this training does not call: penalty, after_step."
        in (plain_loop(model, 3)[0])
    )
    Shrinking(**settings).adapt(nn.Sequential(nn.Linear(D, D), nn.Linear(D, D)))
    Shrinking(**settings).adapt(model := nn.Sequential(nn.Linear(D, D), nn.Linear(D, D)))
    assert sum(isinstance(w.variant, Shrinking) for w in WATCHED) == 1
