"""E2E NLG's metrics against the official scorer, and what each library gives instead.

    python benchmarks/nlg_metrics.py [--data ../shared/data/e2e]

The folder holds testset_w_refs.csv and system_outputs/ with the outputs of challenge systems and
official_scores.json. The rows of pycocoevalcap need the extra e2e and Java; the others show what a
library gives by default, or what comes of one part done in another way.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from sacrebleu.metrics.bleu import BLEU

from experiments.metrics import captions, meteor, mteval, ptb
from experiments.metrics.challenge import group, read_outputs, repair_text
from experiments.metrics.grams import Words
from experiments.metrics.nlg import score

Texts = list[str]
Given = list[list[str]]
DROPPED = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";", ""}


def sacrebleu(outputs: Texts, references: Given, lowercase: bool) -> float:
    """The library's own score of a corpus; it wants references as columns."""
    most = max(map(len, references))
    columns: Any = [[r[i] if i < len(r) else None for r in references] for i in range(most)]
    return BLEU(lowercase=lowercase, force=True).corpus_score(outputs, columns).score / 100


def segment_nist(outputs: Texts, references: Given) -> float:
    """NIST as the official scorer's Python mode has it, with a length expected of each example."""
    words = [mteval.tokenize(text) for text in outputs]
    given = [[mteval.tokenize(text) for text in texts] for texts in references]
    rows = mteval.nist_rows(words, given)
    rows[:, -2] /= rows[:, -1]
    rows[:, -1] = 1.0
    return float(mteval.nist_score(np.sum(rows, axis=0), len(rows)))


def captioned(
    rows: Callable[[list[Words], list[list[Words]]], np.ndarray], split: Callable[[str], Words]
) -> Callable[[Texts, Given], float]:
    """A metric of the captions on words split in some way."""
    return lambda outputs, references: float(
        np.mean(rows([split(t) for t in outputs], [[split(t) for t in r] for r in references]))
    )


def stanford(texts: Texts) -> list[Words]:
    """The words of the program that pycocoevalcap runs."""
    jar = meteor.program().parents[1] / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        file.write("\n".join(texts))
        file.flush()
        command = ["java", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
        command += ["-preserveLines", "-lowerCase", file.name]
        lines = subprocess.run(command, capture_output=True, check=True).stdout.decode().split("\n")
    return [[w for w in line.rstrip().split(" ") if w not in DROPPED] for line in lines][
        : len(texts)
    ]


def pycocoevalcap(module: str, name: str) -> Callable[[Texts, Given], float]:
    """A scorer of the library behind its own tokenizer."""

    def value(outputs: Texts, references: Given) -> float:
        flat = [text for texts in references for text in texts]
        words = [" ".join(found) for found in stanford([*outputs, *flat])]
        rest = iter(words[len(outputs) :])
        given = {i: [next(rest) for _ in texts] for i, texts in enumerate(references)}
        scorer = getattr(import_module(f"pycocoevalcap.{module}"), name)()
        return scorer.compute_score(given, {i: [words[i]] for i in given})[0]

    return value


LIBRARIES: list[tuple[str, str, Callable[[Texts, Given], float]]] = [
    ("BLEU", "sacrebleu, lowercase=True", lambda o, r: sacrebleu(o, r, True)),
    ("BLEU", "sacrebleu by default, cased", lambda o, r: sacrebleu(o, r, False)),
    ("NIST", "length expected by example", segment_nist),
    ("ROUGE_L", "on mteval's words", captioned(captions.rouge_rows, mteval.tokenize)),
    ("ROUGE_L", "on words between spaces", captioned(captions.rouge_rows, str.split)),
    ("CIDEr", "on mteval's words", captioned(captions.cider_rows, mteval.tokenize)),
    ("CIDEr", "on words between spaces", captioned(captions.cider_rows, str.split)),
]
JAVA: list[tuple[str, str, Callable[[Texts, Given], float]]] = [
    ("METEOR", "pycocoevalcap", pycocoevalcap("meteor.meteor", "Meteor")),
    ("ROUGE_L", "pycocoevalcap", pycocoevalcap("rouge.rouge", "Rouge")),
    ("CIDEr", "pycocoevalcap", pycocoevalcap("cider.cider", "Cider")),
]


def columns(*names: str) -> Table:
    """A table, text to the left and numbers to the right."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in names:
        table.add_column(name, justify="left" if name in ("system", "metric", "from") else "right")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/e2e"))
    folder = parser.parse_args().data
    given = group(*read_outputs(folder / "testset_w_refs.csv"))
    official = json.loads(
        (folder / "system_outputs" / "official_scores.json").read_text(encoding="utf-8")
    )
    console = Console()
    missing = meteor.missing()
    if missing:
        console.print(missing)
    ours = columns("system", "metric", "ours", "official", "difference", "seconds")
    others = columns("metric", "from", *official)
    outputs = {
        system: [repair_text(text) for text in read_outputs(folder / "system_outputs" / system)[1]]
        for system in official
    }
    references = [[repair_text(text) for text in texts] for texts in given.values()]
    for system, texts in outputs.items():
        for metric in ("BLEU", "NIST", "METEOR", "ROUGE_L", "CIDEr"):
            start = time.perf_counter()
            value = score(texts, references, [metric])[metric]
            seconds = time.perf_counter() - start
            expected = official[system][metric]
            cells = ["-", f"{expected:.4f}", "-", "-"]
            if value is not None:
                cells = [f"{value:.4f}", cells[1], f"{value - expected:+.5f}", f"{seconds:.1f}"]
            ours.add_row(system, metric, *cells)
    console.print(ours)
    for metric, name, value in [*LIBRARIES, *([] if missing else JAVA)]:
        cells = [
            f"{value(texts, references) - official[system][metric]:+.4f}"
            for system, texts in outputs.items()
        ]
        others.add_row(metric, name, *cells)
    console.print(others)
    if not missing:
        every = sorted({*(t for texts in outputs.values() for t in texts), *sum_of(references)})
        equal = sum(
            ptb.tokenize(t) == words for t, words in zip(every, stanford(every), strict=True)
        )
        console.print(f"Words equal to those of pycocoevalcap: {equal} of {len(every)} texts.")


def sum_of(texts: Given) -> Texts:
    """All references in a row."""
    return [text for given in texts for text in given]


if __name__ == "__main__":
    main()
