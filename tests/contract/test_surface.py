"""The public surface of the methods: a model is adapted in a line, and all ways lead back."""

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from modules import (
    ADAPTERS,
    METHODS,
    OWN,
    QUANTISED,
    in_turn,
    looks_at_data,
    method,
    nudge,
    slow_down,
    small,
    steps,
)
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

import variants
from variants import (
    Hooks,
    adapt,
    disable,
    learned_state,
    load,
    load_learned_state,
    merge,
    optimizer_for,
    save,
    summary,
    unload,
)
from variants.base import AdapterLayer, adapter_layers, replace_linears
from variants.base import Variant as Base
from variants.defaults import read_defaults

D = 16


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"attn": nn.ModuleDict({"q": nn.Linear(D, D), "v": nn.Linear(D, D)}),
                           "mlp": nn.Linear(D, D)}) for _ in range(4)
        )  # fmt: skip
        self.norm = nn.BatchNorm1d(D)
        self.head = nn.Linear(D, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            attention = block["attn"]
            x = x + block["mlp"](torch.relu(attention["q"](x) * attention["v"](x)))
        return self.head(self.norm(x))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def names(model: nn.Module) -> set[str]:
    return {name for name, _ in adapter_layers(model)}


def state_of(model: nn.Module) -> dict[str, tuple[Tensor, bool]]:
    flags = {n: p.requires_grad for n, p in model.named_parameters(remove_duplicate=False)}
    return {n: (t.clone(), flags.get(n, False)) for n, t in model.state_dict().items()}


def assert_same(one: dict[str, tuple[Tensor, bool]], other: dict[str, tuple[Tensor, bool]]) -> None:
    assert one.keys() == other.keys()
    for name, (tensor, flag) in one.items():
        assert_close(other[name][0], tensor, rtol=0, atol=0, equal_nan=True)
        assert flag == other[name][1], name


@pytest.mark.parametrize("name", METHODS)
def test_a_line_adapts_and_gives_the_settings_of_the_yaml(name: str) -> None:
    model = net()
    variant = adapt(model, name, **small(name))
    defaults = read_defaults(name)[1] | small(name)
    assert {key: getattr(variant, key) for key in defaults} == defaults
    if name in ADAPTERS:
        assert names(model) == {n for n, m in net().named_modules() if isinstance(m, nn.Linear)}


B0, B3 = "blocks.0.", "blocks.3."
ALL = {f"blocks.{i}.{part}" for i in range(4) for part in ("attn.q", "attn.v", "mlp")} | {"head"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ALL),
        ({"targets": "all-linear"}, ALL),
        ({"targets": "attention"}, {n for n in ALL if "attn" in n}),
        ({"targets": "q"}, {n for n in ALL if n.endswith(".q")}),
        ({"targets": ["attn.q", "mlp"]}, {n for n in ALL if n.endswith((".q", "mlp"))}),
        ({"targets": r"blocks\.[01]\..*"}, {n for n in ALL if n[:8] in (B0[:8], "blocks.1")}),
        ({"targets": r".*\.(q|v)"}, {n for n in ALL if "attn" in n}),
        ({"exclude": "head"}, ALL - {"head"}),
        ({"targets": ["all-linear", "!head", "!mlp"]}, {n for n in ALL if "attn" in n}),
        ({"exclude": ["attention", "head"]}, {n for n in ALL if n.endswith("mlp")}),
        ({"exclude": r"blocks\.[0-2]\..*"}, {n for n in ALL if n.startswith(("head", B3))}),
        ({"layers": [0, 3], "targets": "q"}, {"blocks.0.attn.q", "blocks.3.attn.q"}),
        ({"layers": range(2), "targets": "mlp"}, {"blocks.0.mlp", "blocks.1.mlp"}),
        ({"layers": [-1]}, {n for n in ALL if n.startswith(B3)}),
        ({"targets": ["v", "layers:1-2,-1"]}, {f"blocks.{i}.attn.v" for i in (1, 2, 3)}),
        ({"targets": "blocks.1.mlp"}, {"blocks.1.mlp"}),
    ],
)
def test_targets(given: dict, expected: set[str]) -> None:
    model = net()
    variant = adapt(model, "lora", rank=2, **given)
    assert names(model) == expected
    again = net()  # what a method keeps as its targets means the same in a YAML
    type(variant)(**vars(variant)).adapt(again)
    assert names(again) == expected


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"targets": "qq"}, r"No linear layer is named 'qq'\. Did you mean 'q'\? This model has:"),
        ({"targets": r".*\.x"}, r"No linear layer is named '\.\*\\\.x'\. This model has"),
        ({"targets": "norm"}, r"'norm' names norm, a BatchNorm1d, and no method"),
        ({"targets": "q", "exclude": "q"}, r"The targets q, !q leave no layer of this model\."),
        ({"targets": "q", "exclude": "p"}, r"No linear layer is named 'p'\."),
        ({"layers": [4]}, r"There is no block 4: blocks has 4\."),
        ({"layers": [-5]}, r"There is no block -5: blocks has 4\."),
        ({"targets": ["q", "layers:two"]}, r"'layers:two' must be layers: and numbers of blocks"),
        ({"targets": "head", "layers": [0]}, r"The targets head, layers:0 leave no layer"),
        ({"targets": []}, r"targets must name at least one linear layer, got none\."),
        ({"also_train": "tail"}, r"also_train: nothing in this model is named 'tail'\."),
        ({"rank": 0}, r"rank must be at least 1, got 0\."),
        ({"ranks": 3}, r"lora has no setting 'ranks'\. Did you mean 'rank'\? Known are: lr, rank"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_sentence_and_the_model_untouched(
    given: dict, said: str
) -> None:
    model = net()
    model.head.requires_grad_(False)
    before, flags = state_of(model), [m.training for m in model.modules()]
    with pytest.raises(ValueError, match=f"^{said}"):
        adapt(model, "lora", **given)
    assert_same(state_of(model), before)
    assert flags == [m.training for m in model.modules()]
    adapt(model, "lora", rank=2)


def test_unknown_methods_and_settings_of_a_method_are_named() -> None:
    with pytest.raises(ValueError, match=r"^There is no method 'dorra'\. Did you mean 'dora'\?"):
        adapt(net(), "dorra")
    with pytest.raises(ValueError, match=r"^full has no setting 'targets'\."):
        adapt(net(), "full", targets="q")
    with pytest.raises(ValueError, match=r"^BitFit has no targets to choose\."):
        adapt(net(), "bitfit", exclude="q")
    with pytest.raises(ValueError, match=r"^LoRA has no setting 'rnak'\. Did you mean 'rank'\?"):
        adapt(net(), method("lora", "q"), rnak=3)


def test_a_method_may_be_given_as_it_is_and_changed() -> None:
    model = net()
    variant = adapt(model, method("dora", "q"), targets="v", rank=5)
    assert (variant.rank, variant.targets) == (5, ["v"])
    assert names(model) == {n for n in ALL if n.endswith(".v")}


@pytest.mark.parametrize(("first", "second"), in_turn(METHODS, METHODS))
def test_a_cell_that_is_run_twice_says_that_the_model_is_adapted(first: str, second: str) -> None:
    model = net()
    adapt(model, first, **small(first))
    before = state_of(model)
    with pytest.raises(ValueError, match=r"^The model is adapted already"):
        adapt(model, second, **small(second))
    assert_same(state_of(model), before)


def bert() -> BertForSequenceClassification:
    torch.manual_seed(0)
    return BertForSequenceClassification(BertConfig(
        vocab_size=50, hidden_size=D, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, num_labels=3, max_position_embeddings=16,
    )).eval()  # fmt: skip


def llama(tied: bool = False) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=50, hidden_size=D, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
        tie_word_embeddings=tied,
    )).eval()  # fmt: skip


def test_all_linear_leaves_out_heads_and_outputs() -> None:
    model = llama()
    adapt(model, "lora", rank=2)
    assert {n.rpartition(".")[2] for n in names(model)} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"
    }  # fmt: skip
    model = bert()
    adapt(model, "lora", rank=2)
    assert all(n.startswith("bert.") for n in names(model)) and len(names(model)) == 13
    wrapped = nn.ModuleDict({"inner": bert(), "own": nn.Linear(D, 2)})
    adapt(wrapped, "lora", rank=2)
    assert "own" in names(wrapped) and "inner.classifier" not in names(wrapped)


@pytest.mark.parametrize("name", METHODS)
def test_a_new_head_trains_where_it_is_named(name: str) -> None:
    model = bert()
    targets = {"targets": "query"} if name in ADAPTERS else {}
    adapt(model, name, also_train="classifier", **(small(name) | targets))
    assert model.classifier.weight.requires_grad and model.classifier.bias.requires_grad
    assert {"classifier.weight", "classifier.bias"} <= learned_state(model).keys()
    model = bert()
    adapt(model, name, **(small(name) | targets))
    assert model.classifier.weight.requires_grad == (name == "full")
    inner = bert()  # or the part that is pretrained alone is adapted
    adapt(inner.bert, name, **(small(name) | targets))
    assert inner.classifier.weight.requires_grad
    assert "classifier.weight" in learned_state(inner)


def batch() -> Tensor:
    return torch.randn(8, D)


def trained(name: str, **given: object) -> Net:
    model = net()
    variant = adapt(model, name, **small(name), **given)
    if name != "head_only":
        steps(model, variant, batch)
    return model.eval()


@pytest.mark.parametrize("name", METHODS)
def test_disabled_and_unloaded_a_model_is_what_it_was(name: str) -> None:
    bare = net().eval()
    bare.norm.requires_grad_(False)
    model = deepcopy(bare)
    before, x = state_of(model), batch()
    expected = model(x)
    variant = adapt(model, name, **small(name))
    if name in OWN:
        for way in (unload, lambda model: disable(model).__enter__()):
            with pytest.raises(ValueError, match=r"trains the model's own parameters, .* anew\."):
                way(model)
        return
    nudge(model)
    adapted = model(x)
    layers = dict(adapter_layers(model))
    with disable(model):
        found = model(x)
        assert not list(adapter_layers(model))
    quantised = name in QUANTISED
    assert_close(found, expected, **({"rtol": 0, "atol": 0.5} if quantised else {}))
    assert all(dict(adapter_layers(model))[n] is layer for n, layer in layers.items())
    assert torch.equal(model(x), adapted)
    with pytest.raises(KeyError), disable(model):
        raise KeyError
    assert torch.equal(model(x), adapted)
    if quantised:
        with pytest.raises(ValueError, match=r"whose weights are gone; load the model anew\."):
            unload(model)
        assert torch.equal(model(x), adapted)
        return
    unload(model)
    assert_same(state_of(model), before)
    adapt(model, variant)


@pytest.mark.parametrize("name", METHODS)
def test_a_merged_model_is_plain_and_can_be_adapted_again(name: str) -> None:
    model, x = trained(name), batch()
    y = model(x)
    merge(model)
    assert not list(adapter_layers(model))
    assert_close(model(x), y, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"^The model is not adapted: call variants\.adapt first"):
        merge(model)
    if all(isinstance(block["mlp"], nn.Linear) for block in model.blocks):  # and not codes
        adapt(model, "lora", rank=2)


@pytest.mark.parametrize("name", METHODS)
def test_what_is_saved_is_loaded_over_the_pretrained_model(name: str, tmp_path: Path) -> None:
    beside = {} if name == "full" else {"also_train": "head"}
    targets = {"exclude": "head"} if name in ADAPTERS else {}
    model, x = trained(name, **targets, **beside), batch()
    save(model, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter.json", "adapter.safetensors"]
    about = json.loads((tmp_path / "adapter.json").read_text())
    assert about["variant"]["_target_"] == read_defaults(name)[0] and about["format"] == 1
    fresh = net().eval()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    variant = load(fresh, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert_close(fresh(x), model(x), rtol=0, atol=0)
    assert variant == variants.surface.find_adaptation(model)[2].variant
    load(fresh, tmp_path)  # over itself
    assert {n for n, p in fresh.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }
    save(fresh, tmp_path)
    load(net(), tmp_path)


@pytest.mark.parametrize("name", [n for n in METHODS if n not in ("full", "head_only")])
def test_another_base_is_refused_and_left_alone(name: str, tmp_path: Path) -> None:
    save(trained(name), tmp_path)
    other = net()
    with torch.no_grad():
        other.norm.weight[0] += 1e-6
    before = state_of(other)
    with pytest.raises(ValueError, match=r"does not fit this model: its frozen weights"):
        load(other, tmp_path)
    assert_same(state_of(other), before)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("lora", {"alpha": 8.0}), ("lora", {"rslora": True}), ("lora", {"rank": 4}),
     ("delta_lora", {"ratio": 0.1}), ("qlora", {"block": 8}), ("qa_lora", {"bits": 8}),
     ("vera", {"projection_seed": 3}), ("lora", {"exclude": "mlp"})],
)  # fmt: skip
def test_other_settings_are_named_and_refused(name: str, settings: dict, tmp_path: Path) -> None:
    save(trained(name), tmp_path)
    other = net()
    adapt(other, name, **{**small(name), **settings})
    before = state_of(other)
    key = next(iter(settings)).replace("exclude", "targets")
    with pytest.raises(ValueError, match=rf"not fit this model: .*{key} is .* there and .* here"):
        load(other, tmp_path)
    assert_same(state_of(other), before)
    other = net()
    adapt(other, name, lr=1.0, **small(name))  # the rate is no part of what was learned
    load(other, tmp_path)
    other = net()
    adapt(other, "dora", rank=3)
    with pytest.raises(ValueError, match=r"method is '\w+' there and 'DoRA' here"):
        load(other, tmp_path)


def test_what_trains_beside_is_part_of_the_settings(tmp_path: Path) -> None:
    save(trained("lora", exclude="head", also_train="head"), tmp_path)
    other = net()
    adapt(other, "lora", rank=3, exclude="head")
    with pytest.raises(ValueError, match=r"also_train is \['head'\] there and \[\] here"):
        load(other, tmp_path)


def cut(folder: Path) -> None:
    path = folder / "adapter.safetensors"
    path.write_bytes(path.read_bytes()[:-20])


def lose(folder: Path) -> None:
    state = load_file(folder / "adapter.safetensors")
    del state["blocks.3.mlp.B"]
    save_file(state, folder / "adapter.safetensors")


def misshape(folder: Path) -> None:
    state = load_file(folder / "adapter.safetensors")
    state["blocks.0.mlp.A"] = state["blocks.0.mlp.A"][:1].contiguous()
    save_file(state, folder / "adapter.safetensors")


def describe_otherwise(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter.json"
        about = json.loads(path.read_text())
        about["variant"] |= {k: v for k, v in changes.items() if k not in about}
        about |= {k: v for k, v in changes.items() if k in about}
        path.write_text(json.dumps(about))

    return change


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (cut, r"holds no whole adapter"),
        (lose, r"missing blocks\.3\.mlp\.B, unexpected none"),
        (misshape, r"has shape \[1, 16\] in the file, and \[3, 16\] in the model"),
        (lambda folder: (folder / "adapter.json").unlink(), r"holds no adapter: there is no adap"),
        (lambda folder: (folder / "adapter.json").write_text("{"), r"holds no whole adapter"),
        (describe_otherwise(format=99), r"adapter\.json is not of format 1"),
        (describe_otherwise(module="trunk"), r"its part 'trunk', which it does not have"),
        (describe_otherwise(rnak=4), r"adapter\.json has no setting 'rnak'\. Did you mean 'rank'"),
        (describe_otherwise(_target_="os.system"), r"of the method os\.system, which is not"),
        (describe_otherwise(rank=0), r"rank must be at least 1"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_one_sentence_and_the_model_untouched(
    harm: Callable[[Path], None], said: str, tmp_path: Path
) -> None:
    save(trained("lora"), tmp_path)
    harm(tmp_path)
    model = net()
    before = state_of(model)
    with pytest.raises(ValueError, match=said):
        load(model, tmp_path)
    assert_same(state_of(model), before)


class IA3Layer(AdapterLayer):
    def __init__(self, base: nn.Module) -> None:
        super().__init__(base)
        self.l = nn.Parameter(torch.ones(self.W0.shape[0]))

    def merged_weight(self) -> Tensor:
        return self.l[:, None] * self.W0


def test_a_method_of_ones_own_is_saved_and_loaded_with_its_class(tmp_path: Path) -> None:
    from dataclasses import dataclass

    @dataclass(frozen=True, kw_only=True)
    class Own(Base):
        targets: list[str]

        def adapt(self, model: nn.Module) -> None:
            model.requires_grad_(False)
            replace_linears(model, self.targets, IA3Layer)

    model, x = net().eval(), batch()
    adapt(model, Own(lr=0.1, targets=["all-linear"]), exclude="head")
    nudge(model)
    save(model, tmp_path)
    with pytest.raises(ValueError, match=r"which is not the project's own: give its class"):
        load(net(), tmp_path)
    fresh = net().eval()
    load(fresh, tmp_path, method=Own)
    assert_close(fresh(x), model(x), rtol=0, atol=0)


def test_an_adapted_part_is_saved_with_all_that_trains_around_it(tmp_path: Path) -> None:
    model, ids = bert(), torch.randint(0, 50, (2, 7))
    adapt(model.bert, "dora", rank=2)
    nudge(model)
    save(model, tmp_path)
    fresh = bert()
    load(fresh, tmp_path)
    assert torch.equal(fresh(ids).logits, model(ids).logits)
    two = nn.ModuleDict({"a": net(), "b": net()})
    adapt(two["a"], "lora", rank=2)
    adapt(two["b"], "dora", rank=2)
    with pytest.raises(ValueError, match=r"^Several parts of the model are adapted, a, b"):
        save(two, tmp_path)
    save(two["b"], tmp_path)


def test_a_state_can_be_taken_and_given_without_files() -> None:
    for name in METHODS:
        model, x = trained(name), batch()
        state = {n: t.clone() for n, t in learned_state(model).items()}
        fresh = net().eval()
        adapt(fresh, name, **small(name))
        load_learned_state(fresh, state)
        assert_close(fresh(x), model(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", METHODS)
def test_an_optimizer_has_all_that_trains_in_the_methods_groups(name: str) -> None:
    if name == "head_only":
        with pytest.raises(ValueError, match=r"^HeadOnly trains nothing in this model"):
            model = net()
            adapt(model, name)
            optimizer_for(model)
        return
    model = net()
    targets = {"targets": "q"} if name in ADAPTERS else {}
    variant = adapt(model, name, also_train="head", **(small(name) | targets))
    optimizer = optimizer_for(model, variant, 0.01, weight_decay=0.1, betas=(0.8, 0.9))
    held = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    rates = {round(g["lr"], 6) for g in optimizer.param_groups}
    faster = {"lora_plus": 0.02, "delora": 0.03, "vb_lora": 0.1}
    assert rates == {0.01, faster.get(name, 0.01)}
    assert {g["betas"] for g in optimizer.param_groups} == {(0.8, 0.9)}
    assert optimizer_for(model).defaults["lr"] == variant.lr


def test_groups_that_a_method_forgets_are_added() -> None:
    class Careless(type(method("lora", "0"))):
        def param_groups(self, model: nn.Module, lr: float, weight_decay: float) -> list[dict]:
            layers = [layer for _, layer in adapter_layers(model)]
            return [{"params": [layer.A for layer in layers], "lr": 2 * lr}]

    model = net()
    adapt(model, Careless(**vars(method("lora", "q"))), also_train="norm")
    optimizer = optimizer_for(model, lr=0.5)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == 4 + 4 + 2
    assert [g["lr"] for g in optimizer.param_groups] == [1.0, 0.5, 0.5]


@pytest.mark.parametrize("name", [n for n in METHODS if n != "head_only" and not looks_at_data(n)])
def test_a_loop_in_five_lines_is_that_of_the_hooks(
    name: str, recwarn: pytest.WarningsRecorder
) -> None:
    outcomes = []
    for own in (True, False):
        model = net()
        variant = adapt(model, name, **small(name))
        torch.manual_seed(3)
        if own:
            steps(model, variant, batch, 6)
        else:
            hooks, optimizer = Hooks(model, 6), optimizer_for(model, lr=0.05)
            slow_down(optimizer)
            for _ in range(6):
                (model(batch()).square().mean() + hooks.penalty()).backward()
                hooks.after_backward()
                optimizer.step()
                hooks.after_step()
                optimizer.zero_grad()
        outcomes.append({n: t.clone() for n, t in learned_state(model).items()})
    for key, tensor in outcomes[0].items():
        assert_close(outcomes[1][key], tensor, rtol=1e-4, atol=1e-6)
    assert not [w for w in recwarn if "hooks" in str(w.message)]


def test_the_summary_says_what_was_adapted_what_was_left_and_what_trains() -> None:
    model = net()
    adapt(model, "dora", rank=2, targets="attention", also_train="norm")
    found = summary(model)
    assert found.trained == 8 * (2 * 2 * D + D) + 2 * D and found.beside == 2 * D
    assert found.total == sum(p.numel() for p in model.parameters())
    assert str(found).splitlines() == [
        "DoRA(lr=0.0004, rank=2, alpha=16.0, dropout=0.0, rslora=False, targets=['attention'])",
        "adapted  4 x blocks.*.attn.q Linear [16, 16]",
        "         4 x blocks.*.attn.v Linear [16, 16]",
        "left     4 x blocks.*.mlp Linear [16, 16], frozen",
        "         norm BatchNorm1d (weight [16], bias [16]), trained",
        "         head Linear [4, 16], frozen",
        f"trained  672 of {found.total:,} parameters, {100 * 672 / found.total:.2f} %, "
        "32 of them outside of adapters",
    ]
    assert repr(found) == str(found)
    for name in METHODS:
        model = net()
        adapt(model, name, **small(name))
        assert str(summary(model)).startswith(f"{type(method(name)).__name__}(")
    with pytest.raises(ValueError, match=r"^The model is not adapted"):
        summary(net())


def test_experts_and_parameters_of_no_layer_stand_in_the_summary() -> None:
    model = net()
    model.experts = nn.Module()
    model.experts.down = nn.Parameter(torch.randn(4, D, D))
    with pytest.warns(UserWarning, match="hold the weights of several matrices"):
        adapt(model, "lora", rank=2)
    assert "experts Module (down [4, 16, 16]), frozen" in str(summary(model))


def test_a_copy_of_an_adapted_model_is_adapted_too(tmp_path: Path) -> None:
    model = deepcopy(trained("adalora"))
    save(model, tmp_path)
    with disable(model):
        pass
    merge(model)


def test_everything_public_is_there_and_documented() -> None:
    for name in variants.__all__:
        assert getattr(variants, name).__doc__, name
