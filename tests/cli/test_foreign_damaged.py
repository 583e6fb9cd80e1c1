"""Other libraries' files that are wrong: one sentence with the file and what is wrong in it."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import keep, trained_case
from conftest import Case
from safetensors.torch import load_file, save_file

from analysis import geometry
from experiments.adapters import saved
from experiments.adapters.factors import loralib_factors, peft_factors
from experiments.adapters.loralib_format import read_loralib
from experiments.adapters.peft_format import CONFIG, TENSORS, read_peft, write_peft
from experiments.models.pretrained import Pretrained

Given = tuple[Path, Pretrained]


@pytest.fixture
def given(case: Callable[..., Case], tmp_path: Path) -> Given:
    """A folder of PEFT's, and the base that it is of."""
    made = trained_case(case, "lora", "roberta", "fp32").case
    write_peft(saved.read_adapter(keep(made, tmp_path / "ours")), tmp_path / "peft")
    return tmp_path / "peft", made.run.model


def refused(folder: Path, base: Pretrained, file: str, said: str) -> None:
    """Both ways of reading a folder say the same of it."""
    for read in (lambda: read_peft(folder, base), lambda: geometry.changes(folder)):
        with pytest.raises(ValueError) as caught:
            read()
        message = str(caught.value)
        assert message.startswith(f"{folder / file}") and said in message, message
        assert "\n" not in message


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "no alpha": ({"lora_alpha": ...}, "has no 'lora_alpha'"),
    "no rank": ({"r": ...}, "has no 'r'"),
    "no type": ({"peft_type": ...}, "has no 'peft_type'"),
    "a type that is none": ({"peft_type": 3}, "peft_type must be a text, got 3"),
    "rank 0": ({"r": 0}, "r must be positive, got 0"),
    "a rank of another kind": ({"r": "8"}, "r must be a whole number, got '8'"),
    "a rank of null": ({"r": None}, "r must be a whole number, got None"),
    "a rank without end": ({"r": 10**9}, "r is 1000000000, and no factor has a rank above 8"),
    "a rank too small": ({"r": 3}, "r is 3, and there are factors of rank 8"),
    "alpha as text": ({"lora_alpha": "16"}, "lora_alpha must be"),
    "alpha that is no number": ({"lora_alpha": float("nan")}, "lora_alpha must be a finite"),
    "a pattern that is a list": ({"alpha_pattern": []}, "alpha_pattern must be an object, got []"),
    "a pattern of texts": ({"alpha_pattern": {"query": "x"}}, "alpha_pattern.query must be"),
    "a pattern of rank 0": ({"rank_pattern": {"query": 0}}, "rank_pattern.query must be positive"),
    "dropout of all": ({"lora_dropout": 1.0}, "lora_dropout must lie in [0, 1), got 1.0"),
    "a pattern that is none": ({"alpha_pattern": {"(": 3}}, "'(' is no regular expression"),
}


@pytest.mark.parametrize("what", CONFIGS)
def test_a_wrong_config_is_named(what: str, given: Given) -> None:
    folder, base = given
    changes, said = CONFIGS[what]
    config = json.loads((folder / CONFIG).read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not ...}
    (folder / CONFIG).write_text(json.dumps(kept))
    refused(folder, base, CONFIG, said)


@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "((a|a)*)*q", "(x+x+)+y"])
def test_a_pattern_without_end_is_given_up(pattern: str, given: Given) -> None:
    folder, base = given
    tensors = load_file(folder / TENSORS)
    config = json.loads((folder / CONFIG).read_text())
    long = "a" * 60 + "x" * 40
    config["alpha_pattern"] = {pattern: 3.0}
    (folder / CONFIG).write_text(json.dumps(config))
    save_file(
        {key.replace("layer.0.attention", f"layer.0.{long}"): t for key, t in tensors.items()},
        folder / TENSORS,
    )
    started = time.monotonic()
    with pytest.raises(ValueError, match="adapter_"):
        read_peft(folder, base)
    try:
        geometry.changes(folder)
    except ValueError as error:
        assert "takes longer than" in str(error)
    assert time.monotonic() - started < 10


def harmed(tensors: dict[str, torch.Tensor], what: str) -> dict[str, torch.Tensor]:
    a = next(key for key in tensors if "lora_A" in key)
    b = a.replace("lora_A", "lora_B")
    changes = {
        "not a number": {a: torch.full_like(tensors[a], float("nan"))},
        "infinite": {b: torch.full_like(tensors[b], float("inf"))},
        "whole numbers": {a: tensors[a].to(torch.int32)},
        "a vector": {a: tensors[a].reshape(-1)},
        "rank 0": {a: tensors[a][:0], b: tensors[b][:, :0].contiguous()},
        "factors that fit no other": {b: tensors[b][:, :5].contiguous()},
    }
    return tensors | changes[what]


TENSOR = {
    "not a number": "holds values that are no finite numbers",
    "infinite": "holds values that are no finite numbers",
    "whole numbers": "holds torch.int32, and no real numbers",
    "a vector": "and a factor is a matrix",
    "rank 0": "and a factor is a matrix",
    "factors that fit no other": "fit no other: A has shape [8, 32], and B [32, 5]",
}


@pytest.mark.parametrize("what", TENSOR)
def test_wrong_tensors_are_named(what: str, given: Given) -> None:
    folder, base = given
    save_file(harmed(load_file(folder / TENSORS), what), folder / TENSORS)
    refused(folder, base, TENSORS, TENSOR[what])


@pytest.mark.parametrize("what", TENSOR)
def test_wrong_tensors_of_loralib_are_named(what: str, given: Given, tmp_path: Path) -> None:
    folder, base = given
    tensors = load_file(folder / TENSORS)
    theirs = {
        key.removeprefix("base_model.model.").removesuffix(".weight"): tensor
        for key, tensor in harmed(tensors, what).items()
        if "lora_" in key
    }
    path = tmp_path / "lora.bin"
    torch.save(theirs, path)
    for read in (lambda: read_loralib(path, base, 16.0), lambda: loralib_factors(path, 16.0)):
        with pytest.raises(ValueError) as caught:
            read()
        assert str(caught.value).startswith(f"{path}: ") and TENSOR[what] in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["forward", "a.forward.b", "training", "a..b", "parameters", "_modules", "a.T_destination"],
)
def test_a_layer_of_any_name_is_a_layer_or_refused(name: str, given: Given) -> None:
    folder, _ = given
    tensors = load_file(folder / TENSORS)
    a = next(key for key in tensors if "lora_A" in key)
    pair = {f"base_model.model.{name}.lora_{s}.weight": tensors[a.replace("lora_A", f"lora_{s}")]
            for s in "AB"}  # fmt: skip
    save_file(pair, folder / TENSORS)
    with pytest.raises(ValueError, match=r"is no name of a layer: it has '"):
        geometry.changes(folder)


def test_small_factors_of_a_huge_matrix_take_no_memory(given: Given) -> None:
    folder, _ = given
    wide = {"A": torch.ones(1, 600_000), "B": torch.ones(600_000, 1)}  # 2.6 TiB in float64
    save_file({f"base_model.model.layer.lora_{s}.weight": t for s, t in wide.items()},
              folder / TENSORS)  # fmt: skip
    config = json.loads((folder / CONFIG).read_text()) | {"r": 1}
    (folder / CONFIG).write_text(json.dumps(config))
    (pair,) = peft_factors(folder).values()
    assert [list(factor.shape) for factor in pair] == [[600_000, 1], [1, 600_000]]
