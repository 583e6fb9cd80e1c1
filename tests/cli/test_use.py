"""What people do with finished runs: read them, list them, ask them, from Python and the shell."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, VARIANTS
from hydra import (
    compose,
    initialize,
    initialize_config_dir,
    initialize_config_module,
    version,
)
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from packaging.version import Version
from rich.console import Console

from analysis.load import load, shown
from experiments import predict as predict_command
from experiments.adapters.saved import restore
from experiments.api import run as run_from_python
from experiments.predict import predict
from experiments.results.result import Diverged, Origin, read_result
from experiments.running.runner import execute
from experiments.settings.compose import compose_config
from experiments.settings.config import Run, read

TINY = ("data.train=64", "data.dev=32", "train.epochs=2", "compute.device=cpu")


def test_a_restored_run_is_run_as_it_was_trained(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    execute(tiny_run("lora", "train.epochs=0.2", "compute.engine=transformers"), tmp_path)
    assert restore(tmp_path).loaded.model.engine.name == "transformers"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_restored_run_predicts_what_it_predicted(
    tiny_run: Callable[..., Run], tmp_path: Path, variant: str
) -> None:
    run = tiny_run(variant)
    result = execute(run, tmp_path)
    dev = run.task.load(run.data).score["dev"]
    found = predict(restore(tmp_path), dev.texts)
    stored = result.predictions
    assert list(found["prediction"]) == [run.task.names[p] for p in stored["prediction"]]
    outputs = torch.tensor(np.stack(stored["outputs"]))
    shares = torch.softmax(outputs, dim=1)[:, 1].numpy()
    np.testing.assert_allclose(found["p(positive)"], shares, rtol=1e-4)


def test_a_score_is_predicted_as_a_number(tiny_run: Callable[..., Run], tmp_path: Path) -> None:
    run = tiny_run("lora", "task=stsb")
    result = execute(run, tmp_path)
    pair = run.task.load(run.data).score["dev"].texts[:1]
    found = predict(restore(tmp_path), pair)
    assert found["prediction"][0] == pytest.approx(result.predictions["prediction"][0], rel=1e-4)


def test_the_command_answers_for_a_text_and_for_a_file(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    execute(tiny_run("lora"), tmp_path / "run")

    def ask(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["predict", str(tmp_path / "run"), *arguments])
        predict_command.main()
        return capsys.readouterr().out

    assert "p(positive)" in ask("--text", "the film was good")
    (tmp_path / "texts.csv").write_text("sentence\nthe film was good\nthe film was bad\n")
    ask("--file", str(tmp_path / "texts.csv"), "--out", str(tmp_path / "answers.csv"))
    answers = pd.read_csv(tmp_path / "answers.csv")
    assert list(answers["sentence"]) == ["the film was good", "the film was bad"]
    assert set(answers["prediction"]) <= {"negative", "positive"}


def test_a_result_is_shown_in_two_lines_and_as_a_small_table() -> None:
    folder = ROOT / "results/minilm_glue"
    result = read_result(next(folder.rglob("result.json")).parent)
    name, place = repr(result).splitlines()
    assert name.startswith(f"{result.title}: {result.primary['metric']} ")
    assert "95 % interval" in name and place == str(result.folder)
    odd = replace(result, label=result.label | {"task": "<b>\n\x1b[31m"}, folder=Path("<i>"))
    html = odd._repr_html_()
    assert len(repr(odd).splitlines()) == 2 and "\x1b" not in repr(odd) + html
    assert "<b>" not in html and "<i>" not in html and "&lt;b&gt;" in html
    lost = replace(result, primary={}, status="diverged", failure="The loss is nan at step 3.")
    assert repr(lost).startswith(f"{result.title}: diverged: The loss is nan at step 3.")


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_answers_stand_beside_all_columns_of_the_file(suffix: str, tmp_path: Path) -> None:
    rows = pd.DataFrame(
        {"id": ["007", "b"], "prediction": ["x", "y"], "sentence": ["good", "bad"], "label": [1, 0]}
    )
    path = tmp_path / f"texts{suffix}"
    if suffix == ".parquet":
        rows.to_parquet(path)
    elif suffix.startswith(".json"):
        rows.to_json(path, orient="records", lines=suffix == ".jsonl")
    else:
        rows.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    task = read(compose_config("task=sst2")).task
    given = predict_command.read_file(task, path)
    trained: Any = SimpleNamespace(run=SimpleNamespace(task=task))

    def told(trained: object, texts: list[tuple[str, ...]]) -> pd.DataFrame:
        assert texts == [("good",), ("bad",)]
        return pd.DataFrame({"prediction": ["positive", "negative"]})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict_command, "predict", told)
        answers = predict_command.answer(trained, given)
    columns = ["id", "prediction in file", "sentence", "label", "prediction"]
    assert list(answers.columns) == columns
    assert list(answers["id"]) == ["007", "b"] and list(answers["label"].astype(int)) == [1, 0]
    assert list(answers["prediction"]) == ["positive", "negative"]


@pytest.mark.parametrize("path", ["models/base", "base", "./base", "models/../base"])
def test_a_base_named_from_the_working_directory_is_found_from_others(
    tiny_run: Callable[..., Run],
    tiny: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    path: str,
) -> None:
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    (home / "models").mkdir(parents=True)
    elsewhere.mkdir()
    shutil.copytree(tiny("roberta"), home / path)
    described = tiny_run("lora", "train.epochs=0.5")
    run = replace(described, model=replace(described.model, path=path))
    monkeypatch.chdir(home)
    result = execute(run, tmp_path / "run")
    assert execute(run, tmp_path / "run").scores == result.scores  # the same run as before
    assert result.config["model"]["path"] == path
    monkeypatch.chdir(elsewhere)

    def ask(*arguments: str) -> str:
        command = ["predict", str(tmp_path / "run"), "--text", "the film was good", *arguments]
        monkeypatch.setattr(sys, "argv", command)
        predict_command.main()
        return capsys.readouterr().out

    capsys.readouterr()
    expected = ask()
    (home / path).rename(elsewhere / "moved")
    with pytest.raises(SystemExit, match=r"is not found: .*there is no folder.*--base names it"):
        ask()
    assert ask("--base", "moved") == expected


def test_a_run_from_python_is_the_run_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: Callable
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ("variant=dora", "task=sst2", "tracker.mode=disabled", *TINY)
    result = run_from_python(*overrides)
    assert result.folder.parts[:5] == ("outputs", "mini", "sst2", "mini_roberta", "dora")
    assert list(result.history["step"]) == [4]
    assert set(result.predictions["split"]) == {"dev"}
    again = read_result(result.folder)
    assert again.fingerprint == result.fingerprint and again.scores == result.scores
    assert again.choices["variant"] == "dora" and again.overrides == list(overrides)


@pytest.mark.parametrize("how", ["a folder", "a module", "no folder", "inside a program"])
def test_a_run_from_python_reads_its_own_settings_whatever_else_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.yaml").write_text("batch: 3\nvariant: none\n")
    (tmp_path / "other/__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    opened = {
        "a folder": lambda: initialize_config_dir(str(tmp_path / "other"), version_base="1.2"),
        "a module": lambda: initialize_config_module("other", version_base="1.2"),
        "no folder": lambda: initialize(config_path=None, version_base="1.2"),
    }.get(how, lambda: initialize_config_dir(str(tmp_path / "other"), version_base="1.2"))
    with opened():
        name = "config" if how != "no folder" else None
        theirs = compose(name, return_hydra_config=True)
        if how == "inside a program":
            HydraConfig.instance().set_config(theirs)
        before = HydraConfig.instance().cfg
        result = run_from_python("variant=lora", "task=sst2", *TINY)
        assert result.folder.is_dir() and result.label["task"] == "mini/sst2"
        # And theirs is as it was.
        assert HydraConfig.instance().cfg is before
        assert version.getbase() == Version("1.2")
        assert compose(name) == OmegaConf.masked_copy(theirs, [k for k in theirs if k != "hydra"])
    assert not GlobalHydra.instance().is_initialized()
    assert read(compose_config("variant=dora", *TINY)).label["variant"] == "dora"


def test_all_runs_are_one_table(tiny_run: Callable[..., Run], tmp_path: Path) -> None:
    for variant in ("lora", "full"):
        for seed in (0, 1):
            execute(tiny_run(variant, f"seed={seed}"), tmp_path / variant / str(seed))
    table = load(tmp_path)
    assert sorted(zip(table["variant"], table["seed"], strict=True)) == [
        ("full", 0), ("full", 1), ("lora", 0), ("lora", 1),
    ]  # fmt: skip
    assert set(table["task"]) == {"mini/sst2"}
    assert (table["low"] <= table["score"]).all() and (table["score"] <= table["high"]).all()


def test_the_table_of_runs_fits_on_a_screen(tiny_run: Callable[..., Run], tmp_path: Path) -> None:
    execute(tiny_run("lora"), tmp_path / "good")
    with pytest.raises(Diverged):
        execute(tiny_run("lora", "variant.lr=1e30", "record.log_every=1"), tmp_path / "bad")
    console = Console(width=80, record=True, file=StringIO())
    console.print(shown(load(tmp_path)))
    text = console.export_text()
    assert "diverged" in text and "…" not in text
    assert f"{load(tmp_path / 'good')['score'][0]:.3f} [" in text
    # Two runs that have the same name have their folders' as well.
    assert "lora (good)" in text and "lora (bad)" in text
    assert "(good)" not in str(list(shown(load(tmp_path / "good")).columns[0].cells))


def test_no_run_below_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finished run"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "kept"),
    [
        (["experiment=lora-sst2-roberta_base"], True),
        (["experiment=lora-sst2-roberta_base", "seed=3", "compute.device=cuda"], True),
        (["experiment=lora-sst2-roberta_base", "data=local", "data.dir=GLUE"], True),
        (["experiment=lora-sst2-roberta_base", "variant=dora"], False),
        (["experiment=lora-sst2-roberta_base", "data=mini"], False),
        (["experiment=lora-sst2-roberta_base", "train.epochs=1"], False),
    ],
)
def test_a_papers_name_stays_only_with_the_papers_setting(overrides: list[str], kept: bool) -> None:
    assert Origin({}, overrides).keeps_paper() is kept


def test_every_task_runs_and_pools_its_splits(tiny_run: Callable[..., Run], tmp_path: Path) -> None:
    result = execute(tiny_run("lora", "task=mnli"), tmp_path)
    assert set(result.scores) == {"dev_matched", "dev_mismatched"}
    assert result.primary["examples"] == 64
    mean = np.mean([scores["accuracy"] for scores in result.scores.values()])
    assert result.primary["score"] == pytest.approx(mean)
