"""What readers of records hold against each other, beside the type of each value."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stored_runs import store

from analysis.report import material
from experiments.settings.commandline import sentence
from experiments.stored import result, summary
from experiments.study import summary as studies

RIGHT = np.arange(40) < 30


def test_a_summarys_reader_knows_every_field_that_is_written() -> None:
    assert set(summary.Row.__annotations__) == {field.name for field in fields(studies.Row)}


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("primary", "metric", "x", "primary.metric is 'x', and scores has none of that name"),
        ("primary", "metric", "", "primary.metric is '', and scores has none of that name"),
        ("cost", "seconds", {"train": 1.0, "evaluate": "x"}, "cost.seconds.evaluate must be a num"),
        ("cost", "processor_seconds", {"train": 1.0, "a\nb": None}, r"cost.processor_seconds.a\nb"),
    ],
)
def test_values_that_do_not_fit_are_named(
    section: str, key: str, value: Any, said: str, tmp_path: Path
) -> None:
    path = store(tmp_path, "lora", 0, RIGHT) / result.NAME
    content = json.loads(path.read_text())
    content.pop("sha256", None)
    content[section][key] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError) as caught:
        result.read(path)
    assert str(path) in str(caught.value) and said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trial_with_damaged_predictions_is_left_out(tmp_path: Path) -> None:
    store(tmp_path, "lora", 0, RIGHT)
    trial = store(tmp_path, "lora", 1, RIGHT, config={"protocol": {"stage": "select"}})
    assert len(material.gather(tmp_path).trials) == 1
    path = trial / result.PREDICTIONS
    path.write_bytes(path.read_bytes()[:-9])
    known = material.gather(tmp_path)
    assert len(known.trials) == 0 and str(path) in known.left_out[0]
    path.unlink()  # as where a study is published
    assert len(material.gather(tmp_path).trials) == 1


def test_too_little_memory_is_one_line() -> None:
    assert sentence(MemoryError("\n    full_key: hydra")) == (
        "There is too little memory for this run."
    )
