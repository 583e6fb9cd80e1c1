"""The folder of all runs: a link to the newest, and nothing of those that never began."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import QUICK, Answer
from stored_runs import diverged

from analysis.load import load, results
from experiments.api import load_results
from experiments.disk.locks import exclusive
from experiments.disk.outputs import LATEST, OUTPUTS, link_latest, remove_unbegun

TINY = (*QUICK, "train.epochs=0.5")


def test_the_link_leads_to_the_newest_run_and_no_reader_follows_it(
    shell: Callable[..., Answer],
) -> None:
    for seed in (0, 1):
        assert shell(*TINY, f"seed={seed}").code == 0
        link = OUTPUTS / LATEST
        assert link.is_symlink() and not Path(os.readlink(link)).is_absolute()
        assert link.resolve().name.startswith(f"s{seed}-")
    assert len(load(OUTPUTS)) == len(results("outputs")) == len(load_results("outputs")) == 2
    assert load_results(OUTPUTS / LATEST)[0].seed == 1
    assert shell(*TINY, "seed=0").out.startswith("Already done")
    assert (OUTPUTS / LATEST).resolve().name.startswith("s1-")


@pytest.mark.parametrize("there", ["folder", "file", "no links", "outside"])
def test_where_no_link_can_be_nothing_happens(
    there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("A required privilege is not held by the client")

    monkeypatch.chdir(tmp_path)
    run = OUTPUTS / "run"
    run.mkdir(parents=True)
    if there == "folder":
        (OUTPUTS / LATEST).mkdir()
    elif there == "file":
        (OUTPUTS / LATEST).write_text("mine")
    elif there == "no links":
        monkeypatch.setattr(os, "symlink", refuse)
        monkeypatch.setattr(Path, "symlink_to", refuse)
    else:
        run = tmp_path / "elsewhere"
    link_latest(run)
    assert not (OUTPUTS / LATEST).is_symlink()


def test_a_run_that_cannot_begin_leaves_no_folder(shell: Callable[..., Answer]) -> None:
    assert shell(*TINY).code == 0
    before = sorted(Path().rglob("*"))
    for wrong in ("train.max_length=4000", "variant.targets=[nothing]", "train.held_out=9999",
                  "start=nowhere", "task.score_on=[]"):  # fmt: skip
        answer = shell(*TINY, wrong)
        assert answer.code == 1 and "Traceback" not in answer.err
        assert sorted(Path().rglob("*")) == before, wrong


def test_what_a_run_has_to_keep_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = diverged(OUTPUTS, "lora", 0)
    used = OUTPUTS / "used"
    for name in (".hydra/config.yaml", "run.log", "UNFINISHED"):
        (used / name).parent.mkdir(parents=True, exist_ok=True)
        (used / name).write_text("")
    with exclusive(used):
        for folder in (kept, used, OUTPUTS / "none"):
            remove_unbegun(folder)
    assert (kept / "result.json").exists() and (used / "run.log").exists()
    remove_unbegun(used)
    assert not used.exists() and OUTPUTS.exists()
