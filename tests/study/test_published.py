"""What is published names no machine and no user, and is taken up again all the same."""

import json
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from omegaconf import OmegaConf
from small_studies import asked

from experiments.results.identity import identity, short_hash
from experiments.stored.places import mask_path, mask_paths, mask_text, paths_in, without_release
from experiments.study import __main__ as command
from experiments.study.command import begin, restore_plan
from experiments.study.publish import RESULTS

ROWS = [f"a fine film number {i}\t1\na bad film number {i}\t0\n" for i in range(16)]
SENTENCES = "sentence\tlabel\n" + "".join(ROWS)


def test_an_absolute_path_becomes_its_last_name_and_a_hash() -> None:
    found = mask_path("/home/somebody/GLUE")
    assert found.startswith("GLUE@") and len(found) == 13
    assert mask_path("/home/somebody/GLUE/") == found
    assert mask_path("/home/another/GLUE") != found
    for text, kept in (
        ("/home/somebody/GLUE", ""),
        ("data.dir=/home/somebody/GLUE", "data.dir="),
        ("hydra.searchpath=['file:///home/somebody/GLUE']", "hydra.searchpath=['"),
        ("No file /home/somebody/GLUE: data.dir must", "No file "),
        ("a,/home/somebody/GLUE,b", "a,"),
    ):
        assert mask_text(text).startswith(kept + found), text
        assert mask_text(mask_text(text)) == mask_text(text)
        assert "somebody" not in mask_text(text)


@pytest.mark.parametrize("text", ["../shared/data/glue", "local/sst2", "and/or", "1/2", "~/GLUE",
                                  "nyu-mll/glue", "/x", "a / b", "sst2/train-*.parquet", "</s>",
                                  "https://example.org/a/b"])  # fmt: skip
def test_what_is_no_absolute_path_stays(text: str) -> None:
    assert mask_text(text) == text and not paths_in(text)


def test_a_run_is_the_same_with_and_without_its_path() -> None:
    config = {"data": {"dir": "/home/somebody/GLUE"}, "seed": 0, "tracker": {}}
    assert identity(config) == identity(mask_paths(config))
    assert short_hash(config) == short_hash(mask_paths(config))
    assert short_hash(config) != short_hash({**config, "data": {"dir": "/home/another/GLUE"}})


def test_a_kernels_release_is_left_out() -> None:
    assert without_release("Linux-6.18.44-fc-v657-x86_64-with-glibc2.36") == (
        "Linux-x86_64-with-glibc2.36"
    )
    assert without_release("macOS-15.1-arm64-arm-64bit") == "macOS-arm64-arm-64bit"
    assert without_release("Linux-x86_64-with-glibc2.36") == "Linux-x86_64-with-glibc2.36"
    assert platform.release() not in without_release(platform.platform())


def test_a_published_study_names_no_place_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home/somebody"
    (home / "GLUE/SST-2").mkdir(parents=True)
    for split in ("train", "dev"):
        (home / f"GLUE/SST-2/{split}.tsv").write_text(SENTENCES)
    (home / "work").mkdir()
    monkeypatch.chdir(home / "work")
    section = OmegaConf.merge(
        OmegaConf.load(ROOT / "conf/study/common.yaml"),
        {"methods": {"lora": [], "broken": ["variant=lora", f"model.path={home}/none"]},
         "tasks": {"sst2": []}, "axes": {"variant.lr": [1e-3]}, "seeds": 1,
         "overrides": ["train.epochs=1", "train.batch_size=8", "tracker.mode=disabled"]},
    )  # fmt: skip
    with pytest.raises(ValueError, match="Some runs failed"):
        begin(asked(section), "mine", ["data=local", f"data.dir={home}/GLUE"])
    monkeypatch.setattr(sys, "argv", ["study", "publish", "mine"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        command.main()
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert f"{home}/GLUE is written there as {mask_path(f'{home}/GLUE')}" in said
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert {path.name for path in files} == {
        "result.json", "failure.json", "predictions.parquet", "history.jsonl", "study.json",
        "summary.json",
    }  # fmt: skip
    for path in files:
        assert b"somebody" not in path.read_bytes(), path
        assert platform.release().encode() not in path.read_bytes(), path
    # Somebody else takes it up.
    other = tmp_path / "other"
    shutil.copytree(RESULTS / "mine", other / "outputs")
    monkeypatch.chdir(other)
    statuses = [outcome(cell) for cell in restore_plan("mine")[0].refresh()]
    assert sorted(statuses) == ["complete", "complete", "failed"]
    # And who had published it, by the command that began it.
    shutil.copytree(published(home), home / "again/outputs")
    monkeypatch.chdir(home / "again")
    before = {path: path.stat().st_mtime_ns for path in Path("outputs").rglob("result.json")}
    with pytest.raises(ValueError, match="Some runs failed"):
        begin(asked(section), "mine", ["data=local", f"data.dir={home}/GLUE"])
    assert before == {p: p.stat().st_mtime_ns for p in Path("outputs").rglob("result.json")}


def outcome(cell: Any) -> str:
    return cell.outcome().status


def published(home: Path) -> Path:
    return home / "work" / RESULTS / "mine"


def test_what_was_published_before_is_still_read(monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads((ROOT / "results/minilm_glue/studies/minilm_glue/study.json").read_text())
    assert mask_paths(content) == content
