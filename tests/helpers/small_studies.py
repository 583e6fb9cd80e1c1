"""Studies small enough for tests, and folders of cells that only say what they would hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.settings.sections import build
from experiments.study.backends.local import Local
from experiments.study.cells import Cell, Outcome
from experiments.study.design import Study

ROOT = Path(__file__).parents[2]
SMALL = [
    "data.train=64", "data.dev=32", "train.epochs=2", "train.batch_size=16", "record.log_every=1",
    "tracker.mode=disabled", "compute.device=cpu",
]  # fmt: skip


def study(**changes) -> Study:
    section = OmegaConf.load(ROOT / "conf/study/common.yaml")
    known = {"methods": {"lora": [], "vera": []}, "tasks": {"sst2": []}, "overrides": SMALL}
    return build("study", OmegaConf.merge(section, known | changes))


def local(max_parallel: int | None = 2, memory: float | None = None, per_gpu: int = 1) -> Local:
    return Local(max_parallel=max_parallel, per_gpu=per_gpu, memory=memory, worker=None)


def asked(section: Any, max_parallel: int = 1) -> DictConfig:
    """The config of a study's command line, as far as it is read."""
    backend = OmegaConf.load(ROOT / "conf/backend/local.yaml")
    return OmegaConf.create(
        {"study": section, "backend": OmegaConf.merge(backend, {"max_parallel": max_parallel})}
    )


def grid(points: int = 3, **others) -> dict:
    return {"axes": {"variant.lr": {"decades": 2.0, "points": points}}} | others


class Folders(dict[Cell, Outcome]):
    """What the folders of cells would say, without any."""

    def score(self, cells: list[Cell], of: Callable[[Cell], float | None]) -> None:
        for cell in cells:
            known = of(cell)
            self[cell] = Outcome("complete" if known is not None else "diverged", "no", known)


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> Folders:
    known = Folders()
    monkeypatch.setattr(Cell, "outcome", lambda cell: known.get(cell, Outcome("waiting")))
    return known


def rate(cell: Cell) -> float:
    return float(cell.point[0].partition("=")[2])
