"""Readers of stored files before whatever may lie there: a value, or one sentence on the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from stored_runs import store

from analysis.report import material
from experiments.adapters import peft_format
from experiments.adapters.saved import read_adapter
from experiments.disk.files import read_tensors, write_tensors
from experiments.stored import adapter, result, study, summary

FUZZ = settings(
    max_examples=40, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
ODD = ["${oc.env:HOME}", "\x1b[31m", "../..", "0"]
TEXTS = st.one_of(st.text(max_size=8), st.sampled_from(ODD))
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), TEXTS, st.just(10**400), st.just(-1)
)  # fmt: skip
VALUES = st.recursive(
    LEAVES, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(TEXTS, inside, max_size=3)
)
ROOT = Path(__file__).parents[2]


def right(share: float) -> np.ndarray:
    """Which of a few examples a run got right."""
    return np.arange(40) < share * 40


def places(node: Any, path: tuple = ()) -> list[tuple]:
    """Where there is a value in plain data."""
    found = [path] if path else []
    items = node.items() if isinstance(node, dict) else enumerate(node[:2])
    for key, item in items:
        found += places(item, (*path, key)) if isinstance(item, dict | list) else [(*path, key)]
    return found


@st.composite
def damaged(draw: st.DrawFn, content: dict[str, Any]) -> str:
    """JSON with one to three values replaced, taken away or added, and no checksum."""
    content = json.loads(json.dumps(content))
    content.pop("sha256", None)
    for _ in range(draw(st.integers(1, 3))):
        *inner, last = draw(st.sampled_from(places(content) or [("more",)]))
        node = content
        for key in inner:
            node = node[key]
        if draw(st.booleans()) or isinstance(node, list):
            node[last] = draw(VALUES)
        else:
            del node[last]
            node[draw(TEXTS)] = draw(VALUES)
    return json.dumps(content)


def check(read: Callable[[], Any], path: Path) -> None:
    """A reader ends, or says in one line what is wrong with the file."""
    try:
        read()
    except ValueError as error:
        assert str(path.name) in str(error) or str(path.parent) in str(error)
        assert "\n" not in str(error)


RUN = ROOT / "results/minilm_glue"
CONTENTS = {
    result.NAME: next((RUN / "local").rglob("result.json")),
    summary.NAME: RUN / "studies/minilm_glue/summary.json",
    study.NAME: RUN / "studies/minilm_glue/study.json",
}
READERS: dict[str, Callable[[Path], Any]] = {
    result.NAME: result.read, summary.NAME: summary.read, study.NAME: lambda p: study.read(p, False)
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@FUZZ
@given(data=st.data())
def test_records_with_any_values(name: str, data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / name
    text = data.draw(damaged(json.loads(CONTENTS[name].read_text())))
    path.write_text(text, encoding="utf-8", errors="surrogatepass")
    check(lambda: READERS[name](path), path)


@pytest.mark.parametrize("name", READERS)
@FUZZ
@given(text=st.one_of(st.binary(max_size=60), VALUES.map(lambda v: json.dumps(v).encode())))
def test_files_that_are_no_records(name: str, text: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(text)
    check(lambda: READERS[name](path), path)


@FUZZ
@given(data=st.data())
def test_reports_of_records_with_any_values(data: st.DataObject, tmp_path: Path) -> None:
    """What a reader takes can be gathered; the whole run beside it stays."""
    folder = tmp_path / "runs"
    shutil.rmtree(folder, ignore_errors=True)
    path = store(folder, "lora", 0, right(0.8)) / result.NAME
    store(folder, "dora", 0, right(0.7))
    path.write_text(data.draw(damaged(json.loads(path.read_text()))))
    known = material.gather(folder)
    assert "dora" in {name.partition(" ")[0] for name in known.runs["method"]}


ABOUT = {
    "format": 2, "variant": {"_kind_": "lora", "rank": 2, "alpha": 2.0, "lr": 1e-3,
    "dropout": 0.0, "targets": ["query"]}, "model": {"_kind_": "pretrained", "name": "m",
    "path": "m"}, "weights": "0" * 64, "precision": "fp32", "head": {"outputs": 2,
    "names": ["a", "b"]}, "tensors": {},
}  # fmt: skip


@FUZZ
@given(data=st.data())
def test_descriptions_of_adapters_with_any_values(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / adapter.NAME
    path.write_text(data.draw(damaged(ABOUT)))
    check(lambda: read_adapter(tmp_path), path)


MODEL = "adapter_model.safetensors"
PEFT = {
    "peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["query"], "bias": "none",
    "base_model_name_or_path": "m", "rank_pattern": {"a": 2}, "alpha_pattern": {"a": 2},
    "use_rslora": False, "use_dora": False, "task_type": "SEQ_CLS", "fan_in_fan_out": False,
}  # fmt: skip


@FUZZ
@given(data=st.data())
def test_configs_of_peft_with_any_values(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_text(data.draw(damaged(PEFT)))
    save_file({"base_model.model.query.lora_A.weight": torch.ones(2, 4)}, tmp_path / MODEL)
    check(lambda: peft_format.read_files(tmp_path), path)


@FUZZ
@given(data=st.binary(max_size=400), keep=st.integers(0, 3000))
def test_predictions_of_any_bytes(data: bytes, keep: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    if not folder.exists():
        folder = store(tmp_path / "run", "lora", 0, right(0.8))
        shutil.copy(folder / result.PREDICTIONS, tmp_path / "whole")
    path = tmp_path / result.PREDICTIONS
    path.write_bytes((tmp_path / "whole").read_bytes()[:keep] + data)
    check(lambda: result.read_predictions(path), path)


@FUZZ
@given(place=st.floats(0, 1), data=st.binary(min_size=1, max_size=9))
def test_tensors_of_any_bytes(place: float, data: bytes, tmp_path: Path) -> None:
    """A checkpoint and an adapter are read by one function, which knows what was written."""
    path, tensors = tmp_path / "checkpoint.safetensors", {"A": torch.ones(3, 2)}
    write_tensors(path, tensors, {"about": "{}"})
    whole = bytearray(path.read_bytes())
    at = int(place * (len(whole) - 1))
    whole[at : at + len(data)] = data
    path.write_bytes(whole)
    try:
        about, found = read_tensors(path, "begin anew")
    except ValueError as error:
        assert str(path) in str(error) and "\n" not in str(error)
    else:
        assert about["about"] == "{}" and torch.equal(found["A"], tensors["A"])
