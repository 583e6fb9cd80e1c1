"""Ask a trained run: `python -m experiments.predict RUN --text "a fine film"`, or `--file FILE`."""

import argparse
from pathlib import Path

import pandas as pd

from experiments.adapters.saved import Trained, restore
from experiments.data.tables import Part, Table, read_table
from experiments.machine.processor import multiplying
from experiments.stored.kinds import add_option
from experiments.stored.shown import fail, no_formula, visible
from experiments.tasks.base import Task


def predict(trained: Trained, texts: list[tuple[str, ...]]) -> pd.DataFrame:
    """One row per text or pair: what the run says, and for classes the probability of each."""
    loaded, run = trained.loaded, trained.run
    with multiplying(next(loaded.model.parameters()).device, run.train.precision):
        return pd.DataFrame(run.task.answers(loaded, texts, run.limits))


def read_texts(task: Task, path: Path) -> list[tuple[str, ...]]:
    """The texts of a csv, tsv, json or parquet file with the task's own text columns."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    part = Part(
        task=task.name, split="given", columns=task.given, file=str(path), header=None, hub=None,
        skip_malformed=False,
    )  # fmt: skip
    return task.texts(read_table(path, part))


def read_given_texts(task: Task, texts: list[str]) -> list[tuple[str, ...]]:
    """The one text, or pair, of the command line."""
    if len(texts) != len(task.given):
        many = "one text" if len(task.given) == 1 else f"{len(task.given)} texts"
        raise ValueError(
            f"Task '{task.name}' takes {many} ({', '.join(task.given)}), got {len(texts)}."
        )
    columns = {column: [text] for column, text in zip(task.given, texts, strict=True)}
    return task.texts(Table("--text", columns, [1], "", unit="row"))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.predict", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", nargs="+", help="one text, or two for a task on pairs")
    given.add_argument("--file", type=Path, help="a table with the task's text columns")
    parser.add_argument("--base", help="folder of the base model, where it has moved")
    add_option(parser)
    parser.add_argument("--out", type=Path, help="write a csv here instead of showing the rows")
    arguments = parser.parse_args()
    try:
        trained = restore(arguments.run, base=arguments.base, other=arguments.other)
        task = trained.run.task
        if not task.given:
            raise ValueError(f"Task '{task.name}' is not asked about texts of one's own.")
        if arguments.text:
            texts = read_given_texts(task, arguments.text)
        else:
            texts = read_texts(task, arguments.file)
        table = predict(trained, texts)
        table = pd.concat([pd.DataFrame(texts, columns=task.given), table], axis=1)
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
