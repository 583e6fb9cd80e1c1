"""What the packages offer Python and notebooks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from hydra.core.hydra_config import HydraConfig

import experiments
import variants
from experiments import load_results, run
from experiments.results.result import read_result

STUDY = """
defaults: [common, _self_]
methods: {lora: []}
tasks: {sst2: []}
overrides: [train.epochs=1, data.train=64, data.dev=32, compute.device=cpu, tracker.mode=disabled]
axes:
  variant.lr: [1e-3]
seeds: 1
cells: 1
"""
# Without a guard: a process that ran this once more would begin the study again.
SCRIPT = """
from experiments import run_study

summary = run_study("mine", "hydra.searchpath=[file://settings]", "model.dropout=0.0")
((row,),) = summary.groups.values()
print(row.protocol, row.task, row.method, row.chosen, len(row.scores))
"""


def python(folder: Path, *arguments: str) -> str:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_packages_are_light_and_offer_what_they_say(tmp_path: Path) -> None:
    code = "import sys, experiments; print({'torch', 'hydra'} & sys.modules.keys())"
    assert python(tmp_path, "-c", code) == "set()\n"
    for package in (experiments, variants):
        assert all(callable(getattr(package, name)) for name in package.__all__)
    with pytest.raises(AttributeError, match="'experiments' has no attribute 'ran'"):
        getattr(experiments, "ran")  # noqa: B009 (as a typing mistake would)


def test_a_study_is_no_run_and_the_way_on_is_named() -> None:
    before = HydraConfig.instance().cfg
    with pytest.raises(ValueError, match=r"^study=first is many runs.*run_study\('first'\)\.$"):
        run("study=first")
    assert HydraConfig.instance().cfg is before


@pytest.mark.slow
def test_a_script_carries_out_a_study_and_its_runs_are_read(tmp_path: Path) -> None:
    (tmp_path / "settings" / "study").mkdir(parents=True)
    (tmp_path / "settings" / "study" / "mine.yaml").write_text(STUDY)
    (tmp_path / "study.py").write_text(SCRIPT)
    said = python(tmp_path, "study.py").splitlines()[-1]
    assert said == "clean sst2 lora ['variant.lr=0.001'] 1"
    trial, final = load_results(tmp_path / "outputs")
    assert {trial.seed, final.seed} == {0, 1000}
    assert load_results(final.folder) == [read_result(final.folder)]
    assert all("model.dropout=0.0" in result.overrides for result in (trial, final))


def test_a_folder_without_runs_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="There is no finished run below"):
        load_results(tmp_path)
