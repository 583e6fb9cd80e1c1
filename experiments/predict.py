"""Ask a trained run: `python -m experiments.predict RUN --text "a fine film"`, or `--file FILE`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.data.tables import Part, Table, read_table
from experiments.stored.kinds import add_option
from experiments.stored.shown import fail, no_formula, visible
from experiments.tasks.base import Task

if TYPE_CHECKING:  # --help does not wait for them
    import pandas as pd

    from experiments.adapters.saved import Trained

IN_FILE = "{} in file"  # the name of a column of the file that predictions have too


def predict(trained: "Trained", texts: list[tuple[str, ...]]) -> "pd.DataFrame":
    """One row per text or pair: what the run says, and for classes the probability of each."""
    import pandas as pd

    from experiments.machine.processor import multiplying

    loaded, run = trained.loaded, trained.run
    with multiplying(next(loaded.model.parameters()).device, run.train.precision):
        return pd.DataFrame(run.task.answers(loaded, texts, run.limits))


def read_file(task: Task, path: Path) -> Table:
    """A csv, tsv, json or parquet file with the task's text columns, and whatever else it has."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    part = Part(
        task=task.name, split="given", columns=task.given, file=str(path), header=None, hub=None,
        skip_malformed=False, rest=True,
    )  # fmt: skip
    return read_table(path, part)


def read_texts(task: Task, texts: list[str]) -> Table:
    """The one text, or pair, of the command line, as a table of one row."""
    if len(texts) != len(task.given):
        many = "one text" if len(task.given) == 1 else f"{len(task.given)} texts"
        raise ValueError(
            f"Task '{task.name}' takes {many} ({', '.join(task.given)}), got {len(texts)}."
        )
    columns = {column: [text] for column, text in zip(task.given, texts, strict=True)}
    return Table("--text", columns, [1], "", unit="row")


def answer(trained: "Trained", given: Table) -> "pd.DataFrame":
    """The rows that were given, with all their columns, and what the run says of each."""
    import pandas as pd

    found = predict(trained, trained.run.task.texts(given))
    columns = {IN_FILE.format(n) if n in found else n: cells for n, cells in given.columns.items()}
    return pd.concat([pd.DataFrame(columns), found], axis=1)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.predict", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", nargs="+", help="one text, or two for a task on pairs")
    given.add_argument("--file", type=Path, help="a table with texts; keeps all its columns")
    parser.add_argument("--base", help="folder of the base model, if it has moved")
    add_option(parser)
    parser.add_argument("--out", type=Path, help="write a csv here instead of showing the rows")
    arguments = parser.parse_args()
    from experiments.adapters.saved import restore  # which imports torch

    try:
        trained = restore(arguments.run, base=arguments.base, other=arguments.other)
        task = trained.run.task
        if not task.given:
            raise ValueError(f"Task '{task.name}' is not asked about texts of one's own.")
        if arguments.text:
            given = read_texts(task, arguments.text)
        else:
            given = read_file(task, arguments.file)
        table = answer(trained, given)
        if arguments.out:
            safe = table.assign(prediction=table["prediction"].map(no_formula))
            safe.rename(columns=no_formula).to_csv(arguments.out, index=False)
    except (ValueError, OSError) as error:
        fail(error)
    if arguments.out:
        print(f"{len(table):,} predictions in {arguments.out}")
    else:
        shown = table.map(lambda cell: visible(cell) if isinstance(cell, str) else cell)
        print(shown.rename(columns=visible).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
