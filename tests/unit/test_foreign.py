"""PEFT's and loralib's checkpoints, written and read."""

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from cases import FAMILIES, keep, logits, trained
from conftest import Case
from peft_files import CLOSE, nudge, of_peft, outputs
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, RobertaConfig, RobertaModel

from experiments.adapters import saved
from experiments.adapters.loralib_format import read_loralib
from experiments.adapters.peft_format import read_peft, write_peft
from experiments.models.pretrained import Pretrained
from variants.base import adapter_layers
from variants.lora_drop import lora_layers, share_factors

pytestmark = pytest.mark.thorough

SHARED = Path(__file__).parents[3] / "shared" / "data"
EXPORTED = [
    *["lora", "lora_plus", "rslora", "dora", "vera", "adalora", "lora_fa", "delta_lora"],
    "lora_drop",
]


def made_by(case: Callable, variant: str, family: str) -> Case:
    """A trained case; rsLoRA is a setting of LoRA."""
    if variant != "rslora":
        return trained(case, variant, family)
    return trained(lambda v, *o, **k: case(v, "variant.rslora=true", *o, **k), "lora", family)


@pytest.mark.filterwarnings("error:Found missing adapter keys")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", EXPORTED)
def test_peft_gives_the_same_outputs_and_the_way_back_too(
    case: Callable, tiny: Callable[[str], Path], tmp_path: Path, variant: str, family: str
) -> None:
    made = made_by(case, variant, family)
    adapter = saved.read_adapter(keep(made, tmp_path / "ours"))
    if (variant, family) == ("vera", "gpt2"):
        with pytest.raises(ValueError, match="merge the adapter instead"):
            write_peft(adapter, tmp_path / "peft")
        assert not (tmp_path / "peft").exists()
        return
    write_peft(adapter, tmp_path / "peft")
    theirs = of_peft(tmp_path / "peft", tiny(family))
    torch.testing.assert_close(outputs(theirs, made, family), logits(made), **CLOSE)
    back = read_peft(tmp_path / "peft", made.run.model)
    assert (back.num_outputs, back.weights) == (2, adapter.weights)
    saved.write(back, tmp_path / "back")
    model = saved.load(saved.read_adapter(tmp_path / "back")).model
    with torch.no_grad():
        torch.testing.assert_close(model(made.batch), logits(made), **CLOSE)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pair_that_layers_share_is_written_for_each_of_them(
    case: Callable, tiny: Callable[[str], Path], tmp_path: Path, family: str
) -> None:
    made = trained(case, "lora_drop", family)
    layers = lora_layers(made.model)
    first: dict[torch.Size, str] = {}  # only layers of one shape can share
    owners = {name: first.setdefault(layer.W0.shape, name) for name, layer in layers.items()}
    share_factors(layers, owners)
    write_peft(saved.read_adapter(keep(made, tmp_path / "ours")), tmp_path / "peft")
    theirs = of_peft(tmp_path / "peft", tiny(family))
    torch.testing.assert_close(outputs(theirs, made, family), logits(made), **CLOSE)


@pytest.mark.parametrize("variant", ["lora", "dora", "vera"])
def test_a_round_trip_returns_the_very_tensors(
    case: Callable, tmp_path: Path, variant: str
) -> None:
    adapter = saved.read_adapter(keep(trained(case, variant, "roberta"), tmp_path / "ours"))
    write_peft(adapter, tmp_path / "peft")
    back = read_peft(tmp_path / "peft", adapter.model)
    for found, expected in ((back.state, adapter.state), (back.head, adapter.head)):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert type(back.variant) is type(adapter.variant)


def test_gpt2s_pairs_come_back_at_their_own_rank(case: Callable, tmp_path: Path) -> None:
    adapter = saved.read_adapter(keep(trained(case, "lora", "gpt2"), tmp_path / "ours"))
    write_peft(adapter, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    rank, alpha = adapter.variant.rank, adapter.variant.alpha
    assert (config["r"], config["lora_alpha"]) == (2 * rank, 2 * alpha)
    assert config["target_modules"] == ["c_attn"]
    back = read_peft(tmp_path / "peft", adapter.model)
    assert (back.variant.rank, back.variant.alpha) == (rank, alpha)
    assert back.state.keys() == adapter.state.keys()


PEFTS = {
    "lora": lambda: peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["query", "value", "output.dense"]
    ),
    "patterns": lambda: peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["query", "value"],
        rank_pattern={"layer.1.attention.self.query": 2}, alpha_pattern={"value": 9},
    ),
    "rslora": lambda: peft.LoraConfig(
        r=4, lora_alpha=6, use_rslora=True, target_modules=["query", "key"], rank_pattern={"key": 3}
    ),
    "dora": lambda: peft.LoraConfig(r=4, use_dora=True, target_modules=["query", "value"]),
    "vera": lambda: peft.VeraConfig(r=6, target_modules=["query", "intermediate.dense"]),
    "adalora": lambda: peft.AdaLoraConfig(
        init_r=6, target_r=3, total_step=20, tinit=2, tfinal=4, target_modules=["query", "value"]
    ),
    "adalora_without_alpha": lambda: peft.AdaLoraConfig(
        init_r=4, target_r=2, total_step=20, lora_alpha=0, target_modules=["query", "value"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", PEFTS)
def test_what_peft_saved_gives_the_same_outputs_here(
    case: Callable, tiny: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    made = case("lora")
    config = PEFTS[kind]()
    config.task_type = "SEQ_CLS"
    base = AutoModelForSequenceClassification.from_pretrained(tiny("roberta"), num_labels=2)
    theirs = peft.get_peft_model(base, config).eval()
    nudge(theirs)
    if kind == "adalora":  # as after training: some triplets are pruned, and cut when saved
        layer = theirs.base_model.model.roberta.encoder.layer[0].attention.self.query
        layer.lora_E["default"].data[:4] = 0
        allocator = theirs.base_model
        name = "roberta.encoder.layer.{}.attention.self.{}.lora_E"
        allocator.peft_config["default"].rank_pattern = {
            name.format(i, m): [False] * 4 + [True] * 2 if (i, m) == (0, "query") else [True] * 6
            for i in range(2) for m in ("query", "value")
        }  # fmt: skip
    expected = outputs(theirs, made, "roberta")
    theirs.save_pretrained(tmp_path / "peft")
    adapter = read_peft(tmp_path / "peft", made.run.model)
    with torch.no_grad():
        found = saved.load(adapter).model(made.batch)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("dora", [False, True])
def test_a_fused_adapter_of_peft_gives_the_same_outputs_here(
    case: Callable, tiny: Callable[[str], Path], tmp_path: Path, dora: bool
) -> None:
    made = case("lora", family="gpt2")
    base = AutoModelForSequenceClassification.from_pretrained(tiny("gpt2"), num_labels=2)
    base.config.pad_token_id = 0
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True,
        use_dora=dora,
    )  # fmt: skip
    theirs = peft.get_peft_model(base, config).eval()
    nudge(theirs)
    expected = outputs(theirs, made, "gpt2")
    theirs.save_pretrained(tmp_path / "peft")
    model = saved.load(read_peft(tmp_path / "peft", made.run.model)).model
    assert {name.rpartition(".")[2] for name, _ in adapter_layers(model)} == {"q", "k", "v", "c_fc"}
    with torch.no_grad():
        torch.testing.assert_close(model(made.batch), expected, **CLOSE)


def spoil(folder: Path, how: str) -> None:
    path, about = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    config, tensors = json.loads(about.read_text()), load_file(path)
    first = min(name for name in tensors if "lora_A" in name)
    if how == "a further field":
        config["layer_replication"] = [[0, 2]]
    elif how == "trained biases":
        config["bias"] = "all"
    elif how == "a moved base":
        config["init_lora_weights"] = "pissa"
    elif how == "another method":
        config["peft_type"] = "POLY"
    elif how == "a misnamed key":
        tensors[first.replace("lora_A", "lora_X")] = tensors.pop(first)
    elif how == "another layer":
        tensors[first.replace("layer.0", "layer.7")] = tensors.pop(first)
    elif how == "another width":
        tensors[first] = tensors[first][:, :-1].contiguous()
    save_file(tensors, path)
    about.write_text(json.dumps(config))
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-7])


SPOILT = {
    "a further field": "layer_replication=.* is not read here",
    "trained biases": "bias='all'",
    "a moved base": "init_lora_weights='pissa'",
    "another method": "type POLY, which no method here reads",
    "a misnamed key": r"lacks .*lora_A\.weight",
    "another layer": "layer.7.*no such layer",
    "another width": "has shape",
    "truncated": "only safetensors are read",
}


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_not_read_exactly_is_refused(case: Callable, tmp_path: Path, how: str) -> None:
    made = trained(case, "lora", "roberta")
    write_peft(saved.read_adapter(keep(made, tmp_path / "ours")), tmp_path / "peft")
    spoil(tmp_path / "peft", how)
    with pytest.raises(ValueError, match=SPOILT[how]):
        saved.load(read_peft(tmp_path / "peft", made.run.model))


@pytest.mark.parametrize("variant", ["qlora", "qa_lora", "full", "bitfit"])
def test_what_has_no_form_in_peft_says_so(case: Callable, tmp_path: Path, variant: str) -> None:
    adapter = saved.read_adapter(keep(trained(case, variant, "roberta"), tmp_path / "ours"))
    with pytest.raises(ValueError, match=r"merge (it|the adapter) instead"):
        write_peft(adapter, tmp_path / "peft")


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
def test_a_file_of_loralib_gives_the_same_outputs(
    case: Callable, tmp_path: Path, family: str
) -> None:
    made = trained(case, "lora", family)
    inside = {"roberta": "roberta.", "gpt2": "transformer."}[family]
    state: dict[str, torch.Tensor] = {}
    for name, layer in adapter_layers(made.model.backbone):
        state[f"{inside}{name}.lora_A"] = layer.A.detach()
        state[f"{inside}{name}.lora_B"] = layer.B.detach()
    if family == "gpt2":  # its projection of q and v holds both, one below the other
        for i in range(2):
            for end in ("lora_A", "lora_B"):
                parts = [state.pop(f"{inside}h.{i}.attn.c_attn.{p}.{end}") for p in ("q", "v")]
                state[f"{inside}h.{i}.attn.c_attn.{end}"] = torch.cat(parts)
        state["score.weight"] = made.model.head.score.weight.detach()
    else:
        for name, tensor in made.model.head.state_dict().items():
            state[f"classifier.{name}"] = tensor
    torch.save(state, tmp_path / "lora.bin")
    adapter = read_loralib(tmp_path / "lora.bin", made.run.model, made.run.variant.alpha)
    with torch.no_grad():
        assert torch.equal(saved.load(adapter).model(made.batch), logits(made))


def test_a_file_that_is_no_checkpoint_is_refused(case: Callable, tmp_path: Path) -> None:
    (tmp_path / "lora.bin").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be read"):
        read_loralib(tmp_path / "lora.bin", case("lora").run.model, 16.0)


def roberta_of_base_size(folder: Path) -> Pretrained:
    """A model with the layers of RoBERTa-base, and little else."""
    config = RobertaConfig(
        vocab_size=8, hidden_size=768, num_hidden_layers=12, num_attention_heads=12,
        intermediate_size=8, max_position_embeddings=12,
    )  # fmt: skip
    torch.manual_seed(0)
    RobertaModel(config, add_pooling_layer=False).save_pretrained(folder)
    return Pretrained(
        name="wide", path=str(folder), package=None, revision=None, sha256=None, dropout=None,
        lr_scale=1.0, linears={},
    )  # fmt: skip


def test_the_authors_checkpoint_is_read_with_its_head(tmp_path: Path) -> None:
    path = SHARED / "loralib" / "roberta_base_lora_mnli.bin"
    if not path.is_file():
        pytest.skip("the published checkpoint is not beside the project")
    adapter = read_loralib(path, roberta_of_base_size(tmp_path), alpha=16.0)
    assert (adapter.num_outputs, adapter.variant.rank) == (3, 8)
    stored = torch.load(path, map_location="cpu", weights_only=True)
    backbone = adapter.model.backbone()
    adapter.variant.adapt(backbone)
    saved.load_state(adapter, backbone)
    layers = dict(adapter_layers(backbone))
    assert len(layers) == 24
    for name, layer in layers.items():
        A, B = (stored[f"roberta.{name}.lora_{factor}"] for factor in "AB")
        # Against the float64 product: the two ways of float32 need not agree to the bit.
        exact = layer.W0.double() + 2.0 * B.double() @ A.double()
        torch.testing.assert_close(layer.merged_weight().double(), exact, rtol=1e-5, atol=1e-6)
    total = sum(t.numel() for t in (*adapter.state.values(), *adapter.head.values()))
    assert total == 887_811
