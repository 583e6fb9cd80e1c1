"""Every setting of every method has a witness: changed alone, it changes what comes of a run."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from conftest import ROOT, VARIANTS
from omegaconf import OmegaConf
from torch import Tensor
from torch.testing import assert_close

from experiments.machine.randomness import seed_everything
from experiments.running.job import prepare_run
from experiments.settings.config import Run
from experiments.training.loop import TrainingListener, fit
from experiments.training.probe import ProbeRun
from variants.base import Variant, adapter_layers
from variants.lora import LoRA

pytestmark = pytest.mark.thorough

# Other values where no rule finds one; the rules below serve numbers, flags and targets.
OTHER = {
    "backend": "bitsandbytes",
    "zero": "A",
    "blocks": "encoder.layer",
    "unit": "block",
    "shared_per": "name",
    "threshold": 1.0,
    "lokr.zero": "W2",
    "begin": "normal",
    "form": "sharing",
    "mode": "kpm",
    "direction": "A2rBr",
    "mask": "magnitude",
}
# Values with which four layers and eight steps are enough for each of the other settings to tell.
START = {
    "adalora": {"interval": 2, "warmup": 0.25},
    "lora_drop": {"steps": 2, "share": 0.2, "threshold": 0.25, "reset": False},
    "vera": {"rank": 16},
    "lokr": {"rank": 1},
    "eva": {"targets": ["query", "dense"]},
    "vb_lora": {"length": 15},
    "lora_ga": {"head_steps": 2, "rows": 8},
    "lora_one": {"head_steps": 2, "rows": 8},
}
# Settings that choose how something is computed and must not change what.
SAME = {
    ("qlora", "backend"), ("qdora", "backend"), ("loftq", "backend"), ("last_k", "blocks"),
}  # fmt: skip


def names(variant: str) -> list[str]:
    """The settings that a variant's YAML gives."""
    yaml = OmegaConf.load(ROOT / "conf" / "variant" / f"{variant}.yaml")
    return [str(name) for name in yaml if name != "_target_"]


SETTINGS = [(variant, name) for variant in VARIANTS for name in names(variant)]


def others(run: Run, name: str, value: Any) -> list[Any]:
    """Other values for a setting, by its type; the first that the method takes is tried."""
    own = f"{run.label['variant']}.{name}"
    if own in OTHER or name in OTHER:
        return [OTHER[own if own in OTHER else name]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, list):
        return [group for group in run.model.linears.values() if group != value]
    if isinstance(value, int):
        candidates: list[Any] = [value + 1, value // 2, value * 2]
    else:
        assert isinstance(value, float), f"OTHER needs a value for '{name}'."
        candidates = [value / 2, value * 2, value + 0.1]
    return [candidate for candidate in candidates if candidate != value]


class Losses(TrainingListener):
    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def after(self, step: int, loss: Tensor, norm: Tensor) -> None:
        self.values.append(loss)


def outcome(run: Run) -> dict[str, Tensor]:
    """What comes of a short run: losses, what was learned, the books of the layers, telemetry."""
    job = prepare_run(run, run.task.load(run.data))
    backbone = job.loaded.model.backbone
    run.variant.prepare(
        backbone, ProbeRun(job.loaded.model, run.variant, job.examples, job.plan, run.seed).probe()
    )
    seed_everything(1)
    listener = Losses()
    fit(job.loaded.model, run.variant, job.batches, job.plan, listener)
    found = {"losses": torch.stack(listener.values)}
    found |= {f"learned {name}": t for name, t in run.variant.learned_state(backbone).items()}
    for place, layer in adapter_layers(backbone):
        found |= {f"buffer {place}.{name}": t for name, t in layer.named_buffers()}
    for name, value in run.variant.telemetry(backbone).items():
        found[f"telemetry {name}"] = torch.tensor(value)
    assert found["losses"].isfinite().all()
    return found


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def with_other(run: Run, name: str) -> tuple[Any, dict[str, Tensor] | None]:
    """Another value of the setting, and its outcome unless the method says why it takes none."""
    value = getattr(run.variant, name)
    for candidate in others(run, name, value):
        try:
            changed = replace(run.variant, **{name: candidate})
            return candidate, outcome(replace(run, variant=changed))
        except ValueError as error:
            refused = (candidate, str(error))
    candidate, reason = refused
    assert name in reason, f"{name}={candidate} is refused for another reason: {reason}"
    return candidate, None


def check_witness(run: Run, before: dict[str, Tensor], name: str) -> None:
    """Fail unless the setting, changed alone, changes the outcome."""
    value, after = with_other(run, name)
    assert after is None or not equal(before, after), f"{name}={value} changes nothing."


@pytest.fixture(scope="module")
def short(tiny_run: Callable[..., Run]) -> Callable[[str], tuple[Run, dict[str, Tensor]]]:
    """A short run of a variant and what comes of it, computed once."""
    known: dict[str, tuple[Run, dict[str, Tensor]]] = {}

    def make(variant: str) -> tuple[Run, dict[str, Tensor]]:
        if variant not in known:
            run = tiny_run(variant)
            train = replace(run.train, epochs=1.0, batch_size=8, max_length=16)
            method = replace(run.variant, **START.get(variant, {}))
            run = replace(run, train=train, variant=method)
            known[variant] = run, outcome(run)
        return known[variant]

    return make


@pytest.mark.parametrize(("variant", "name"), SETTINGS)
def test_every_setting_has_a_witness(short: Callable, variant: str, name: str) -> None:
    run, before = short(variant)
    if (variant, name) in SAME:
        _, after = with_other(run, name)
        assert_close(after, before, rtol=1e-4, atol=1e-5)
    else:
        check_witness(run, before, name)


@pytest.mark.parametrize("variant", ["lora", "lora_drop"])  # without and with a probe
def test_a_run_without_a_change_has_the_same_outcome(short: Callable, variant: str) -> None:
    run, before = short(variant)
    assert equal(before, outcome(run)), "chance would pass for the effect of a setting"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_yaml_gives_every_setting_of_its_method(tiny_run: Callable, variant: str) -> None:
    assert {f.name for f in fields(tiny_run(variant).variant)} == set(names(variant))


@dataclass(frozen=True, kw_only=True)
class Idle(LoRA):
    """A method with a flag and a number that nobody reads."""

    flag: bool = False
    number: float = 1.0


@pytest.mark.parametrize("name", ["flag", "number"])
def test_a_setting_that_does_nothing_is_found(short: Callable, name: str) -> None:
    run, before = short("lora")
    idle = Idle(**{f.name: getattr(run.variant, f.name) for f in fields(run.variant)})
    with pytest.raises(AssertionError, match=f"{name}=.* changes nothing"):
        check_witness(replace(run, variant=idle), before, name)


@dataclass(frozen=True, kw_only=True)
class Refusing(LoRA):
    """A method that refuses a value without saying which."""

    number: float = 1.0

    def __post_init__(self) -> None:
        if self.number != 1.0:
            raise ValueError("something is wrong.")


def test_a_refusal_that_does_not_name_the_setting_is_found(short: Callable) -> None:
    run, before = short("lora")
    made: Variant = Refusing(**{f.name: getattr(run.variant, f.name) for f in fields(run.variant)})
    with pytest.raises(AssertionError, match="for another reason"):
        check_witness(replace(run, variant=made), before, "number")
