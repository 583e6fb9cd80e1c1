"""How a processor is used: tried, recorded, and the same after a restart."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from experiments import processor
from experiments.config import Run
from experiments.processor import choice, fastest, threads_for
from experiments.runner import execute


@pytest.mark.parametrize(
    ("seconds", "error", "expected"),
    [(0.5, 1e-7, "medium"), (0.95, 1e-7, "highest"), (0.5, 1e-3, "highest"), (2.0, 0.0, "highest")],
)
def test_the_other_way_must_be_faster_and_exact(
    seconds: float, error: float, expected: str
) -> None:
    errors = {"highest": 1e-7, "medium": error}
    assert choice({"highest": 1.0, "medium": seconds}, errors) == expected


def test_trying_leaves_the_setting_as_it_was() -> None:
    fastest.cache_clear()
    before = torch.get_float32_matmul_precision()
    assert fastest(64) in ("highest", "medium")
    assert torch.get_float32_matmul_precision() == before


def test_a_run_uses_and_records_what_was_found(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.job.fastest", lambda width: "medium")
    seen = []
    monkeypatch.setattr(
        "experiments.optimizer.FlatAdamW.gather",
        lambda self: seen.append(torch.get_float32_matmul_precision()),
    )
    result = execute(tiny_run("lora", "train.epochs=0.2"), tmp_path / "a")
    assert set(seen) == {"medium"} and result.provenance["float32_products"] == "medium"
    assert torch.get_float32_matmul_precision() == "highest"
    # transformers' attention is slow under it.
    padded = tiny_run("lora", "train.epochs=0.2", "train.engine=transformers")
    assert execute(padded, tmp_path / "b").provenance["float32_products"] == "highest"


def test_a_restart_keeps_the_way_it_began_with(
    tiny_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tiny_run("lora", "train.checkpoint_every=0", "train.log_every=1")
    monkeypatch.setattr("experiments.job.fastest", lambda width: "medium")

    class Killed(BaseException):
        pass

    from experiments.recorder import Recorder

    save = Recorder.save

    def killed(self: Recorder, step: int) -> None:
        save(self, step)
        if step == 2:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Recorder, "save", killed)
        execute(run, tmp_path)
    monkeypatch.setattr("experiments.job.fastest", lambda width: "highest")
    assert execute(run, tmp_path).provenance["float32_products"] == "medium"
    assert torch.get_float32_matmul_precision() == processor.DEFAULT


def test_a_narrow_model_has_one_thread_and_leaves_the_others_as_they_were(
    tiny_run: Callable[..., Run], tmp_path: Path
) -> None:
    assert threads_for(64) == 1 and threads_for(768) == torch.get_num_threads()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    result = execute(tiny_run("lora", "train.epochs=0.2"), tmp_path)
    assert result.provenance["threads"] == 1 and torch.get_num_threads() == 2
    torch.set_num_threads(before)
