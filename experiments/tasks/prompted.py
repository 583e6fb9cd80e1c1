"""A prompt and an answer as a YAML says them: questions, instructions, choices, summaries.

Each row of a table is one example. `prompt` and `target` are templates in which {column} stands for
a cell. The answer in a text is what the regular expression `answer` finds there first.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from string import Formatter
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.data.sources import Source
from experiments.data.splits import Data, Limits, Split
from experiments.data.tables import Part, Table, check_unicode
from experiments.models.inference import Evaluated
from experiments.tasks.continued import ContinuedTask, end_of, objects

if TYPE_CHECKING:  # settings do not wait for torch
    from transformers import PreTrainedTokenizerBase

    from experiments.models.model import Loaded


@dataclass(frozen=True, kw_only=True)
class PromptedTask(ContinuedTask):
    """A task defined by templates."""

    prompt: str  # what the model is given
    target: str  # the text to generate, a template too
    answer: str | None  # its first group, or all of its match; null: the whole text
    remove: list[str]  # texts left out of an answer, as the comma of 1,000
    choices: list[str] | None  # templates; the likeliest is the answer, and nothing is generated
    stop: list[str]  # texts that end a generated text, besides the end token
    chat: bool  # prompt and target as turns of the tokenizer's chat template
    words: dict[str, dict[str, str]] | None = None  # by column, what stands for each of its cells

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.columns_of(self.prompt):
            raise ValueError("prompt must name a column, as {question}.")
        if self.answer is not None:
            try:
                re.compile(self.answer)
            except re.error as error:
                raise ValueError(
                    f"answer '{self.answer}' is no regular expression: {error}."
                ) from None
        if self.choices is not None and len(self.choices) < 2:
            raise ValueError(f"choices must be two or more, got {len(self.choices)}.")

    def columns_of(self, *templates: str) -> list[str]:
        """The columns that templates name, each once; raises ValueError for one that is none."""
        names = []
        for template in templates:
            try:
                parts = list(Formatter().parse(template))
            except ValueError as error:
                raise ValueError(f"'{template}' is no template: {error}.") from None
            names += [name for _, name, _, _ in parts if name is not None]
        if odd := [name for name in names if not name.isidentifier()]:
            raise ValueError(f"A template names columns, as {{question}}, and not '{{{odd[0]}}}'.")
        return list(dict.fromkeys(names))

    def load(self, source: Source, evaluated: bool = True) -> Data:
        score_on = self.score_on if evaluated else []
        return Data(
            self.read(source, "train"),
            {split: self.held_out(self.read(source, split)) for split in score_on},
            {},
        )

    def read(self, source: Source, split: str) -> Split:
        """Prompt, target and choices of every row of a split."""
        templates = [self.prompt, self.target, *(self.choices or [])]
        part = Part(
            task=self.name, split=split, columns=self.columns_of(*templates),
            file=self.files.get(split), header=self.header, hub=self.hub, skip_malformed=False,
        )  # fmt: skip
        table = source.table(part)
        table = self.reworded(table)
        texts = [tuple(row) for row in zip(*(fill(table, t) for t in templates), strict=True)]
        for row, (_, target, *choices) in enumerate(texts):
            self.check_row(table.where(row), target, choices)
        return Split(np.arange(len(table)), texts, None, table.origin, table.sha256)

    def reworded(self, table: Table) -> Table:
        """The table with the task's words in the place of cells, such as those of class codes."""
        columns = dict(table.columns)
        for name, words in (self.words or {}).items():
            cells = [str(cell) for cell in columns.get(name, ())]  # numbers, in some formats
            for row, cell in enumerate(cells):
                if cell not in words:
                    raise ValueError(
                        f"{table.where(row)}: task.words.{name} has no word for {cell!r:.40}. It "
                        f"has words for {', '.join(words)}."
                    )
            if name in columns:
                columns[name] = [words[cell] for cell in cells]
        return replace(table, columns=columns)

    def check_row(self, where: str, target: str, choices: list[str]) -> None:
        """Raise ValueError for a row without an answer, or whose answer is none of its choices."""
        if not self.find_answer(target):
            raise ValueError(f"{where}: there is no answer in {target!r:.80}.")
        if choices and target not in choices:
            raise ValueError(f"{where}: {target!r:.40} is none of its choices, {choices!r:.80}.")

    def held_out(self, part: Split) -> Split:
        answers = [[self.find_answer(target)] for _, target, *_ in part.texts]
        return Split(part.ids, part.texts, objects(answers), part.origin, part.sha256)

    def pairs(self, split: Split) -> list[tuple[str, str]]:
        return [(prompt, target) for prompt, target, *_ in split.texts]

    def find_answer(self, text: str) -> str:
        """Return the first match of the pattern in a text, or an empty string."""
        for end in self.stop:
            text = text.partition(end)[0]
        if self.answer is not None:
            found = re.search(self.answer, text, re.DOTALL)
            text = "" if found is None else (found[1] if found.re.groups else found[0]) or ""
        for part in self.remove:
            text = text.replace(part, "")
        return text.strip()

    def encode_prompt(self, tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
        if self.chat:
            return turns(tokenizer, [("user", text)], generates=True)
        ids: Any = tokenizer(text, verbose=False)["input_ids"]
        # Some tokenizers end every text, and this one goes on.
        return list(ids[:-1] if ids and ids[-1] == end_of(tokenizer) else ids)

    def encode_targets(
        self, tokenizer: "PreTrainedTokenizerBase", pairs: list[tuple[str, str]]
    ) -> list[list[int]]:
        if self.chat:
            return [self.reply(tokenizer, prompt, target) for prompt, target in pairs]
        words: Any = tokenizer(
            [target for _, target in pairs], add_special_tokens=False, verbose=False
        )
        return [[*ids, end_of(tokenizer)] for ids in words["input_ids"]]

    def reply(self, tokenizer: "PreTrainedTokenizerBase", prompt: str, target: str) -> list[int]:
        """The tokens of a reply in the tokenizer's chat template, up to its end."""
        before = self.encode_prompt(tokenizer, prompt)
        whole = turns(tokenizer, [("user", prompt), ("assistant", target)], generates=False)
        if whole[: len(before)] != before:
            raise ValueError(
                "The tokenizer's chat template shows a question otherwise once it is answered; "
                "choose task.chat=false."
            )
        after = whole[len(before) :]
        end = end_of(tokenizer)
        return after[: after.index(end) + 1] if end in after else [*after, end]

    def evaluate(self, loaded: "Loaded", split: Split, limits: Limits) -> Evaluated:
        if self.choices is None or not self.generates:
            return super().evaluate(loaded, split, limits)
        choices = [own for _, _, *own in split.texts]
        prompts = [prompt for prompt, *_ in split.texts]
        sums, truncated = self.weigh(loaded, prompts, choices, limits)
        rows = zip(choices, (target for _, target, *_ in split.texts), sums, strict=True)
        loss, tokens = np.sum([one[own.index(target)] for own, target, one in rows], axis=0)
        return Evaluated(split, likeliest(choices, sums), truncated, {"loss": float(loss / tokens)})

    def weigh(
        self, loaded: "Loaded", prompts: list[str], choices: list[list[str]], limits: Limits
    ) -> tuple[np.ndarray, int]:
        """The loss and the tokens of every choice [n, choices, 2], and how many were too long."""
        pairs = [(prompt, one) for prompt, own in zip(prompts, choices, strict=True) for one in own]
        sums, truncated = self.losses(loaded, pairs, limits)
        return sums.reshape(len(prompts), -1, 2), truncated

    @property
    def given(self) -> list[str]:
        return self.columns_of(self.prompt, *(self.choices or []))

    def texts(self, table: Table) -> list[tuple[str, ...]]:
        templates = (self.prompt, *(self.choices or []))
        return list(zip(*(fill(table, template) for template in templates), strict=True))

    def answers(
        self, loaded: "Loaded", texts: list[tuple[str, ...]], limits: Limits
    ) -> Mapping[str, Any]:
        if self.choices is not None:
            choices = [own for _, *own in texts]
            sums, _ = self.weigh(loaded, [prompt for prompt, *_ in texts], choices, limits)
            return {"prediction": likeliest(choices, sums)}
        found = self.continued(loaded, texts)
        return {"prediction": found, "answer": [self.find_answer(text) for text in found]}


def likeliest(choices: list[list[str]], sums: np.ndarray) -> np.ndarray:
    """The choice [n] with the least loss of each row."""
    return objects([own[best] for own, best in zip(choices, sums[..., 0].argmin(1), strict=True)])


def fill(table: Table, template: str) -> list[str]:
    """The template with each row's cells; raises ValueError naming the row for one without."""
    found = []
    names = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    for row in range(len(table)):
        cells = {name: table.columns[name][row] for name in names}
        for name, cell in cells.items():
            if cell is None:
                raise ValueError(f"{table.where(row)}: {name} is empty.")
            check_unicode(f"{table.where(row)}: {name}", str(cell))
        found.append(template.format(**cells))
    return found


def turns(
    tokenizer: "PreTrainedTokenizerBase", said: list[tuple[str, str]], generates: bool
) -> list[int]:
    """The tokens of a conversation; raises ValueError for a tokenizer without a chat template."""
    if tokenizer.chat_template is None:
        raise ValueError("The tokenizer has no chat template; choose task.chat=false.")
    messages = [{"role": role, "content": content} for role, content in said]
    text: Any = tokenizer.apply_chat_template(
        messages, add_generation_prompt=generates, tokenize=False
    )
    ids: Any = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return list(ids)
