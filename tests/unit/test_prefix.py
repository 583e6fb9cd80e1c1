"""States of the frozen blocks: kept once, equal to those computed, and never taken for others."""

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from experiments.disk.userfolders import own_cache
from experiments.running.job import PreparedRun, prepare_run
from experiments.running.runner import execute
from experiments.settings.config import Run
from experiments.training.loop import TrainingListener, fit
from experiments.training.prefix import with_prefix

UPPER = ("model.dropout=0.0", "variant.targets=[layer.1.attention.self.query]")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


class Losses(TrainingListener):
    def __init__(self) -> None:
        self.values: list[float] = []

    def after(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        self.values.append(float(loss))


def begin(run: Run) -> PreparedRun:
    return prepare_run(run, run.task.load(run.data))


def files() -> list[Path]:
    return sorted(own_cache("prefix", "the states").glob("*.npy"))


def losses(run: Run) -> list[float]:
    job, listener = begin(run), Losses()
    fit(job.loaded.model, job.run.variant, job.batches, replace(job.plan, total=5), listener)
    return listener.values


@pytest.mark.parametrize("family", ["roberta", "gpt2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_from_kept_states_is_the_run_without_dropout_below(
    tiny_run: Callable[..., Run], family: str, precision: str
) -> None:
    targets = "[h.1.attn.c_attn.q]" if family == "gpt2" else "[layer.1.attention.self.query]"
    options = ("model.dropout=0.0", f"train.precision={precision}", f"variant.targets={targets}")
    plain = tiny_run("lora", *options, family=family)
    kept = tiny_run("lora", *options, "train.prefix_cache=true", family=family)
    expected = losses(plain)
    assert losses(kept) == pytest.approx(expected, rel=1e-5)
    (file,) = files()
    before = file.stat().st_mtime_ns
    assert losses(kept) == pytest.approx(expected, rel=1e-5)  # from the file this time
    assert file.stat().st_mtime_ns == before


def test_one_file_serves_other_rates_and_methods_and_no_other_weights_or_data(
    tiny_run: Callable[..., Run],
) -> None:
    for variant, more in (
        ("lora", ()), ("lora", ("variant.lr=0.5", "seed=3")), ("dora", ()),
    ):  # fmt: skip
        begin(tiny_run(variant, *UPPER, "train.prefix_cache=true", *more))
    assert len(files()) == 1
    job = begin(tiny_run("lora", *UPPER))
    job.loaded.model.backbone.encoder.layer[0].output.dense.weight.data[0, 0] += 1e-3
    with_prefix(job.examples, job.loaded.model)
    assert len(files()) == 2
    job.loaded.model.backbone.config.layer_norm_eps = 1e-3
    with_prefix(job.examples, job.loaded.model)
    assert len(files()) == 3
    begin(tiny_run("lora", *UPPER, "train.prefix_cache=true", "train.examples=20"))
    assert len(files()) == 4


def test_what_it_cannot_serve_is_said(tiny_run: Callable[..., Run]) -> None:
    with pytest.raises(ValueError, match="lowest block"):
        begin(tiny_run("lora", "train.prefix_cache=true"))
    with pytest.raises(ValueError, match=r"compute\.engine=packed"):
        tiny_run("lora", *UPPER, "train.prefix_cache=true", "compute.engine=transformers")
    with pytest.raises(ValueError, match=r"compute\.recompute_mlp needs compute\.engine=packed"):
        tiny_run("lora", "compute.recompute_mlp=true", "compute.engine=transformers")


def test_a_run_records_what_was_kept(tiny_run: Callable[..., Run], tmp_path: Path) -> None:
    run = tiny_run("lora_drop", *UPPER, "train.prefix_cache=true", "variant.steps=2")
    result = execute(run, tmp_path / "run")
    assert result.cost["prefix"]["blocks"] == 1 and result.cost["prefix"]["seconds"] > 0


def kept(tiny_run: Callable[..., Run]) -> tuple[Run, Path]:
    run = tiny_run("lora", *UPPER, "train.prefix_cache=true")
    begin(run)
    (file,) = files()
    return run, file


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARM: dict[str, Callable[[Path], object]] = {
    "one bit": flip,
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-8]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "empty": lambda path: path.write_bytes(b""),
    "junk": lambda path: path.write_bytes(os.urandom(path.stat().st_size)),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"x": 1})),
    "gone": lambda path: path.unlink(),
    "a pipe": pipe,
    "a folder": folder_instead,
    "no checksum": lambda path: path.with_suffix(".json").unlink(),
    "a checksum that is none": lambda path: path.with_suffix(".json").write_text("[]"),
    "another checksum": lambda path: path.with_suffix(".json").write_text('{"bytes": 3}'),
}


@pytest.mark.parametrize("how", HARM)
def test_kept_states_that_were_damaged_are_computed_anew(
    how: str, tiny_run: Callable[..., Run], caplog: pytest.LogCaptureFixture
) -> None:
    run, file = kept(tiny_run)
    before, expected = file.read_bytes(), losses(run)
    HARM[how](file)
    assert losses(run) == expected
    assert file.read_bytes() == before
    (said,) = caplog.messages
    assert said.startswith(str(file)[:-4]) and said.endswith("Its states are computed anew.")


def test_a_disk_without_room_for_states_is_one_sentence(
    tiny_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match=r"\.npy could not be written: .*No space left on device"):
        begin(tiny_run("lora", *UPPER, "train.prefix_cache=true"))
    kept = own_cache("prefix", "the states")
    assert not [*kept.glob("*.npy"), *kept.glob(".*.unfinished")]


def test_room_is_taken_before_anything_is_mapped(tiny_run: Callable[..., Run]) -> None:
    _, file = kept(tiny_run)
    assert file.stat().st_blocks * 512 >= file.stat().st_size
