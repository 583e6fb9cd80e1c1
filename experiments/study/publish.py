"""The small record of a study: results and predictions, without texts and without weights.

Predictions of trials are among them, so that the choice of settings can be judged as well.

Its folders lie as they do in `outputs`, so that a study that was published goes on where it stopped
once they are copied back: `cp -r results/NAME/. outputs/`.
"""

import shutil
from pathlib import Path

import pandas as pd

from experiments.results import write_predictions
from experiments.study.cells import FAILURE, Cell
from experiments.study.design import OUTPUTS, STUDIES
from experiments.study.plan import Plan

RESULTS = Path("results")


def publish(plan: Plan) -> Path:
    """Copy what is settled; returns the folder it was copied to."""
    place = RESULTS / plan.name
    for cell in plan.look():
        if plan.outcome(cell).settled:
            publish_cell(cell, place / cell.folder.relative_to(OUTPUTS))
    study = STUDIES / plan.name
    for name in ("study.json", "summary.json"):
        if (OUTPUTS / study / name).exists():
            copy(OUTPUTS / study / name, place / study / name)
    return place


def publish_cell(cell: Cell, place: Path) -> None:
    """Copy one run's result, or the reason why there is none, and the predictions to be judged."""
    for name in ("result.json", FAILURE):
        if (cell.folder / name).exists():
            copy(cell.folder / name, place / name)
    predictions = cell.folder / "predictions.parquet"
    if predictions.exists():
        write_predictions(place, without_texts(pd.read_parquet(predictions)))


def without_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that hold numbers, or lists of them, and the name of the split."""
    texts = [name for name in frame if name != "split" and is_text(frame[name].iloc[0])]
    return frame.drop(columns=texts)


def is_text(value: object) -> bool:
    """Whether a value is a text, or a list of texts."""
    if isinstance(value, str):
        return True
    return not pd.api.types.is_number(value) and any(isinstance(item, str) for item in list(value))  # pyright: ignore[reportCallIssue, reportArgumentType] (else a list or an array)


def copy(source: Path, target: Path) -> None:
    """Copy one file to a folder that may not be there yet."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
