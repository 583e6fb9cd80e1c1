"""Plain modules of torch for tests of methods, and every method on them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn as nn
from torch import Tensor

from variants.base import AdapterLayer, Progress, Variant, adapter_layers, serve_groups
from variants.defaults import list_methods, make_method, read_defaults
from variants.forms import find_form

METHODS = list_methods()
# Settings that fit layers of 16 to 32 inputs; a rank of 3 where a method has one and no other here.
SMALL: dict[str, dict[str, Any]] = {
    "adalora": {"rank": 3, "target_rank": 2, "interval": 1, "warmup": 0.0},
    "delta_lora": {"start": 0.0},
    "last_k": {"k": 1},
    "lora_plus": {"ratio": 2.0},
    "qa_lora": {"group": 8},
    "qlora": {"block": 16},
    "vera": {"rank": 4},
    "abba": {"rank1": 2, "rank2": 2},
    "boft": {"block": 4, "factors": 2},
    "fourierft": {"n": 12, "begin": "zero"},
    "gralora": {"rank": 4, "k": 2},
    "hra": {"rank": 4},
    "ia3": {"targets": ["all-linear"], "feedforward": []},
    "lokr": {"rank": 2},
    "lora_ga": {"rank": 1, "rows": 4, "head_steps": 1},
    "lora_one": {"rows": 4, "head_steps": 1},
    "loftq": {"block": 16, "iterations": 2},
    "oft": {"block": 4},
    "qdora": {"block": 16},
    "vb_lora": {"rank": 2, "vectors": 6, "length": 4},
    "waveft": {"n": 12},
}
FEW, MANY = 3, 200  # tokens on both sides of the switch to the merged product


def settings_of(name: str) -> set[str]:
    """The names of a method's settings."""
    return set(read_defaults(name)[1])


def small(name: str) -> dict[str, Any]:
    """Settings for small layers."""
    return ({"rank": 3} if "rank" in settings_of(name) else {}) | SMALL.get(name, {})


def method(name: str, targets: Any = None, **settings: Any) -> Variant:
    """A method with settings for small layers; `targets` where it has any."""
    if targets is not None and has_targets(name):
        settings["targets"] = [targets] if isinstance(targets, str) else list(targets)
    return make_method(name, **{**small(name), **settings})


def has_targets(name: str) -> bool:
    """Whether a method adapts layers that are named."""
    return "targets" in settings_of(name)


ADAPTERS = [name for name in METHODS if has_targets(name)]
DROPPING = [
    n for n in ADAPTERS if "dropout" in settings_of(n) and n not in ("delta_lora", "dylora")
]
OWN = [name for name in METHODS if name not in (*ADAPTERS, "head_only")]  # train the model's own


def in_turn(first: list[str], second: list[str]) -> list[tuple[str, str]]:
    """Pairs in which every method comes first once, and every method second."""
    count = max(len(first), len(second))
    return [(first[i % len(first)], second[(i + 1) % len(second)]) for i in range(count)]


def replaces_base(name: str) -> bool:
    """Whether a method keeps codes of a weight in its place."""
    model = nn.Sequential(nn.Linear(32, 32))
    method(name, "0").adapt(model)
    return find_form(only_layer(model).base) is None


def looks_at_data(name: str) -> bool:
    """Whether a method prepares, which a loop with its hooks alone does not call."""
    return type(method(name)).prepare is not Variant.prepare


def slow_down(optimizer: torch.optim.Optimizer) -> None:
    """Let what has a rule of its own go no further than what AdamW moves."""
    for group in optimizer.param_groups:
        if group.get("plain"):
            group["lr"] = 0.002


def steps(model: nn.Module, variant: Variant, batch: Callable[[], Tensor], count: int = 4) -> None:
    """Train for a few steps with every hook but `prepare`."""
    optimizer = torch.optim.AdamW(variant.param_groups(model, 0.05, 0.0))
    serve_groups(optimizer)
    slow_down(optimizer)
    model.train()
    for step in range(1, count + 1):
        loss = model(batch()).float().square().mean() + variant.penalty(model)
        loss.backward()
        variant.after_backward(model, Progress(step, count))
        optimizer.step()
        variant.after_step(model, Progress(step, count))
        optimizer.zero_grad()
    model.eval()


@torch.no_grad()
def nudge(model: nn.Module) -> None:
    """Move everything that trains away from where it was born."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator).to(parameter)


def start_within(name: str, otherwise: dict[str, float], near: float) -> dict[str, float]:
    """How near to the pretrained model a method starts, where it does not start as that."""
    return otherwise if method(name).starts_as_pretrained else {"rtol": 0.0, "atol": near}


def moved_bias(layer: AdapterLayer) -> Tensor | None:
    """The change of the bias; None where it stays."""
    bias, b0 = layer.merged_bias(), layer.b0
    return None if bias is None or b0 is None or bias is b0 else bias - b0


def only_layer(model: nn.Module) -> AdapterLayer:
    """The one adapter layer of a model."""
    (layer,) = (layer for _, layer in adapter_layers(model))
    return layer


QUANTISED = [name for name in ADAPTERS if replaces_base(name)]
