"""What a study says while it runs and when it is over."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import Answer
from omegaconf import OmegaConf
from small_studies import SMALL, Folders, folders, grid, study  # noqa: F401 (a fixture)
from stored_runs import store
from stored_runs import study as write_study

from analysis.report.verdict import verdict
from experiments.stored.said import EVERY
from experiments.study import forecast, progress
from experiments.study.plan import Plan
from experiments.study.progress import Progress


def test_a_study_without_a_terminal_says_every_so_often_how_it_goes(
    folders: Folders,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now[0]))
    plan = Plan(study(**grid(3), seeds=2), "s", [])
    cells, shown = plan.refresh(), Progress()
    for looks in range(20):  # of two seconds each
        if looks == 10:
            folders.score(cells[:3], lambda cell: 0.5)
            plan.refresh()
        shown.show(plan)
        now[0] += 2.0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + int(19 * 2 // (EVERY + 1))
    assert lines[0] == "0 of 10 runs: 6 waiting; time left: not known yet"
    assert lines[-1].startswith("3 of 10 runs: 3 complete  5 waiting; about 0:01:")


def test_the_verdict_is_a_sentence_for_each_question(tmp_path: Path) -> None:
    place = write_study(tmp_path, {"vera": 0.5, "lora": 0.86, "full": 0.93}, ["sst2", "rte"], 4)
    found = verdict(place)
    assert [line.partition(":")[0] for line in found[:3]] == [
        "Over 2 tasks", "local/rte", "local/sst2",
    ]  # fmt: skip
    assert any("No evidence that vera beats the majority baseline (5" in line for line in found)


def test_what_cannot_be_judged_has_no_verdict_and_a_reason(tmp_path: Path) -> None:
    (said,) = verdict(tmp_path / "nowhere")
    assert said.startswith("No verdict: There is no finished run")
    store(tmp_path, "lora", 0, np.ones(20, dtype=bool))
    assert len(verdict(tmp_path)) == 1


def test_a_study_ends_with_its_verdict_and_the_command_of_its_report(
    shell: Callable[..., Answer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    own = tmp_path / "settings"
    (own / "study").mkdir(parents=True)
    methods = {"lora": ["train.epochs=1"], "bitfit": ["train.epochs=1"]}
    section = {"methods": methods, "tasks": {"sst2": []}, "overrides": SMALL, "seeds": 1}
    OmegaConf.save(
        section | {"axes": {"variant.lr": [1e-3]}, "defaults": ["common", "_self_"]},
        own / "study/mine.yaml",
    )
    command = ("--config-dir", str(own), "study=mine", "backend.max_parallel=2")
    answer = shell(*command)
    assert answer.code == 0, answer.err
    *_, said, last = answer.out.splitlines()
    assert said.startswith("mini/sst2: ")
    report = "python -m analysis.report outputs/studies/mine --out report.html"
    assert last == f"As one page: {report}"
    log = Path("outputs/studies/mine/run.log").read_text()
    assert said in log and "of 4 runs: " in log and "complete    sst2 lora" in log
    (output,) = Path("outputs").rglob("lora/s0-*/output.log")
    assert "step 4/4  loss " in output.read_text()
    assert "step 4/4  loss " in output.with_name("run.log").read_text()
    from analysis.report.__main__ import main

    monkeypatch.setattr(sys, "argv", ["report", *report.split()[3:]])
    main()
    assert Path("report.html").exists()
    assert "As one page" not in shell(*command, "study.dry_run=true").out


@dataclass
class Busy:
    """A clock of the processor that counts two threads."""

    seconds: float = 0.0

    def process_time(self) -> float:
        self.seconds += 4.0
        return self.seconds


def test_a_forecast_counts_the_time_of_the_processor_by_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forecast, "time", Busy())
    assert forecast.Stopwatch(torch.device("cpu"), 2).read() == 2.0
