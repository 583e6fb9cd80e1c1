"""Heads of classifiers that PEFT adapted: what is in the file, in the base, and in neither."""

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
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from experiments.adapters import saved
from experiments.adapters.merged import write_merged
from experiments.adapters.peft_format import read_peft, write_peft

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
ALL = ["query", "value", "dense"]
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"], "task_type": "SEQ_CLS"}
HEADS: dict[str, tuple[str, Callable[[], peft.PeftConfig]]] = {
    "the pooler is the base's": ("bert", lambda: peft.LoraConfig(**LORA)),
    "it is adapted": ("bert", lambda: peft.LoraConfig(**LORA | {"target_modules": ALL})),
    "with an alpha of its own": (
        "bert",
        lambda: peft.LoraConfig(
            **LORA | {"target_modules": "all-linear", "alpha_pattern": {"pooler.dense": 3}}
        ),
    ),
    "by DoRA": (
        "bert",
        lambda: peft.LoraConfig(
            **LORA | {"target_modules": ALL, "rank_pattern": {"bert.pooler.dense": 2}},
            use_dora=True,
        ),
    ),
    "by AdaLoRA": (
        "bert",
        lambda: peft.AdaLoraConfig(
            init_r=4, target_r=2, total_step=20, target_modules=ALL, task_type="SEQ_CLS"
        ),
    ),
    "it is trained whole": (
        "bert",
        lambda: peft.LoraConfig(**LORA, modules_to_save=["classifier", "pooler"]),
    ),
    "RoBERTa": ("roberta", lambda: peft.LoraConfig(**LORA | {"target_modules": ALL})),
    "GPT-2": (
        "gpt2",
        lambda: peft.LoraConfig(**LORA | {"target_modules": "all-linear"}, fan_in_fan_out=True),
    ),
}


def of_peft(base: Path, config: peft.PeftConfig, folder: Path, pad: int | None = None) -> None:
    """What PEFT writes for a classifier on this base."""
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model.config.pad_token_id = pad
    theirs = peft.get_peft_model(model, config)
    nudge(theirs)
    theirs.save_pretrained(folder)


@pytest.mark.parametrize("name", HEADS)
def test_a_classifier_of_peft_is_imported_merged_and_exported(
    case: Callable[..., Case], tiny: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    family, config = HEADS[name]
    made, pad = case("lora", family=family), 0 if family == "gpt2" else None
    of_peft(tiny(family), config(), tmp_path / "theirs", pad)
    theirs = read_by_peft(tmp_path / "theirs", tiny(family), pad)
    expected = outputs(theirs, made, family)
    saved.write(read_peft(tmp_path / "theirs", made.run.model), tmp_path / "ours")
    adapter = saved.read_adapter(tmp_path / "ours")
    with torch.no_grad():
        torch.testing.assert_close(saved.load(adapter).model(made.batch), expected, **CLOSE)
    write_merged(adapter, tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(outputs(merged, made, family), expected, **CLOSE)
    if name != "by AdaLoRA":  # whose form in PEFT is a plain LoRA
        write_peft(adapter, tmp_path / "back")
        back = read_by_peft(tmp_path / "back", tiny(family), pad)
        torch.testing.assert_close(outputs(back, made, family), expected, **CLOSE)


def without(folder: Path, out: Path, part: str) -> Path:
    """A copy of a model's folder without some of its tensors."""
    out.mkdir()
    for path in folder.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    tensors = load_file(out / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if part not in name}
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_a_pooler_that_is_nowhere_is_the_reason(
    tiny_run: Callable, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    bare = without(tiny("bert"), tmp_path / "bare", "pooler")
    of_peft(bare, peft.LoraConfig(**LORA), tmp_path / "peft")
    model = tiny_run("lora", f"model.path={bare}", family="bert").model
    with pytest.raises(ValueError, match=r"bert\.pooler\.dense is neither in this file nor in"):
        read_peft(tmp_path / "peft", model)


def test_the_head_of_a_base_that_is_a_classifier_is_used(
    case: Callable, tiny_run: Callable, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    base = tmp_path / "base"
    for path in tiny("roberta").iterdir():
        base.mkdir(exist_ok=True)
        (base / path.name).write_bytes(path.read_bytes())
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=3).save_pretrained(base)
    config = peft.LoraConfig(r=4, target_modules=["query", "classifier.dense"])
    model = AutoModelForSequenceClassification.from_pretrained(base)
    theirs = peft.get_peft_model(model, config).eval()
    nudge(theirs)
    theirs.save_pretrained(tmp_path / "peft")
    made = case("lora")
    expected = outputs(theirs, made, "roberta")
    adapter = read_peft(tmp_path / "peft", tiny_run("lora", f"model.path={base}").model)
    assert adapter.num_outputs == 3
    with torch.no_grad():
        torch.testing.assert_close(saved.load(adapter).model(made.batch), expected, **CLOSE)


def change(folder: Path, fault: str) -> None:
    """Make an adapter of PEFT's one that cannot be read."""
    about, path = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    config, tensors = json.loads(about.read_text()), load_file(path)
    root = "base_model.model."
    if fault == "another task":
        config["task_type"] = "TOKEN_CLS"
    elif fault == "another class":
        config |= {"task_type": None}
        config["auto_mapping"] = {"base_model_class": "BertForMultipleChoice"}
    elif fault == "another width":
        tensors[f"{root}classifier.bias"] = torch.zeros(3)
    elif fault == "a whole layer":
        tensors[f"{root}bert.encoder.layer.0.attention.self.query.weight"] = torch.zeros(32, 32)
    elif fault == "a whole norm":
        tensors[f"{root}bert.encoder.layer.0.output.LayerNorm.weight"] = torch.zeros(32)
    elif fault == "an embedding":
        name = f"{root}bert.embeddings.word_embeddings.lora_embedding_A"
        tensors[name] = torch.zeros(4, 32)
    elif fault == "a backbone's pooler":
        tensors = {k.replace("bert.", ""): t for k, t in tensors.items() if "classifier" not in k}
        tensors[f"{root}pooler.dense.lora_A.weight"] = torch.zeros(4, 32)
    about.write_text(json.dumps(config))
    save_file(tensors, path)


REASONS = {
    "another task": "task_type='TOKEN_CLS', and only heads of ForSequenceClassification",
    "another class": "base_model_class='BertForMultipleChoice', and only heads of",
    "another width": "the classifier's head does not fit: Tensor 'out_proj.bias' has shape",
    "a whole layer": "trained whole",
    "a whole norm": "trained whole",
    "an embedding": "embeddings.word_embeddings is of type Embedding: only adapters of linear",
    "a backbone's pooler": "a model without a classifier has no pooler here",
}


@pytest.mark.parametrize("fault", REASONS)
def test_a_head_that_is_not_read_is_refused_for_its_reason(
    case: Callable[..., Case], tiny: Callable[[str], Path], tmp_path: Path, fault: str
) -> None:
    of_peft(tiny("bert"), peft.LoraConfig(**LORA), tmp_path)
    change(tmp_path, fault)
    with pytest.raises(ValueError, match=REASONS[fault]):
        read_peft(tmp_path, case("lora", family="bert").run.model)


def test_shared_projections_that_do_not_fit_the_head_alone_are_the_reason(
    case: Callable[..., Case], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    of_peft(tiny("bert"), peft.VeraConfig(r=4, target_modules=ALL, task_type="SEQ_CLS"), tmp_path)
    with pytest.raises(ValueError, match=r"adapts bert\.pooler\.dense, which is part of the head"):
        read_peft(tmp_path, case("lora", family="bert").run.model)


def test_a_classifier_of_single_tokens_is_not_taken_for_one_of_texts(
    case: Callable[..., Case], tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    model = AutoModelForTokenClassification.from_pretrained(tiny("bert"), num_labels=2)
    config = peft.LoraConfig(r=4, target_modules=["query"], modules_to_save=["classifier"])
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertForTokenClassification"):
        read_peft(tmp_path, case("lora", family="bert").run.model)
