"""Every method keeps its promises, and one that does not is told which and how to mend it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from conftest import ROOT, VARIANTS
from promised import find_broken
from torch import Tensor

from variants.base import AdapterLayer, Progress, Variant, adapter_layers, decay_groups
from variants.layerwise import Layerwise
from variants.promises import PROMISES, TAKEN, BrokenPromise, check, list_promises

SCALE = 3.0


@pytest.mark.parametrize("name", VARIANTS)
def test_a_method_keeps_its_promises(name: str) -> None:
    sentence = find_broken(name)
    if sentence is not None:
        pytest.fail(sentence, pytrace=False)


# --- Throw-away methods, each with one plausible mistake ---------------------------------------


class ToyLayer(AdapterLayer):
    """W0 + 3 B A, right."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        d_out, d_in = self.W0.shape
        self.A = nn.Parameter(torch.randn(4, d_in) / d_in**0.5)
        self.B = nn.Parameter(torch.zeros(d_out, 4))

    def merged_weight(self) -> Tensor:
        return self.W0 + SCALE * self.B @ self.A

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return y + SCALE * F.linear(F.linear(x, self.A), self.B)


@dataclass(frozen=True, kw_only=True)
class Toy(Layerwise):
    """A method with this layer."""

    layer: ClassVar[type[AdapterLayer]] = ToyLayer

    def wrap(self, linear: nn.Module) -> nn.Module:
        return self.layer(linear)


def toy(layer: type[AdapterLayer] = ToyLayer, **members: Any) -> Variant:
    """A method with another layer, or other members of its class."""
    cls: Any = type("Mine", (Toy,), {"layer": layer, **members})
    return cls(lr=1e-3, targets=["0", "2"])


def judge(variant: Variant) -> str:
    """What is said of a method on a small model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Linear(5, 2))
    with pytest.raises(BrokenPromise) as broken:
        check(variant, model, torch.randn(7, 6))
    sentence = str(broken.value)
    assert sentence.startswith("Mine breaks the promise '") and "\n" not in sentence
    return sentence


def test_a_sound_method_breaks_none() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Linear(5, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check(toy(), model, torch.randn(7, 6))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def replace_without_freezing(self: Toy, model: nn.Module) -> None:
    for name in self.targets:
        model.set_submodule(name, self.layer(model.get_submodule(name)))


class NoScale(ToyLayer):
    def merged_weight(self) -> Tensor:
        return self.W0 + self.B @ self.A


class Transposed(ToyLayer):
    def merged_weight(self) -> Tensor:
        return (self.W0 + SCALE * self.B @ self.A).T


class Dropping(ToyLayer):
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return super().update(F.dropout(x, 0.5), y)


class Elsewhere(ToyLayer):
    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        nn.init.normal_(self.B)


class Unregistered(ToyLayer):
    """Its frozen projection is drawn at random and kept nowhere."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        del self.A
        self.A = torch.randn(4, self.W0.shape[1])  # pyright: ignore[reportAttributeAccessIssue]


class Detached(ToyLayer):
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return y + SCALE * F.linear(F.linear(x, self.A.detach()), self.B)


class Biased(ToyLayer):
    """Its own bias is in the output alone."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.shift = nn.Parameter(torch.zeros(self.W0.shape[0]))

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return super().update(x, y) + self.shift


class Unread(ToyLayer):
    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.gate = nn.Parameter(torch.ones(4, 4))


class Unmerged(ToyLayer):
    def merge(self) -> nn.Module:
        return self.base


class Fixed(ToyLayer):
    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.requires_grad_(False)


class Mismatched(ToyLayer):
    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return y + F.linear(F.linear(x, self.B), self.A)


class Growing(ToyLayer):
    """Its scale changes while it trains, as an attribute."""

    scale = 1.0

    def merged_weight(self) -> Tensor:
        return self.W0 + self.scale * self.B @ self.A

    def update(self, x: Tensor, y: Tensor) -> Tensor:
        return y + self.scale * F.linear(F.linear(x, self.A), self.B)


def grow(self: Variant, model: nn.Module, progress: Progress) -> None:
    for _, layer in adapter_layers(model):
        layer.scale = 1.0 + progress.step  # pyright: ignore[reportAttributeAccessIssue]


def write_to_base(self: Variant, model: nn.Module, progress: Progress) -> None:
    for _, layer in adapter_layers(model):
        layer.W0.data += 0.1


def leave_out(self: Variant, model: nn.Module, lr: float, weight_decay: float) -> list[Any]:
    matrices = [layer.A for _, layer in adapter_layers(model)]
    return [{"params": matrices, "lr": lr, "weight_decay": weight_decay}]


def decay_all(self: Variant, model: nn.Module, lr: float, weight_decay: float) -> list[Any]:
    groups = decay_groups(model, lr, weight_decay)
    return [group | {"weight_decay": weight_decay} for group in groups]


class Vector(AdapterLayer):
    """l * W0, right."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.l = nn.Parameter(torch.ones(self.W0.shape[0]))

    def merged_weight(self) -> Tensor:
        return self.l[:, None] * self.W0


MISTAKES: dict[str, tuple[Callable[[], Variant], str, str]] = {
    "the base is left trainable": (
        lambda: toy(adapt=replace_without_freezing), "frozen base",
        "12 of the 120 parameters that train are the model's own, 3.weight first. "
        "Call model.requires_grad_(False)",
    ),
    "the class is no dataclass": (
        lambda: toy(__annotations__={"rank": int}, rank=4), "settings",
        "rank is none. Put @dataclass",
    ),
    "nothing trains": (lambda: toy(Fixed), "trainable", "nothing trains in 2 layers, 0 first"),
    "the start is elsewhere": (lambda: toy(Elsewhere), "start", "its outputs differ by"),
    "dropout in evaluation": (lambda: toy(Dropping), "evaluation", "two calls of 0"),
    "the weight is transposed": (
        lambda: toy(Transposed), "weight", "that of 0 has the shape (6, 8), not (8, 6)",
    ),
    "the scale is forgotten in merged_weight": (
        lambda: toy(NoScale), "forward", "its change is 3 times that of merged_weight",
    ),
    "a bias that merged_bias does not name": (
        lambda: toy(Biased), "forward", "the output of 0 for 3 tokens differ by",
    ),
    "a gradient is cut": (lambda: toy(Detached), "gradient", "A has a gradient in only one"),
    "the merged layer is the base": (lambda: toy(Unmerged), "merging", "outputs of the merged"),
    "a factor is in no group": (
        lambda: toy(param_groups=leave_out), "optimizer groups", "0.B is in none of them",
    ),
    "a vector is decayed": (
        lambda: toy(Vector, param_groups=decay_all), "optimizer groups", "0.l is a vector",
    ),
    "a parameter that nothing reads": (
        lambda: toy(Unread), "training", "0.gate trains and did not move in 6 steps",
    ),
    "W0 is written to": (
        lambda: toy(after_step=write_to_base), "training", "0.base.weight moves, and neither",
    ),
    "a random projection that is not registered": (
        lambda: toy(Unregistered), "saving", "the outputs of the restored model differ by",
    ),
    "a scale that is kept as an attribute": (
        lambda: toy(Growing, after_step=grow), "saving", "a registered buffer of the layer",
    ),
    "telemetry under a name that is taken": (
        lambda: toy(telemetry=lambda self, model: {"loss": 1.0}), "telemetry", "'loss' is a name",
    ),
    "telemetry that is no number": (
        lambda: toy(telemetry=lambda self, model: {"rank": 3}), "telemetry", "'rank' is a int",
    ),
    "factors in the wrong order": (lambda: toy(Mismatched), "start", "torch says: mat1 and mat2"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence_that_names_the_promise(mistake: str) -> None:
    make, promise, said = MISTAKES[mistake]
    sentence = judge(make())
    assert sentence.startswith(f"Mine breaks the promise '{promise}'"), sentence
    assert said in sentence


def test_every_promise_has_a_method_that_breaks_it() -> None:
    assert {promise for _, promise, _ in MISTAKES.values()} == {p.name for p in PROMISES}


def test_the_page_on_methods_lists_the_promises() -> None:
    page = (ROOT / "docs/methods.md").read_text(encoding="utf-8")
    assert "\n".join(list_promises()) in page


def test_the_names_that_a_history_has_are_taken(tiny_run: Callable, tmp_path: Any) -> None:
    from experiments.running.runner import execute

    result = execute(tiny_run("head_only", "train.epochs=0.2"), tmp_path)
    own = {name for name in result.history if not name.startswith("train_")}
    assert own <= set(TAKEN) and "starts_as_pretrained" in result.telemetry
