"""Rows held out of the train split, and the curve that is measured on them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from runs import assert_equal_runs, killed_after

from analysis.report.learning import mean_curves, quantities
from experiments.results.identity import identity
from experiments.running import validation
from experiments.running.job import prepare_run
from experiments.running.runner import execute
from experiments.running.validation import hold_out, is_due
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, describe, read
from experiments.stored import history
from experiments.stored.roles import is_compared

HELD = ("train.held_out=16", "record.log_every=1", "train.batch_size=8")


def test_without_held_out_rows_a_run_is_what_it_was(tiny_run: Callable[..., Run]) -> None:
    plain, held = (identity(describe(tiny_run("lora", *more))) for more in ((), HELD[:1]))
    assert "held_out" not in plain["train"] and held["train"]["held_out"] == 16
    assert is_compared("train.held_out")
    folders = [compose_config(f"train.held_out={n}").hydra.run.dir for n in ("null", 16)]
    assert folders[0] != folders[1] and folders[0] == compose_config().hydra.run.dir


@pytest.mark.parametrize("stage", ["select", "test"])
def test_the_rows_are_of_the_train_split_and_the_same_for_all(
    tiny_run: Callable[..., Run], stage: str
) -> None:
    rows = []
    for variant, seed in (("lora", 0), ("bitfit", 1)):
        run = tiny_run(variant, *HELD, f"seed={seed}", f"protocol.stage={stage}")
        data = run.protocol.load(run.task, run.data)
        rest, held = hold_out(run.task, data.train, run.train.held_out)
        assert held is not None and 12 <= len(held) <= 20
        assert sorted([*rest.ids, *held.ids]) == sorted(data.train.ids)
        assert set(np.unique(held.labels)) == {0, 1}  # type: ignore[arg-type]
        job = prepare_run(run, data)
        assert job.validation is not None and len(job.validation) == len(held)
        assert len(job.examples) == len(rest)
        rows.append((job.rows, held.ids.tolist()))
    assert rows[0] == rows[1]


@pytest.mark.parametrize("rows", [64, 1000])
def test_nothing_on_one_side_is_refused(tiny_run: Callable[..., Run], rows: int) -> None:
    run = tiny_run("lora", f"train.held_out={rows}")
    with pytest.raises(ValueError, match=rf"^train.held_out={rows} of 64 rows leaves nothing"):
        prepare_run(run, run.protocol.load(run.task, run.data))


@pytest.mark.parametrize("rows", [0, -1])
def test_no_row_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=rf"^train\.held_out must be positive or null, got {rows}"):
        read(compose_config(f"train.held_out={rows}"))


@pytest.mark.parametrize(
    ("every", "total", "steps"),
    [(1, 20, range(2, 21, 2)), (10, 25, [10, 20, 25]), (1, 4, [1, 2, 3, 4]), (7, 7, [7])],
)
def test_a_run_is_measured_at_the_first_record_behind_each_tenth(
    every: int, total: int, steps: list[int]
) -> None:
    records = [step for step in range(1, total + 1) if step % every == 0 or step == total]
    before = [0, *records]
    pairs = zip(records, before, strict=False)
    assert [step for step, last in pairs if is_due(step, last, total)] == list(steps)


def test_the_history_has_a_curve_whose_time_is_evaluation(
    tiny_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = execute(tiny_run("lora", *HELD, "train.epochs=4"), tmp_path / "held")
    records = history.read(result.folder)
    curve = [record for record in records if "held_out_loss" in record]
    assert len(curve) == validation.TIMES < len(records) and curve[-1] == records[-1]
    assert all(0 <= one["held_out_accuracy"] <= 1 and one["held_out_loss"] > 0 for one in curve)
    assert "held out loss 0." in capsys.readouterr().out.splitlines()[1]
    assert result.examples["trained_on"] < result.examples["available"]["train"] == 64


def test_measuring_more_often_changes_nothing_that_is_trained(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("lora", *HELD, "model.dropout=0.1")
    often = execute(run, tmp_path / "often")
    monkeypatch.setattr(validation, "TIMES", 1)
    once = execute(run, tmp_path / "once")
    assert often.files == once.files and often.scores == once.scores
    losses = [[one["loss"] for one in history.read(run.folder)] for run in (often, once)]
    assert losses[0] == losses[1]


def test_a_stopped_run_goes_on_with_its_curve(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("lora", *HELD, "record.checkpoint_every=0", "model.dropout=0.1")
    execute(run, tmp_path / "whole")
    with killed_after(monkeypatch, 5):
        execute(run, tmp_path / "stopped")
    execute(run, tmp_path / "stopped")
    assert_equal_runs(tmp_path / "whole", tmp_path / "stopped")


def test_a_language_model_has_the_loss_of_a_token(tmp_path: Path) -> None:
    model = ("model=mini_gpt2", "task=e2e", "train=mini", "compute.device=cpu")
    few = ("data.train=32", "data.dev=4", "data.test=4", "train.epochs=1", "train.head_lr=0")
    told = read(
        compose_config(*model, *few, *HELD, "task.decoding.max_tokens=4", "task.label_smoothing=0",
                       "tracker.mode=disabled")
    )  # fmt: skip
    result = execute(told, tmp_path)
    last = json.loads((tmp_path / "history.jsonl").read_text().splitlines()[-1])
    assert last["held_out_loss"] == pytest.approx(last["held_out_nll"], rel=1e-4) and result.scores


def test_a_published_history_keeps_every_measurement() -> None:
    records = [{"step": i, "loss": 1.0} | ({"held_out_loss": 1.0} if not i % 97 else {})
               for i in range(1, 1000)]  # fmt: skip
    kept = history.to_publish(records)
    assert [r["step"] for r in kept if "held_out_loss" in r] == list(range(97, 1000, 97))
    assert len(kept) <= history.PUBLISHED + 10


def test_the_report_has_a_curve_of_it() -> None:
    run = [{"step": i, "loss": 1.0, "train_accuracy": 0.5, "stable_rank": 2.0}
           | ({"held_out_loss": 2.0, "held_out_accuracy": 0.4} if not i % 2 else {})
           for i in range(1, 9)]  # fmt: skip
    values = mean_curves([run, run])
    assert [step for step, *_ in values["held_out_loss"]] == [2, 4, 6, 8]
    assert quantities([{"lines": [{"values": values}]}]) == [
        "loss", "train_accuracy", "held_out_accuracy", "held_out_loss", "stable_rank",
    ]  # fmt: skip
