"""Convolutions and embeddings as linear maps, under every method that takes them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from modules import (
    ADAPTERS,
    DROPPING,
    FEW,
    method,
    moved_bias,
    nudge,
    only_layer,
    start_within,
    steps,
)
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.testing import assert_close

from variants import adapt, disable, load, save, summary, unload
from variants.base import AdapterLayer, Variant, adapter_layers, merge
from variants.forms import Convolution, Embedding, find_form

pytestmark = pytest.mark.thorough

TAKING = [name for name in ADAPTERS if vars(type(method(name))).get("any_form")]
REFUSING = [name for name in ADAPTERS if name not in TAKING]
V = 32  # tokens

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv1d": lambda: nn.Conv1d(8, 12, 3, padding="same"),
    "conv2d": lambda: nn.Conv2d(8, 12, (3, 2), stride=2, padding=1, dilation=(1, 2)),
    "conv2d groups": lambda: nn.Conv2d(8, 12, (3, 2), groups=2, bias=False),
    "conv2d depthwise": lambda: nn.Conv2d(8, 16, (2, 4), groups=8, padding=1),
    "conv2d reflect": lambda: nn.Conv2d(8, 12, 3, padding=1, padding_mode="reflect"),
    "conv2d 1x1": lambda: nn.Conv2d(8, 12, 1),
    "conv3d": lambda: nn.Conv3d(8, 12, 2),
    "embedding": lambda: nn.Embedding(V, 12),
    "embedding padded": lambda: nn.Embedding(V, 12, padding_idx=2),
}
# Methods that start from moments of inputs; those of an embedding are single tokens.
OF_INPUTS = ("corda", "eva")
CASES = [
    (name, kind)
    for name in TAKING
    for kind in LAYERS
    if name not in OF_INPUTS or not kind.startswith("embedding")
]
SOME = [(n, k) for n, k in CASES if k in ("conv2d", "conv2d groups", "embedding")]


def inputs(kind: str, count: int = FEW) -> Tensor:
    torch.manual_seed(3)
    if kind.startswith("embedding"):
        return torch.randint(0, V, (count, 7))
    return torch.randn(count, 8, *([9] * int(kind[4])))


def plain(layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Compute the layer's output by torch with another weight."""
    if isinstance(layer, nn.Embedding):
        return F.embedding(x, weight, layer.padding_idx)
    return layer._conv_forward(x, weight, bias)  # type: ignore[operator]


def adapted(name: str, kind: str, **settings: object) -> tuple[nn.Sequential, AdapterLayer]:
    torch.manual_seed(0)
    model = nn.Sequential(LAYERS[kind]())
    method(name, "0", **settings).adapt(model)
    return model.eval(), only_layer(model)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_an_adapted_layer_starts_as_it_was_and_is_its_merged_weight(name: str, kind: str) -> None:
    torch.manual_seed(0)
    before, x = LAYERS[kind](), inputs(kind)
    model, layer = adapted(name, kind)
    expected = before(x)
    assert_close(model(x), expected, **start_within(name, {"rtol": 1e-4, "atol": 1e-5}, 0.05))
    nudge(model)
    y = model(x)
    assert not torch.allclose(y, expected, atol=1e-3)
    assert layer.weight.shape == before.weight.shape
    assert_close(y, plain(layer.base, x, layer.weight, layer.bias), rtol=1e-4, atol=1e-5)
    for precision in (torch.bfloat16, torch.float16):
        rounded = nn.Sequential(LAYERS[kind]()).to(precision)
        method(name, "0").adapt(rounded)
        small = x if x.dtype == torch.long else x.to(precision)
        assert rounded(small).dtype == precision
    merge(model)
    assert type(model[0]) is type(before) and not isinstance(model[0], AdapterLayer)
    assert_close(model(x), y, rtol=1e-4, atol=1e-5)
    settings = {k: v for k, v in vars(before).items() if not k.startswith("_")}
    assert {k: v for k, v in vars(model[0]).items() if k in settings} == settings | {
        "training": False
    }


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradients_are_those_of_the_merged_weight(name: str, kind: str) -> None:
    model, layer = adapted(name, kind)
    model.double()
    nudge(model)
    x = inputs(kind)
    x = x if x.dtype == torch.long else x.double().requires_grad_()
    leaves = [p for p in layer.parameters() if p.requires_grad] + ([x] if x.requires_grad else [])
    y = model(x)
    dy = torch.randn_like(y)
    found = torch.autograd.grad(y, leaves, dy)
    z = plain(layer.base, x, layer.weight, layer.bias)
    assert_close(y, z)
    for mine, theirs in zip(found, torch.autograd.grad(z, leaves, dy), strict=True):
        if kind == "embedding padded":
            continue  # torch gives the padding's column no gradient
        assert_close(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "kind"), [case for case in CASES if case[0] in DROPPING])
def test_dropout_is_on_the_input_of_the_update(name: str, kind: str) -> None:
    model, layer = adapted(name, kind, dropout=0.5)
    nudge(model)
    x = inputs(kind)
    torch.manual_seed(4)
    y = model.train()(x)
    torch.manual_seed(4)
    shape = layer.form.shape_weight(layer.base, layer.compute_change())
    if kind.startswith("embedding"):
        kept = F.dropout(torch.ones(*x.shape, 1), 0.5)
        expected = layer.base(x) + F.embedding(x, shape) * kept
    else:
        expected = layer.base(x) + plain(layer.base, F.dropout(x, 0.5), shape, None)
    assert_close(y, expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(model.eval()(x), model(x))


@pytest.mark.parametrize("hook", ["hook", "bfloat16", "autocast"])
@pytest.mark.parametrize(("name", "kind"), [case for case in SOME if case[1] != "conv2d groups"])
def test_a_small_update_is_neither_rounded_away_nor_passed_by(
    name: str, kind: str, hook: str
) -> None:
    model, layer = adapted(name, kind)
    nudge(model)
    x = inputs(kind)
    with torch.no_grad():
        change = layer.form.shape_weight(layer.base, layer.compute_change())
        if hook == "hook":
            layer.base.register_forward_hook(lambda module, inputs, y: 3 * y)
            expected = layer.base(x) + plain(layer.base, x, change, moved_bias(layer))
            assert_close(model(x), expected, rtol=1e-4, atol=1e-5)
            with pytest.raises(ValueError, match=r"^0 cannot be merged\. .* has hooks"):
                merge(model)
            return
        exact = plain(layer.base, x, layer.weight, layer.bias)
        if hook == "autocast":
            with torch.autocast("cpu", torch.bfloat16):
                found = model(x)
        else:
            found = model.bfloat16()(x if x.dtype == torch.long else x.bfloat16())
        assert_close(found.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize(("name", "kind"), [case for case in SOME if case[1] != "conv2d"])
def test_it_trains_is_saved_loaded_disabled_and_unloaded(
    name: str, kind: str, tmp_path: object
) -> None:
    def build() -> nn.Sequential:
        torch.manual_seed(0)
        model = nn.Sequential(LAYERS[kind](), nn.Flatten(), nn.LazyLinear(4))
        model(inputs(kind))  # which gives the last layer its shape
        return model

    bare, x = build(), inputs(kind)
    before = bare.eval()(x).detach()
    variant = method(name, "0")
    adapt(bare, variant)
    steps(bare, variant, lambda: inputs(kind), 3)
    after = bare(x)
    assert not torch.allclose(after, before, atol=1e-4)
    save(bare, tmp_path)  # type: ignore[arg-type]
    fresh = build().eval()
    load(fresh, tmp_path)  # type: ignore[arg-type]
    assert_close(fresh(x), after, rtol=0, atol=0)
    with disable(fresh):
        assert_close(fresh(x), before)
    kinds = type(only_layer(fresh).base).__name__
    assert f"0 {kinds} " in str(summary(fresh))
    unload(fresh)
    assert_close(fresh(x), before, rtol=0, atol=0)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("name", REFUSING)
def test_a_method_that_reads_more_refuses_by_name(name: str, kind: str) -> None:
    model = nn.Sequential(LAYERS[kind]())
    said = rf"^{type(method(name)).__name__} adapts nn\.Linear only, and 0 is a "
    with pytest.raises(ValueError, match=said):
        method(name, "0").adapt(model)


@pytest.mark.parametrize("name", OF_INPUTS)
def test_single_tokens_have_no_moments_to_start_from(name: str) -> None:
    with pytest.raises(ValueError, match=r"^0 cannot be adapted\. Its inputs are single tokens"):
        method(name, "0").adapt(nn.Sequential(nn.Embedding(V, 12)))


def test_a_method_takes_them_only_where_its_own_class_says_so() -> None:
    class Derived(type(method("lora", "0"))):
        pass

    assert not vars(Derived).get("any_form", False)
    with pytest.raises(ValueError, match=r"^Derived adapts nn\.Linear only, and 0 is a Conv1d"):
        Derived(**vars(method("lora", "0"))).adapt(nn.Sequential(LAYERS["conv1d"]()))


class Standardized(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean()
        return self._conv_forward(input, weight, self.bias)


class Scaled(nn.Embedding):
    def forward(self, input: Tensor) -> Tensor:
        return 4 * super().forward(input)


@pytest.mark.parametrize(
    "build",
    [lambda: Standardized(8, 8, 3), lambda: Scaled(V, 8), lambda: nn.Embedding(V, 8, max_norm=1.0)],
)
@pytest.mark.parametrize("name", TAKING)
def test_what_does_more_than_its_weight_says_is_refused(
    name: str, build: Callable[[], nn.Module]
) -> None:
    with pytest.raises(ValueError, match=r"^0 is a \w+ that does more than its weight says"):
        method(name, "0").adapt(nn.Sequential(build()))


@pytest.mark.parametrize(
    "build", [lambda: nn.ConvTranspose2d(8, 8, 3), lambda: nn.EmbeddingBag(V, 8),
              lambda: nn.Bilinear(4, 4, 4), lambda: nn.LSTM(8, 8), lambda: nn.LayerNorm(8)]
)  # fmt: skip
@pytest.mark.parametrize("name", ADAPTERS)
def test_other_layers_are_named_and_refused(name: str, build: Callable[[], nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"^'0' names 0, a \w+, and no method here adapts that\."):
        method(name, "0").adapt(nn.Sequential(build()))


def test_words_mean_linear_layers_and_names_mean_all() -> None:
    model = nn.ModuleDict({
        "embed": nn.Embedding(V, 8), "patch": nn.Conv2d(3, 8, 4),
        "attention": nn.ModuleDict({"proj": nn.Linear(8, 8), "conv": nn.Conv1d(8, 8, 1)}),
    })  # fmt: skip
    adapt(model, "lora", rank=2)
    assert [name for name, _ in adapter_layers(model)] == ["attention.proj"]
    unload(model)
    adapt(model, "lora", rank=2, targets="attention")
    assert [name for name, _ in adapter_layers(model)] == ["attention.proj"]
    unload(model)
    adapt(model, "lora", rank=2, targets=["all-linear", "embed", r"(patch|.*conv)"])
    assert len(list(adapter_layers(model))) == 4
    forms = {name: layer.form for name, layer in adapter_layers(model)}
    assert forms["embed"] is Embedding and forms["patch"] is Convolution
    assert find_form(nn.LayerNorm(3)) is None


def test_settings_of_a_convolution_can_be_read() -> None:
    _, layer = adapted("dora", "conv2d")
    assert layer.kernel_size == (3, 2) and layer.stride == (2, 2) and layer.out_channels == 12
    assert not hasattr(layer, "in_features") and hasattr(layer, "weight")
    _, layer = adapted("dora", "embedding padded")
    assert (layer.num_embeddings, layer.embedding_dim, layer.padding_idx) == (V, 12, 2)
    assert layer.bias is None


def test_of_a_depthwise_convolution_every_group_has_its_own_rows() -> None:
    model, layer = adapted("lora", "conv2d depthwise")
    nudge(model)
    x = inputs("conv2d")
    y = model(x)
    with torch.no_grad():
        layer.B[2:4] = 0  # the rows of the second group
    z = model(x)
    changed = (y - z).abs().amax(dim=(0, 2, 3)) > 1e-6
    assert changed.tolist() == [2 <= i < 4 for i in range(16)]


KINDS = ["conv1d", "conv2d", "conv2d 1x1", "conv3d", "embedding", "embedding padded"]


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_peft(kind: str, dora: bool) -> None:
    variant: Variant = method("dora" if dora else "lora", "0")
    build = {**LAYERS, "conv2d": lambda: nn.Conv2d(8, 12, (3, 2), stride=2, padding=1)}[kind]
    torch.manual_seed(0)
    model = nn.Sequential(build())
    torch.manual_seed(0)
    config = LoraConfig(
        r=variant.rank, lora_alpha=variant.alpha, target_modules=["0"], use_dora=dora
    )  # type: ignore[attr-defined]
    theirs = get_peft_model(nn.Sequential(build()), config)  # type: ignore[arg-type]
    variant.adapt(model)
    nudge(model)
    layer = only_layer(model)
    peer = theirs.base_model.model[0]
    ours = {"A": layer.A, "B": layer.B}
    if kind.startswith("embedding"):
        names = {"A": peer.lora_embedding_A, "B": peer.lora_embedding_B}
        peers = {key: tensors["default"] for key, tensors in names.items()}
    else:
        peers = {key: getattr(peer, f"lora_{key}")["default"].weight for key in ours}
    if dora:
        ours["m"], peers["m"] = layer.m, peer.lora_magnitude_vector["default"].weight
    with torch.no_grad():
        for key, tensor in ours.items():
            peers[key].copy_(tensor.view(peers[key].shape))
    x = inputs(kind)
    y, z = model(x), theirs(x)
    assert_close(y, z, rtol=1e-4, atol=1e-5)
    dy = torch.randn_like(y)
    y.backward(dy)
    z.backward(dy)
    for key, tensor in ours.items():
        assert tensor.grad is not None and peers[key].grad is not None
        assert_close(tensor.grad.view(peers[key].shape), peers[key].grad, rtol=1e-3, atol=1e-4)
    merge(model)
    assert_close(theirs.merge_and_unload()[0].weight, model[0].weight, rtol=1e-4, atol=1e-5)


def test_an_embeddings_update_moves_as_far_as_a_linear_layers() -> None:
    torch.manual_seed(0)
    layer = only_layer(adapted("lora", "embedding")[0])
    assert layer.A.abs().max() <= 1 and layer.A.std() > 0.5
    layer = only_layer(adapted("lora", "conv2d 1x1")[0])
    assert layer.A.abs().max() <= 8**-0.5
