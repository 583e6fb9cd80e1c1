"""Texts continued by a language model: E2E NLG, and other tables of a source and its texts.

The layout is that of Hu et al., 2021, arXiv:2106.09685, in their code: the source, an end token, a
space and the target, an end token; only the target and its end are trained on.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data.sources import Source
from experiments.data.splits import Data, Split
from experiments.data.tables import Part, Table
from experiments.metrics.challenge import group, write_outputs
from experiments.models.inference import Evaluated
from experiments.tasks.continued import ContinuedTask, check_texts, end_of, objects

if TYPE_CHECKING:  # settings do not wait for torch
    from transformers import PreTrainedTokenizerBase

SLOT = re.compile(r"\s*([^\[\],]+)\[([^\]]*)\]\s*(?:,|$)")
# What Hu et al. call three of the slots.
RENAMED = {"eatType": "Type", "familyFriendly": "family friendly", "priceRange": "price"}
LAYOUTS = ("slots", "raw")


@dataclass(frozen=True, kw_only=True)
class GenerationTask(ContinuedTask):
    """A table of sources and texts; several texts of one source are its references."""

    source: str  # column
    target: str  # column
    layout: str  # slots: name[A], area[B] becomes name : A | area : B; raw: as it stands

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be {' or '.join(LAYOUTS)}, got '{self.layout}'.")
        super().__post_init__()

    def load(self, source: Source, evaluated: bool = True) -> Data:
        table = self.table(source, "train")
        pairs = zip(table.columns[self.source], table.columns[self.target], strict=True)
        train = Split(np.arange(len(table)), list(pairs), None, table.origin, table.sha256)
        score_on = self.score_on if evaluated else []
        return Data(train, {split: self.scored(source, split) for split in score_on}, {})

    def scored(self, source: Source, split: str) -> Split:
        """A split with its references."""
        table = self.table(source, split)
        columns = table.columns
        return group_by_source(
            columns[self.source], columns[self.target], table.origin, table.sha256
        )

    def held_out(self, part: Split) -> Split:
        sources, targets = (list(column) for column in zip(*part.texts, strict=True))
        return group_by_source(sources, targets, part.origin, part.sha256)

    def table(self, source: Source, split: str) -> Table:
        """The two columns of a split; every cell must be a text."""
        part = Part(
            task=self.name, split=split, columns=[self.source, self.target],
            file=self.files.get(split), header=self.header, hub=self.hub, skip_malformed=False,
        )  # fmt: skip
        table = source.table(part)
        self.check_sources(table)
        check_texts(table, self.target)
        return table

    def check_sources(self, table: Table) -> None:
        """Raise ValueError, naming the row, for a source that cannot be read."""
        check_texts(table, self.source)
        if self.layout == "slots":
            for row, source in enumerate(table.columns[self.source]):
                try:
                    slots(source)
                except ValueError as error:
                    raise ValueError(f"{table.where(row)}: {self.source}: {error}") from None

    def pairs(self, split: Split) -> list[tuple[str, str]]:
        if split.labels is None:
            return [(source, target) for source, target in split.texts]
        return [
            (source, target)
            for (source, *_), targets in zip(split.texts, split.labels, strict=True)
            for target in targets
        ]

    def encode_prompt(self, tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
        """The tokens that come before the target."""
        shown = slots(text) if self.layout == "slots" else text
        ids: Any = tokenizer(shown, add_special_tokens=False, verbose=False)["input_ids"]
        return [*ids, end_of(tokenizer)]

    def encode_targets(
        self, tokenizer: "PreTrainedTokenizerBase", pairs: list[tuple[str, str]]
    ) -> list[list[int]]:
        words: Any = tokenizer(
            [f" {target}" for _, target in pairs], add_special_tokens=False, verbose=False
        )
        return [[*ids, end_of(tokenizer)] for ids in words["input_ids"]]

    @property
    def given(self) -> list[str]:
        return [self.source]

    def texts(self, table: Table) -> list[tuple[str, ...]]:
        self.check_sources(table)
        return [(source,) for source in table.columns[self.source]]

    def write(self, folder: Path, name: str, item: Evaluated) -> None:
        """Write the texts in the challenge's format, which its scorer reads."""
        if not self.generates:
            return
        sources = [source for (source,) in item.split.texts]
        write_outputs(folder / f"outputs-{name}.tsv", sources, list(item.outputs))


def slots(source: str) -> str:
    """The slots of a meaning representation as the authors of LoRA write them.

    Raises ValueError for a text that is not a list of slots.
    """
    found, end = [], 0
    for match in SLOT.finditer(source):
        if match.start() != end:
            break
        name, value = match[1].strip(), match[2].strip()
        found.append(f"{RENAMED.get(name, name)} : {value}")
        end = match.end()
    if end != len(source) or not found:
        raise ValueError(
            f"{source!r} is not a list of slots such as name[...], area[...]; choose "
            "task.layout=raw for texts of another kind."
        )
    return " | ".join(found)


def group_by_source(sources: list[str], targets: list[str], origin: str, sha256: str) -> Split:
    """One example per source, in the order of the first, its labels the list of its texts."""
    groups = group(sources, targets)
    return Split(
        ids=np.arange(len(groups)),
        texts=[(text,) for text in groups],
        labels=objects(list(groups.values())),
        origin=origin,
        sha256=sha256,
    )
