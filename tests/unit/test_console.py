"""What the console says of a run: before, while it trains, and of its score."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console as RichConsole
from stored_runs import store

from analysis.family import Rule
from analysis.report.comparisons import comparisons
from analysis.report.material import gather
from experiments.data.sources import Local
from experiments.disk.folders import ONLY_LOG
from experiments.metrics.baseline import LOWEST, MAJORITY, baseline_for
from experiments.running import progress, showing
from experiments.running.progress import FIRST, Progress
from experiments.running.remarks import remarks
from experiments.running.runner import execute
from experiments.running.showing import describe_rate
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read
from experiments.stored.said import EVERY


@pytest.mark.parametrize(
    ("metric", "labels", "score", "name"),
    [
        ("accuracy", [0, 1, 1, 1], 0.75, MAJORITY),
        ("matthews", [0, 1, 1, 1], 0.0, MAJORITY),
        ("f1", [0, 1, 1, 1], 6 / 7, MAJORITY),
        ("pearson", [0.0, 0.5, 2.0], 0.0, MAJORITY),
        ("BLEU", [["a b"], ["c d"]], 0.0, LOWEST),
    ],
)
def test_a_baseline_is_the_best_single_answer_or_the_lowest_score(
    metric: str, labels: list, score: float, name: str
) -> None:
    found = baseline_for(metric, np.array(labels))
    assert found.name == name and found.score == pytest.approx(score)


def test_the_console_has_the_baseline_of_the_report(tmp_path: Path) -> None:
    right = np.arange(15) % 3 > 0
    for method in ("lora", "dora"):
        for seed in range(2):
            store(tmp_path, method, seed, right)
    (one,) = comparisons(gather(tmp_path), Rule())
    labels = np.arange(len(right)) % 2
    assert one.baseline == baseline_for(one.metric, labels).score == pytest.approx(8 / 15)


def primary(**changes: Any) -> dict[str, Any]:
    known = {"metric": "accuracy", "score": 0.9, "interval": [0.88, 0.92], "examples": 872,
             "floor": 0.5}  # fmt: skip
    return known | changes


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, []),
        ({"interval": [0.5, 0.56]}, ["Not shown to be better than the majority baseline: the 95 % "
         r"interval \(0.5000 to 0.5600\) does not lie above 0.5000."]),
        ({"interval": [0.501, 0.56]}, []),
        ({"interval": [0.41, 0.49]}, ["lies below 0.5000."]),
        ({"interval": [0.8, 0.92], "examples": 90},
         [r"small, 90 examples: the 95 % interval is 12 points wide \(more than 10\), so only"]),
        ({"interval": [1.0, 1.0], "examples": 12}, ["small, 12 examples: fewer than 100, so only"]),
        ({"interval": [0.3, 0.7], "examples": 20}, ["Not shown", "40 points wide"]),
        ({"metric": "NIST", "interval": [3.0, 9.0], "floor": 0.0}, []),  # it has no points
        ({"metric": "BLEU", "interval": [0.0, 0.05], "floor": 0.0}, ["than the lowest score"]),
    ],
)  # fmt: skip
def test_a_score_that_says_little_is_remarked_upon(
    changes: dict[str, Any], said: list[str]
) -> None:
    found = remarks(primary(**changes))
    assert len(found) == len(said)
    for line, pattern in zip(found, said, strict=True):
        assert re.search(pattern, line), line


def test_a_result_of_an_earlier_version_has_no_baseline() -> None:
    old = primary(interval=[0.4, 0.48])
    del old["floor"]
    assert remarks(old) == [] and showing.baseline_rows(old) == []


@pytest.mark.parametrize("name", ["mini_roberta", "mini_gpt2"])
def test_the_built_in_models_are_doubted_on_real_text_alone(name: str, tmp_path: Path) -> None:
    task = ["task=e2e"] if name == "mini_gpt2" else []
    model = read(compose_config(f"model={name}", *task)).model
    said = model.doubt(Local(dir=str(tmp_path)))
    assert said is not None and said.startswith(f"{name} knows only the made-up language")
    assert model.doubt(read(compose_config()).data) is None
    assert read(compose_config("model=minilm")).model.doubt(Local(dir=str(tmp_path))) is None


def test_a_run_without_a_terminal_says_what_runs_how_it_goes_and_what_came_out(
    tiny_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    run = tiny_run("lora", "model.lr_scale=2.0", "variant.lr=1e-3")
    ONLY_LOG.addHandler(caplog.handler)
    try:
        result = execute(run, tmp_path)
    finally:
        ONLY_LOG.removeHandler(caplog.handler)
    lines = capsys.readouterr().out.splitlines()
    first, *steps, last = [line for line in lines if "small" not in line and "Not" not in line]
    assert first == (
        "lora on mini/sst2 with roberta_base, seed 0: 64 of 64 examples, 6 steps, cpu, learning "
        "rate 0.002 (variant.lr 0.001 times model.lr_scale 2)"
    )
    assert re.fullmatch(
        r"step 6/6  loss \d\.\d{4}  train accuracy [\d.]+  learning rate [\d.e-]+  [\d,]+ tokens/s"
        r"  0:00:00 left",
        steps[-1],
    )
    floor = result.primary["floor"]
    assert f"accuracy {result.primary['score']:.4f} (majority baseline {floor:.4f}) -> " in last
    assert [
        record.getMessage() for record in caplog.records if record.name == ONLY_LOG.name
    ] == lines


def test_a_first_look_doubts_a_built_in_model_on_other_data(
    tiny_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    run = tiny_run("lora", "train.epochs=0.5")
    monkeypatch.setattr(type(run.model), "doubt", lambda model, data: "It knows nothing.")
    execute(run, tmp_path)
    assert capsys.readouterr().out.splitlines()[1] == "It knows nothing."


class Time:
    """A clock that tests move."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))


def watch(time: Time, rich: RichConsole, seconds: float, total: int, done: int = 0) -> Progress:
    """Train so many steps that take so many seconds each, of a run that has some behind it."""
    job = SimpleNamespace(
        batches=SimpleNamespace(world=SimpleNamespace(size=1)),
        run=SimpleNamespace(task=SimpleNamespace(training_metric="accuracy")),
        plan=SimpleNamespace(total=total),
    )
    schedule = SimpleNamespace(get_last_lr=lambda: [0.004])
    found = Progress(job, rich)  # type: ignore[arg-type]
    found.begin(SimpleNamespace(schedule=schedule), total)  # type: ignore[arg-type]
    for step in range(done + 1, total + 1):
        found.before(step)
        found.seen(SimpleNamespace(tokens=100), torch.zeros(1))  # type: ignore[arg-type]
        time.now += seconds
        found.after(step, torch.tensor(float(step)), torch.tensor(1.0))
    return found


def test_lines_come_every_so_many_seconds_and_after_the_last_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch(Time(monkeypatch), RichConsole(), 1.0, 40)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        f"step {step}/40"
        for step in (FIRST, FIRST + EVERY, FIRST + 2 * EVERY, 40)
        for step in [int(step)]
    ]
    assert lines[0] == ("step 3/40  loss 2.0000  learning rate 0.004  100 tokens/s  0:00:37 left")


def test_slow_steps_have_a_line_each_and_a_run_that_goes_on_counts_its_own_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch(Time(monkeypatch), RichConsole(), 60.0, 10, done=7)
    lines = capsys.readouterr().out.splitlines()
    assert [line.rsplit("  ", 1)[1] for line in lines] == [
        "0:02:00 left",
        "0:01:00 left",
        "0:00:00 left",
    ]


def test_jupyter_has_one_line_that_changes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    watch(Time(monkeypatch), RichConsole(force_jupyter=True), 1.0, 4)
    said = capsys.readouterr().out
    assert said.count("\r") == 4 and said.count("\n") == 1 and said.endswith("\n")
    assert said.rpartition("\r")[2].startswith("step 4/4")


def test_a_terminal_has_the_bar_and_the_log_the_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    ONLY_LOG.addHandler(caplog.handler)
    watch(Time(monkeypatch), RichConsole(force_terminal=True), 1.0, 4)
    ONLY_LOG.removeHandler(caplog.handler)
    assert capsys.readouterr().out == ""
    assert [r.getMessage().partition("  ")[0] for r in caplog.records] == ["step 3/4", "step 4/4"]


def test_a_rate_that_the_model_scales_is_told_with_both_factors() -> None:
    assert describe_rate(4e-4, 1.0) == "0.0004"
    assert describe_rate(4e-4, 10.0) == "0.004 (variant.lr 0.0004 times model.lr_scale 10)"
