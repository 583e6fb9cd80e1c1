"""Runs that are killed, and runs that must be equal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from experiments.running.recorder import Recorder


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_after(monkeypatch: pytest.MonkeyPatch, last: int) -> Iterator[None]:
    """A run in this block dies when a step is complete."""
    original = Recorder.after

    def dies(self: Recorder, step: int, loss: torch.Tensor, norm: torch.Tensor) -> None:
        original(self, step, loss, norm)
        if step == last:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Recorder, "after", dies)
        yield


def assert_equal_runs(one: Path, other: Path) -> None:
    for file in ("adapter.safetensors", "head.safetensors"):
        assert (one / file).exists() == (other / file).exists()
        if not (one / file).exists():
            continue  # a model without a head
        left, right = load_file(one / file), load_file(other / file)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[name], right[name]) for name in left), file
    assert (one / "history.jsonl").read_text() == (other / "history.jsonl").read_text()
