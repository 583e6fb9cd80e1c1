"""Modules that are not ours, and what every method owes on each: to be right, or to refuse in a
sentence. `python tests/helpers/odd_modules.py` prints the table."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field

import torch
import torch.nn as nn
import torch.nn.functional as F
from modules import METHODS, has_targets, method, nudge, steps
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers.pytorch_utils import Conv1D

from variants import adapt, disable, learned_state, load_learned_state, merge
from variants.base import Variant
from variants.state import collect_buffers

D = 16
FEW, MANY = 2, 120


def linear() -> nn.Module:
    return nn.Linear(D, D)


class Scaled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * super().forward(x)


class Router(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = super().forward(x)
        return y, y.softmax(dim=-1)


class Codes(nn.Linear):
    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.weight = nn.Parameter((self.weight * 100).to(torch.int8), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight / 100, self.bias)


class First(nn.Module):
    """The first output of what gives several."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)[0]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(D, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(1, -1, D)
        return self.attention(x, x, x)[0].view(-1, D)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(D, 2, 24, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(1, -1, D)).view(-1, D)


class Twice(nn.Module):
    """A layer with two parents."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(D, D)
        self.one = nn.ModuleDict({"proj": layer})
        self.two = nn.ModuleDict({"proj": layer})

    def forward(self, x: Tensor) -> Tensor:
        return self.two["proj"](torch.tanh(self.one["proj"](x)))


class Tied(nn.Module):
    """A weight that another layer reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.back = nn.Linear(D, D), nn.Linear(D, D)
        self.back.weight = self.proj.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.back(torch.tanh(self.proj(x)))


class Experts(nn.Module):
    """Experts in one parameter, and a shared one whose layers have the same names."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(4, D, D) / 4)
        self.shared = nn.ModuleDict({"down": nn.Linear(D, D)})

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nd,edf->nf", x, self.down) + self.shared["down"](x)


class Reading(nn.Module):
    """A caller that reads a weight, as T5 its dtype and Mamba its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        assert self.proj.in_features == self.proj.out_features == D
        return F.linear(x.to(self.proj.weight.dtype), self.proj.weight, self.proj.bias)


class Recomputed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(D, D)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.proj, x, use_reentrant=False)


class Images(nn.Module):
    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.view(-1, 4, 2, 2)).flatten(1)


class Words(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, D)

    def forward(self, x: Tensor) -> Tensor:
        return self.embed((x[:, :3] * 10).long().clamp(0, 19)).flatten(1)


def first(change: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    """A chain whose first linear layer is changed."""

    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, D))
        changed = change(model[0])
        if isinstance(changed, nn.Module):
            model[0] = changed
        return model

    return build


def patched(layer: nn.Module) -> None:
    own = layer.forward
    layer.forward = lambda x: own(x) * 3


def zero_row(layer: nn.Module) -> None:
    nn.init.zeros_(layer.weight[1])


def turned(layer: nn.Module) -> None:
    layer.weight = nn.Parameter(layer.weight.detach().T.contiguous().T)


def in_inference(layer: nn.Module) -> None:
    with torch.inference_mode():
        layer.weight = nn.Parameter(layer.weight.clone(), requires_grad=False)


def in_place() -> nn.Module:
    """With more than two dimensions, so that a view comes out of each layer."""
    return nn.Sequential(
        nn.Unflatten(0, (2, -1)), nn.Linear(D, D), nn.ReLU(inplace=True), nn.Linear(D, D),
        nn.Flatten(0, 1),
    )  # fmt: skip


@dataclass(frozen=True)
class Odd:
    """A module, and what it is to be adapted at."""

    build: Callable[[], nn.Module]
    target: str = "0"
    dtype: torch.dtype = torch.float32
    after: torch.dtype | None = None  # the dtype it is converted to when it is adapted
    autocast: bool = False
    device: str = "cpu"
    warns: bool = False
    extra: dict[str, object] = field(default_factory=dict)


ODD: dict[str, Odd] = {
    "linear": Odd(first(lambda layer: None)),
    "one output": Odd(lambda: nn.Sequential(nn.Linear(D, 1, bias=False))),
    "subclass": Odd(first(lambda layer: Scaled(D, D))),
    "hook": Odd(first(lambda layer: layer.register_forward_hook(lambda m, x, y: 3 * y))),
    "hook before": Odd(first(lambda layer: layer.register_forward_pre_hook(lambda m, x: x[0] + 1))),
    "own forward": Odd(first(patched)),
    "weight norm": Odd(first(nn.utils.parametrizations.weight_norm)),
    "spectral norm": Odd(first(nn.utils.parametrizations.spectral_norm)),
    "router": Odd(lambda: First(Router(D, D)), "inner"),
    "codes": Odd(first(lambda layer: Codes(D, D))),
    "no shape": Odd(lambda: nn.Sequential(nn.LazyLinear(D))),
    "zero row": Odd(first(zero_row)),
    "turned weight": Odd(first(turned)),
    "inference": Odd(first(in_inference)),
    "conv": Odd(lambda: Images(nn.Conv2d(4, 8, 2, padding=1)), "conv"),
    "conv, groups": Odd(lambda: Images(nn.Conv2d(4, 8, 2, groups=2)), "conv"),
    "embedding": Odd(Words, "embed"),
    "Conv1D": Odd(lambda: nn.Sequential(Conv1D(D, D))),
    "two parents": Odd(Twice, "two.proj"),
    "tied": Odd(Tied, "proj"),
    "reads weight": Odd(Reading, "proj"),
    "attention": Odd(Attention, "out_proj"),
    "encoder layer": Odd(Encoder, "all-linear", warns=True),
    "in place": Odd(in_place, "1"),
    "recomputed": Odd(Recomputed, "proj"),
    "experts": Odd(Experts, "down", warns=True),
    "batch norm": Odd(lambda: nn.Sequential(nn.Linear(D, D), nn.BatchNorm1d(D))),
    "float64": Odd(first(lambda layer: None), dtype=torch.float64),
    "bfloat16": Odd(first(lambda layer: None), dtype=torch.bfloat16),
    "bfloat16 after": Odd(first(lambda layer: None), after=torch.bfloat16),
    "autocast": Odd(first(lambda layer: None), autocast=True),
    "meta": Odd(first(lambda layer: None), device="meta"),
}


def tokens(count: int, odd: Odd) -> Tensor:
    """Inputs, the first ones the same whatever the count."""
    x = torch.randn(MANY, D, generator=torch.Generator().manual_seed(1))[:count]
    return x.to(device=odd.device, dtype=odd.after or odd.dtype)


@dataclass
class Cell:
    """A method on a module: what it did, or the sentence in which it refused."""

    refused: str | None = None
    unmerged: str | None = None


def try_out(name: str, odd: Odd) -> Cell:
    """Adapt, train, merge, save and restore; AssertionError for whatever is wrong in silence."""
    torch.manual_seed(0)
    model = odd.build().to(odd.device, odd.dtype).eval()
    variant = method(name, odd.target)
    bare, cell = deepcopy(model), Cell()
    if name == "last_k":
        return cell
    try:
        adapt(model, variant)
        if odd.after is not None:
            model.to(odd.after)
            bare.to(odd.after)
        compare_start(model, bare, odd, variant)
        if odd.device == "cpu":
            train_and_restore(model, variant, bare, odd)
    except ValueError as error:
        cell.refused = sentence(error)
        return cell
    if odd.device == "cpu":
        try:
            check_merge(model, odd)
        except ValueError as error:
            cell.unmerged = sentence(error)
    return cell


def sentence(error: ValueError) -> str:
    """Return the text of a refusal, and assert that it is one sentence."""
    text = str(error)
    assert text.endswith(".") and "\n" not in text and len(text) < 300, text
    assert error.__cause__ is None
    return text


def run(model: nn.Module, x: Tensor, odd: Odd) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16, enabled=odd.autocast):
        return model(x)


def tolerance(odd: Odd) -> dict[str, float]:
    small = odd.autocast or torch.bfloat16 in (odd.dtype, odd.after)
    return {"rtol": 0.05, "atol": 0.05} if small else {"rtol": 1e-4, "atol": 1e-5}


def close(found: Tensor, expected: Tensor, rtol: float, atol: float) -> None:
    """Equal but for rounding, of large numbers by as much more."""
    largest = 1.0 if expected.is_meta else max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(found.float(), expected.float(), rtol=rtol, atol=atol * largest)


@torch.no_grad()
def compare_start(model: nn.Module, bare: nn.Module, odd: Odd, variant: Variant) -> None:
    """The adapted model starts as the pretrained one, or near it, for few tokens and for many."""
    within = tolerance(odd) if variant.starts_as_pretrained else {"rtol": 0.0, "atol": 1.0}
    for count in (FEW, MANY):
        x = tokens(count, odd)
        close(run(model, x, odd), run(bare, x, odd), **within)


def train_and_restore(model: nn.Module, variant: Variant, bare: nn.Module, odd: Odd) -> None:
    """Assert that training moves what trains, few tokens agree with many, and a state restores."""
    before = {n: t.clone() for n, t in learned_state(model).items()}
    for count in (FEW, MANY):
        if any(p.requires_grad for p in model.parameters()):
            x = tokens(count, odd)
            steps(Running(model, odd), variant, lambda x=x: x, 2)  # type: ignore[misc]
    state = learned_state(model)
    assert all(t.isfinite().all() for n, t in state.items() if "importance" not in n)
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    moved = {n for n in state if n in before and not torch.equal(before[n], state[n])}
    assert not trained or moved & trained
    nudge(model)
    with torch.no_grad():
        many = run(model, tokens(MANY, odd), odd)
        # A norm over a batch, and attention, see other tokens in a larger one.
        if not any(isinstance(m, nn.MultiheadAttention) for m in model.modules()):
            close(run(model, tokens(FEW, odd), odd), many[:FEW], **tolerance(odd))
        close(run(deepcopy(model), tokens(MANY, odd), odd), many, **tolerance(odd))
    again = deepcopy(bare)
    if odd.after is not None:
        again.to(odd.dtype)
    torch.manual_seed(9)
    adapt(again, variant)
    load_learned_state(again, {n: t.clone() for n, t in learned_state(model).items()})
    if odd.after is not None:
        again.to(odd.after)
    with torch.no_grad():
        close(run(again, tokens(MANY, odd), odd), many, **tolerance(odd))
        if has_targets(method_name(variant)) and not collect_buffers(again):
            with disable(again):
                compare_start(again, bare, odd, variant)


def method_name(variant: Variant) -> str:
    return type(variant).__module__.rpartition(".")[2]


class Running(nn.Module):
    """A model as it is run here."""

    def __init__(self, model: nn.Module, odd: Odd) -> None:
        super().__init__()
        self.model, self.odd = model, odd

    def forward(self, x: Tensor) -> Tensor:
        return run(self.model, x, self.odd)


@torch.no_grad()
def check_merge(model: nn.Module, odd: Odd) -> None:
    """The merged model gives the same outputs."""
    x = tokens(MANY, odd)
    before = run(model, x, odd)
    merge(model)
    within = tolerance(odd)
    close(run(model, x, odd), before, **within)


def main() -> None:
    """Print the table."""
    from rich.console import Console
    from rich.table import Table

    names = [name for name in METHODS if name != "last_k"]
    table = Table(title="methods x odd modules: right, merged too | right, unmerged | refused")
    table.add_column("module")
    for name in names:
        table.add_column(name)
    notes: dict[str, str] = {}
    for kind, odd in ODD.items():
        cells = [try_out(name, odd) for name in names]
        table.add_row(kind, *(mark(cell) for cell in cells))
        for cell in cells:
            text = cell.refused or cell.unmerged
            if text:
                notes.setdefault(f"{kind}: {text}", "")
    console = Console(width=220)
    console.print(table)
    for note in notes:
        console.print(note)


def mark(cell: Cell) -> str:
    """A cell of the table."""
    return "refused" if cell.refused else "right, u" if cell.unmerged else "right"


if __name__ == "__main__":
    main()
