"""PEFT's settings by layer, by name and by start, as PEFT itself applies them."""

import json
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from conftest import Case
from peft_files import nudge, outputs
from peft_files import of_peft as read_by_peft
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from experiments.adapters import saved
from experiments.adapters.factors import peft_factors
from experiments.adapters.peft_format import read_peft
from variants.base import adapter_layers

pytestmark = pytest.mark.thorough

ENCODER = ["query", "value", "output.dense"]
GPT2 = ["c_attn", "c_proj", "c_fc"]
PARTIAL = {"attention.output.dense": 32}
ADAPTERS: dict[str, tuple[str, dict]] = {
    "part of a path": ("roberta", {"alpha_pattern": PARTIAL}),
    "part of a path, DoRA": ("roberta", {"alpha_pattern": PARTIAL, "use_dora": True}),
    "part of a path, rsLoRA": (
        "roberta",
        {
            "alpha_pattern": PARTIAL,
            "use_rslora": True,
            "rank_pattern": {"attention.output.dense": 2},
        },
    ),
    "ranks by part of a path": ("roberta", {"rank_pattern": {"self.query": 3, "output.dense": 6}}),
    "the first of two that match": (
        "roberta",
        {"alpha_pattern": {"output.dense": 3, "attention.output.dense": 32}},
    ),
    "the longer one first": (
        "roberta",
        {"alpha_pattern": {"attention.output.dense": 32, "output.dense": 3}},
    ),
    "a full name": (
        "roberta",
        {"alpha_pattern": {"roberta.encoder.layer.1.attention.self.query": 5}},
    ),
    "a full name, anchored": (
        "roberta",
        {"alpha_pattern": {r"^roberta\.encoder\.layer\.0\.output\.dense": 5}},
    ),
    "an anchored part, which matches nothing": ("roberta", {"alpha_pattern": {"^output.dense": 5}}),
    "a name without the model's own": (
        "roberta",
        {"alpha_pattern": {"encoder.layer.1.attention.self.query": 5}},
    ),
    "alternatives": (
        "roberta",
        {"alpha_pattern": {r"(query|layer\.0\..*dense)": 3, r"valu.": 11}},
    ),
    "a class of digits": ("roberta", {"rank_pattern": {r"layer\.[1-9]\..*": 2}}),
    "half a word, which matches nothing": ("roberta", {"alpha_pattern": {"uery": 5, "dens": 7}}),
    "some layers by number": (
        "roberta",
        {
            "layers_to_transform": [1],
            "layers_pattern": "layer",
            "alpha_pattern": {"layer.1.output.dense": 9},
        },
    ),
    "targets by a regular expression": (
        "roberta",
        {"target_modules": r".*attention\.(self\.(query|key)|output\.dense)", "use_rslora": True},
    ),
    "all linear layers": (
        "roberta",
        {"target_modules": "all-linear", "alpha_pattern": {"intermediate.dense": 1}},
    ),
    "but some": (
        "roberta",
        {
            "exclude_modules": r".*layer\.0\.attention\.output\.dense",
            "rank_pattern": {"layer.0.*": 7},
        },
    ),
    "alpha zero somewhere": ("roberta", {"alpha_pattern": {"query": 0, "output.dense": 9}}),
    "alpha zero at the widest": (
        "roberta",
        {"rank_pattern": {"query": 8}, "alpha_pattern": {"query": 0}},
    ),
    "alpha zero everywhere": ("roberta", {"lora_alpha": 0}),
    "alpha below zero": ("roberta", {"lora_alpha": -3, "alpha_pattern": {"query": 2.5}}),
    "eva": ("roberta", {"init_lora_weights": "eva", "rank_pattern": {"layer.0.*query": 2}}),
    "gaussian": ("roberta", {"init_lora_weights": "gaussian"}),
    "orthogonal": ("roberta", {"init_lora_weights": "orthogonal"}),
    "mica": ("roberta", {"init_lora_weights": "mica"}),
    "BERT": ("bert", {"alpha_pattern": PARTIAL, "rank_pattern": {"value": 1}}),
    "BERT, DoRA": ("bert", {"alpha_pattern": {r"layer\.1\..*": 30}, "use_dora": True}),
    "GPT-2": ("gpt2", {"alpha_pattern": {"attn.c_proj": 32}}),
    "GPT-2, DoRA": ("gpt2", {"alpha_pattern": {"attn.c_proj": 32}, "use_dora": True}),
    "GPT-2, the fused projection": (
        "gpt2",
        {"alpha_pattern": {"h.1.attn.c_attn": 3}, "rank_pattern": {r"h\.0\.attn\.c_attn": 6}},
    ),
    "GPT-2, the fused projection, rsLoRA": (
        "gpt2",
        {"rank_pattern": {"attn.c_attn": 2, "mlp.c_proj": 3}, "use_rslora": True},
    ),
}
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def of_peft(base: Path, family: str, settings: dict) -> peft.PeftModel:
    """PEFT's model on a classifier of transformers, all that trains away from its start."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    if family == "gpt2":
        model.config.pad_token_id = 0
        settings = {"fan_in_fan_out": True, "target_modules": GPT2} | settings
    defaults = {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "target_modules": ENCODER}
    theirs = peft.get_peft_model(model, peft.LoraConfig(**(defaults | settings))).eval()
    nudge(theirs)
    return theirs


@torch.no_grad()
def ours(folder: Path, made: Case) -> torch.Tensor:
    return saved.load(read_peft(folder, made.run.model)).model(made.batch)


@pytest.mark.filterwarnings("ignore:The following")
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_of_peft_gives_the_same_logits_here(
    case: Callable[..., Case], tiny: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    family, settings = ADAPTERS[name]
    made = case("lora", family=family)
    of_peft(tiny(family), family, settings).save_pretrained(tmp_path)
    # Read back, since PEFT writes its settings in alphabetical order, and the first pattern counts.
    theirs = read_by_peft(tmp_path, tiny(family), pad=0 if family == "gpt2" else None)
    expected = outputs(theirs, made, family)
    found = ours(tmp_path, made)
    print(f"{name}: largest difference {float((found - expected).abs().max()):.1e}")
    torch.testing.assert_close(found, expected, **CLOSE)
    if not settings.get("use_dora"):  # looked at alone, the factors have the same scales
        scales = {
            n: m.scaling["default"] for n, m in theirs.named_modules() if hasattr(m, "lora_alpha")
        }
        stored = load_file(tmp_path / "adapter_model.safetensors")
        for layer, (B, _) in peft_factors(tmp_path).items():
            full = next(n for n in scales if n.endswith(f".{layer}"))
            factor = stored[f"{full}.lora_B.weight"].double()
            torch.testing.assert_close(
                B[:, : factor.shape[1]], scales[full] * factor, rtol=1e-5, atol=1e-7
            )


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize("family", ["roberta", "bert"])
def test_an_adapter_that_moved_its_base_is_read_as_peft_converts_it(
    case: Callable[..., Case],
    tiny: Callable[[str], Path],
    tmp_path: Path,
    start: str,
    family: str,
) -> None:
    made = case("lora", family=family)
    model = AutoModelForSequenceClassification.from_pretrained(tiny(family), num_labels=2)
    config = peft.LoraConfig(
        task_type="SEQ_CLS", r=4, lora_alpha=8, target_modules=ENCODER, init_lora_weights=start
    )
    theirs = peft.get_peft_model(model, config).eval()
    theirs.peft_config["default"].init_lora_weights = True  # as PEFT asks for, before it trains
    theirs.save_pretrained(tmp_path / "start")
    theirs.peft_config["default"].init_lora_weights = start
    nudge(theirs)
    expected = outputs(theirs, made, family)
    theirs.save_pretrained(tmp_path / "moved")
    with pytest.raises(ValueError, match="moves the base"):
        read_peft(tmp_path / "moved", made.run.model)
    theirs.save_pretrained(
        tmp_path / "converted", path_initial_model_for_weight_conversion=tmp_path / "start"
    )
    # PEFT leaves the classifier out there, which is none of the adapter's.
    path = tmp_path / "converted" / "adapter_model.safetensors"
    moved = load_file(tmp_path / "moved" / "adapter_model.safetensors")
    head = {key: tensor for key, tensor in moved.items() if ".lora_" not in key}
    save_file(load_file(path) | head, path)
    found = ours(tmp_path / "converted", made)
    print(f"{family}, {start}: largest difference {float((found - expected).abs().max()):.1e}")
    torch.testing.assert_close(found, expected, **CLOSE)


def test_patterns_of_a_backbone_alone_are_matched_by_its_own_names(
    case: Callable[..., Case], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    made = case("lora")
    theirs = of_peft(
        tiny("roberta"),
        "roberta",
        {"alpha_pattern": {"roberta.encoder.layer.0.output.dense": 32}},
    )
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = {key.replace("roberta.", ""): t for key, t in load_file(path).items()}
    save_file({k: t for k, t in tensors.items() if "classifier" not in k}, path)
    adapter = read_peft(tmp_path, made.run.model)
    layer = dict(adapter_layers(saved.load(adapter).model.backbone))["encoder.layer.0.output.dense"]
    B = tensors["base_model.model.encoder.layer.0.output.dense.lora_B.weight"]
    # The name has no such beginning here, so the common alpha holds.
    torch.testing.assert_close(layer.scale * layer.B, 8 / 4 * B)


FAULTS = {
    "a pattern that is none": (
        {"alpha_pattern": {"layer.(0": 3}},
        r"adapter_config.json: 'layer\.\(0' is no regular",
    ),
    "a rank that is not the tensors'": ({"r": 5}, r"adapter_config.json: r is 5.* rank above 4"),
    "the rank of a pattern": ({"rank_pattern": {"value": 3}}, r"rank 3 .*value.* rank 4"),
    "a moved base": (
        {"init_lora_weights": "pissa"},
        "moves the base.*path_initial_model_for_weight",
    ),
    "a moved base, in capitals": ({"init_lora_weights": "OLoRA"}, "moves the base"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_peft_would_not_load_either_is_refused(
    case: Callable[..., Case], tiny: Callable[[str], Path], tmp_path: Path, fault: str
) -> None:
    of_peft(tiny("roberta"), "roberta", {}).save_pretrained(tmp_path)
    about = tmp_path / "adapter_config.json"
    settings, message = FAULTS[fault]
    about.write_text(json.dumps(json.loads(about.read_text()) | settings))
    with pytest.raises(ValueError, match=message):
        read_peft(tmp_path, case("lora").run.model)


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_tensors_of_half_precision_are_scaled_in_float32(
    case: Callable[..., Case],
    tiny: Callable[[str], Path],
    tmp_path: Path,
    settings: dict,
    dtype: torch.dtype,
) -> None:
    made = case("lora")
    ranks = {"rank_pattern": {"query": 7, "layer.0.output.dense": 3}}
    of_peft(tiny("roberta"), "roberta", {"lora_alpha": 11, **ranks, **settings}).save_pretrained(
        tmp_path
    )
    path = tmp_path / "adapter_model.safetensors"
    save_file({key: tensor.to(dtype) for key, tensor in load_file(path).items()}, path)
    base = AutoModelForSequenceClassification.from_pretrained(tiny("roberta"), num_labels=2)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert (
        theirs.base_model.model.roberta.encoder.layer[
            0
        ].attention.self.query.lora_A.default.weight.dtype
        == torch.float32
    )
    torch.testing.assert_close(
        ours(tmp_path, made), outputs(theirs, made, "roberta"), rtol=1e-5, atol=2e-6
    )
    adapter = read_peft(tmp_path, made.run.model)
    layer = dict(adapter_layers(saved.load(adapter).model.backbone))["encoder.layer.0.output.dense"]
    stored = load_file(path)
    name = "base_model.model.roberta.encoder.layer.0.output.dense.lora_{}.weight"
    exact = 11 / 3 * stored[name.format("B")].double() @ stored[name.format("A")].double()
    torch.testing.assert_close(
        layer.scale * layer.B.double() @ layer.A.double(), exact, rtol=1e-5, atol=1e-7
    )
