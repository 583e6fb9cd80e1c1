"""Configs of a study's pairs are those that Hydra composes, and few are composed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.results.identity import plain
from experiments.settings.compose import compose_config
from experiments.settings.sections import build
from experiments.study import composing
from experiments.study.plan import Plan

ROOT = Path(__file__).parents[2]
VARIANTS = sorted(path.stem for path in (ROOT / "conf/variant").glob("*.yaml"))
TASKS = sorted(path.stem for path in (ROOT / "conf/task").glob("*.yaml"))


def plan_of(tasks: Mapping[str, Any], methods: Mapping[str, Any], **changes: Any) -> Plan:
    known = {"methods": methods, "tasks": tasks, "seeds": 1,
             "axes": {"variant.lr": [1e-3]}, "overrides": ["tracker.mode=disabled"]}  # fmt: skip
    section = OmegaConf.merge(OmegaConf.load(ROOT / "conf/study/common.yaml"), {**known, **changes})
    assert isinstance(section, DictConfig)
    return Plan(build("study", section), "mine", [])


def check_as_composed(plan: Plan) -> None:
    """Every known cell has the folder and the settings that its own command line comes to."""
    cells = plan.refresh()
    assert len(cells) > 3
    for cell in cells:
        config = compose_config(*cell.overrides)
        assert config.hydra.run.dir == str(cell.folder)
        beside = {"tracker": 0, "part_of": 0}  # no part of what a run is
        assert plain(config, resolve=True) | beside == cell.config | beside


@pytest.mark.parametrize(
    ("tasks", "methods", "changes"),
    [
        ({"sst2": [], "stsb": [], "mine": ["task=cola", "train.batch_size=8"]},
         {"lora": [], "dora": ["train.epochs=2"], "x": ["variant=vera"], "bitfit": []}, {}),
        # A task and a method that set the same section, also to what it is anyway.
        ({"sst2": [], "rte": ["train.epochs=3"]}, {"lora": ["train.epochs=2"], "dora": []}, {}),
        ({"sst2": [], "rte": ["train.epochs=10"]}, {"lora": [], "dora": ["train.epochs=2"]}, {}),
        ({"sst2": [], "rte": ["variant.dropout=0.5"]}, {"lora": [], "dora": []}, {}),
        # Other files than a task's and a method's own.
        ({"sst2": [], "rte": []}, {"lora": ["model=mini_gpt2"], "dora": []}, {}),
        ({"sst2": [], "rte": ["train=glue"]}, {"lora": [], "dora": ["train.epochs=2"]}, {}),
        ({"planted": [], "sst2": []}, {"lora": [], "last_k": []}, {}),
        ({"e2e": [], "sst2": []}, {"lora": [], "dora": []}, {}),
        ({"sst2": [], "rte": []}, {"lora": [], "dora": []},
         {"axes": {"train.max_length": [32, 48], "model.lr_scale": [1.0]}}),
        ({"mrpc": [], "rte": []}, {"lora": [], "dora": []},
         {"protocols": ["clean", "paper"], "start_from": {"rte": "mnli"}}),
    ],
)  # fmt: skip
def test_configs_that_are_put_together_are_those_that_hydra_composes(
    tasks: Any, methods: Any, changes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Plan, "complete", lambda self, cell: True)  # starts are done
    check_as_composed(plan_of(tasks, methods, **changes))


def test_every_method_on_every_task_is_as_hydra_composes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = plan_of({name: [] for name in TASKS}, {name: [] for name in VARIANTS})
    pairs = [arm for arms in plan.groups.values() for arm in arms]
    diagonal = [pair for place, pair in enumerate(pairs) if place % (len(VARIANTS) - 1) == 0]
    assert len(diagonal) >= len(TASKS)
    for arm in diagonal:
        exact = composing.compose(arm.overrides)
        assert (arm.composed.sections, arm.composed.parent) == (exact.sections, exact.parent)


def test_a_study_composes_a_config_for_each_task_and_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    calls: list[tuple[str, ...]] = []
    exact = composing.compose
    monkeypatch.setattr(composing, "compose", lambda texts: calls.append(texts) or exact(texts))
    names = ("cola", "mnli", "mrpc", "qnli", "sst2")
    plan = plan_of({n: [] for n in names}, {n: ["train.epochs=2"] for n in VARIANTS[:6]}, seeds=30)
    assert len(plan.refresh()) == 30
    assert len(calls) == 5 + 6 - 1
