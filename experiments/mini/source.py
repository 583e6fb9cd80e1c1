"""The rows of the built-in suite as a source of data."""

import hashlib
import json
from dataclasses import dataclass

from experiments.data.sources import Source
from experiments.data.tables import Part, Table, number_rows, pick
from experiments.mini import tasks
from experiments.stored.shown import near


@dataclass(frozen=True, kw_only=True)
class Mini(Source):
    """The built-in suite: rows made on the spot, equal on every machine."""

    train: int  # rows of the train split
    dev: int  # rows of every split but train and test
    test: int  # rows of every test split
    seed: int  # of the rows, and of the labels that are wrong
    noise: float  # share of the labels, in every split, that are wrong

    def __post_init__(self) -> None:
        if not 0 <= self.noise < 0.5:
            raise ValueError(f"data.noise must be at least 0 and below 0.5, got {self.noise}.")

    def table(self, part: Part) -> Table:
        if part.task not in tasks.FIELDS:
            raise ValueError(
                f"The built-in suite has no task '{part.task}', use data=local "
                f"data.dir=FOLDER.{near(part.task, tasks.FIELDS)} "
                f"It has: {', '.join(tasks.FIELDS)}."
            )
        if part.split not in tasks.SPLITS[part.task]:
            known = tasks.SPLITS[part.task]
            raise ValueError(
                f"The built-in suite has no split '{part.split}' of task '{part.task}'."
                f"{near(part.split, known)} It has: {', '.join(known)}."
            )
        size = {"train": self.train, "test": self.test}.get(tasks.lot(part.split), self.dev)
        columns = tasks.rows(part.task, part.split, size, self.seed, self.noise)
        origin = (
            f"built-in suite, mini/{part.task} {part.split}, seed {self.seed}, noise {self.noise}"
        )
        chosen = {column: pick(origin, columns, column) for column in part.columns}
        text = json.dumps(columns, sort_keys=True)
        return number_rows(origin, chosen, hashlib.sha256(text.encode()).hexdigest())
