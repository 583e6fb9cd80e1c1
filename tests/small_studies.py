"""Studies small enough for tests, and folders of cells that only say what they would hold."""

from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.settings.config import build
from experiments.study.cells import Cell, Outcome
from experiments.study.design import Study

ROOT = Path(__file__).parents[1]
SMALL = [
    "data.train=64", "data.dev=32", "train.epochs=2", "train.batch_size=16", "train.log_every=1",
    "tracker.mode=disabled", "train.device=cpu",
]  # fmt: skip


def study(**changes) -> Study:
    section = OmegaConf.load(ROOT / "conf/study/common.yaml")
    known = {"methods": {"lora": [], "vera": []}, "tasks": {"sst2": []}, "overrides": SMALL}
    return build("study", OmegaConf.merge(section, known | changes))


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
