"""A run that stops once on its way, and goes on by the same command as if it had not."""

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import VARIANTS
from runs import Killed, assert_equal_runs

from experiments.results.result import Paused
from experiments.running.checkpoints import Checkpoints
from experiments.running.runner import execute
from experiments.settings.config import Run
from experiments.stored import halfway

Make = Callable[..., Run]
SETTINGS = ("train.epochs=4", "train.batch_size=16", "record.log_every=3", "train.schedule=cosine")
PAUSE = "record.pause=0.5"


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_that_paused_ends_bit_for_bit_where_it_would_have(
    tiny_run: Make, tmp_path: Path, variant: str
) -> None:
    unbroken = execute(tiny_run(variant, *SETTINGS), tmp_path / "unbroken")
    paused, folder = tiny_run(variant, *SETTINGS, PAUSE), tmp_path / "paused"
    with pytest.raises(Paused, match=r"Paused after step 9 of 16; the same command goes on"):
        execute(paused, folder)
    assert (folder / "UNFINISHED").exists() and not (folder / "result.json").exists()
    result = execute(paused, folder)
    assert_equal_runs(tmp_path / "unbroken", folder)
    assert result.scores == unbroken.scores and result.cost["restarts"] == 1
    assert result.fingerprint == unbroken.fingerprint
    assert not (folder / "UNFINISHED").exists()


def test_the_score_on_the_way_is_that_of_the_state_there(tiny_run: Make, tmp_path: Path) -> None:
    """The paper's protocol scores every epoch on the same splits."""
    settings = (*SETTINGS[:2], "record.log_every=1", "protocol=paper")
    epochs = execute(tiny_run("lora", *settings), tmp_path / "epochs").epochs
    with pytest.raises(Paused):
        execute(tiny_run("lora", *settings, PAUSE), tmp_path / "paused")
    known = halfway.read(tmp_path / "paused")
    assert known is not None and (known["step"], known["steps"]) == (8, 16)
    assert known["score"] == next(e["score"] for e in epochs if e["step"] == 8)
    assert known["seconds"] > known["training_seconds"] > 0


def test_a_run_too_short_to_have_a_record_on_the_way_does_not_pause_and_says_so(
    tiny_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(tiny_run("lora", "train.epochs=1", "record.log_every=10", PAUSE), tmp_path)
    assert not (tmp_path / halfway.NAME).exists()
    assert "no record lies there: there is one every 10 steps" in capsys.readouterr().out


def test_a_run_that_dies_while_it_pauses_is_as_good(
    tiny_run: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute(tiny_run("lora", *SETTINGS), tmp_path / "unbroken")
    run, folder = tiny_run("lora", *SETTINGS, PAUSE), tmp_path / "paused"

    def dies(self: Checkpoints, step: int) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Checkpoints, "save", dies)
        execute(run, folder)
    assert halfway.read(folder) is not None
    execute(run, folder)
    assert_equal_runs(tmp_path / "unbroken", folder)


def test_the_pause_of_another_run_is_refused(tiny_run: Make, tmp_path: Path) -> None:
    with pytest.raises(Paused):
        execute(tiny_run("lora", *SETTINGS, PAUSE), tmp_path)
    (tmp_path / "checkpoint.safetensors").unlink()
    with pytest.raises(ValueError, match=r"halfway\.json is of another configuration or other"):
        execute(tiny_run("lora", *SETTINGS, PAUSE, "seed=1"), tmp_path)
    path = tmp_path / halfway.NAME
    path.write_text(path.read_text().replace('"step": 9', '"step": 6'))
    with pytest.raises(ValueError, match=r"halfway\.json"):
        execute(tiny_run("lora", *SETTINGS, PAUSE), tmp_path)


@pytest.mark.parametrize("share", [0, 1, -0.5])
def test_a_pause_lies_within_the_run(tiny_run: Make, share: float) -> None:
    with pytest.raises(ValueError, match=r"record\.pause must lie between 0 and 1, got"):
        tiny_run("lora", f"record.pause={share}")
