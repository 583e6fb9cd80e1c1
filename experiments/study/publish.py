"""The small record of a study: results, predictions and histories, without texts and weights.

Predictions of trials are among them, so that the choice of settings can be judged as well.

Its folders are the same as in `outputs`, so a published study continues where it stopped after
they are copied back: `cp -r results/NAME/. outputs/`.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.disk.files import CHECKSUM, read_object, write_lines, write_record
from experiments.disk.outputs import OUTPUTS
from experiments.results.result import write_predictions
from experiments.stored import halfway, history, study, summary
from experiments.stored import result as stored
from experiments.stored.places import mask_paths, paths_in, without_release
from experiments.study.cells import FAILURE, Cell
from experiments.study.design import STUDIES
from experiments.study.plan import Plan

RESULTS = Path("results")


def publish(plan: Plan) -> tuple[Path, set[str]]:
    """Copy the settled runs; return the folder with the copy, and the paths that were masked."""
    place = RESULTS / plan.name
    found: set[str] = set()
    for cell in plan.refresh():
        if plan.outcome(cell).settled:
            found |= publish_cell(cell, place / cell.folder.relative_to(OUTPUTS))
    own = STUDIES / plan.name
    for name in (study.NAME, summary.NAME):
        if (OUTPUTS / own / name).exists():
            found |= copy(OUTPUTS / own / name, place / own / name)
    return place, found


def publish_cell(cell: Cell, place: Path) -> set[str]:
    """Copy one run's result, or the reason why there is none, and the predictions to be judged.

    Returns the absolute paths that stood in them.
    """
    path = cell.folder / stored.PREDICTIONS
    found: set[str] = set()
    for name in (FAILURE, halfway.NAME):
        if (cell.folder / name).exists():
            found |= copy(cell.folder / name, place / name)
    if not (cell.folder / stored.NAME).exists():
        return found
    content = stored.read(cell.folder / stored.NAME)
    if records := history.read(cell.folder):
        write_lines(place / history.NAME, history.to_publish(records))
    files = {}
    if path.exists():
        frame = stored.read_predictions(path, content["files"].get(stored.PREDICTIONS))
        files[stored.PREDICTIONS] = write_predictions(place, without_texts(frame))
    content["provenance"]["system"] = without_release(content["provenance"]["system"])
    if content["schema"] > 2:  # earlier ones know of no checksums
        content["files"] = files
    write_record(place / stored.NAME, mask_paths(content))
    return found | paths_in(content)


def without_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that hold numbers, or lists of them, and the name of the split."""
    texts = [name for name in frame if name != "split" and is_text(frame[name].iloc[0])]
    return frame.drop(columns=texts)


def is_text(value: object) -> bool:
    """Return whether a value is a text, or a list of texts."""
    if isinstance(value, str):
        return True
    return not pd.api.types.is_number(value) and any(isinstance(item, str) for item in list(value))  # pyright: ignore[reportCallIssue, reportArgumentType] (else a list or an array)


def copy(source: Path, target: Path) -> set[str]:
    """Copy a record to a folder that may not be there yet, without the paths, which it returns."""
    content: dict[str, Any] = read_object(source)
    content.pop(CHECKSUM, None)
    write_record(target, mask_paths(content))
    return paths_in(content)
