"""Ask a trained run: `python -m experiments.predict RUN --text "a fine film"`, or `--file FILE`."""

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.adapters.saved import Trained, restore
from experiments.tasks.base import Split
from experiments.tasks.tables import Part, read_table
from experiments.tasks.text import TextTask


def predict(trained: Trained, texts: list[tuple[str, ...]]) -> pd.DataFrame:
    """One row per text or pair: what the run says, and for classes the probability of each."""
    task = trained.run.task
    split = Split(np.arange(len(texts)), texts, None, "given", "")
    outputs = task.evaluate(trained.loaded, split, trained.run.train).outputs
    predictions = task.predict(outputs)
    if task.regression:
        return pd.DataFrame({"prediction": predictions})
    exponentials = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    shares = exponentials / exponentials.sum(axis=1, keepdims=True)
    columns = {f"p({name})": shares[:, code] for code, name in enumerate(task.names)}
    return pd.DataFrame({"prediction": [task.names[code] for code in predictions], **columns})


def read_texts(task: TextTask, path: Path) -> list[tuple[str, ...]]:
    """The texts of a csv, tsv, json or parquet file with the task's own text columns."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    part = Part(
        task=task.name, split="given", columns=task.text, file=str(path), header=None, hub=None,
        skip_malformed=False,
    )  # fmt: skip
    return task.texts(read_table(path, part))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.predict", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", nargs="+", help="one text, or two for a task on pairs")
    given.add_argument("--file", type=Path, help="a table with the task's text columns")
    parser.add_argument("--out", type=Path, help="write a csv here instead of showing the rows")
    arguments = parser.parse_args()
    try:
        trained = restore(arguments.run)
        task = trained.run.task
        if not isinstance(task, TextTask):
            raise ValueError(f"Task '{task.name}' is not one of classes or scores.")
        if arguments.text and len(arguments.text) != len(task.text):
            many = "one text" if len(task.text) == 1 else f"{len(task.text)} texts"
            raise ValueError(
                f"Task '{task.name}' takes {many} ({', '.join(task.text)}), "
                f"got {len(arguments.text)}."
            )
        if arguments.text and not task.allow_empty and not all(map(str.strip, arguments.text)):
            raise ValueError("--text is empty, and so would be the answer.")
        texts = [tuple(arguments.text)] if arguments.text else read_texts(task, arguments.file)
        table = predict(trained, texts)
        table = pd.concat([pd.DataFrame(texts, columns=task.text), table], axis=1)
        if arguments.out:
            table.to_csv(arguments.out, index=False)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if arguments.out:
        print(f"{len(table):,} predictions in {arguments.out}")
    else:
        print(table.to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
