"""Small made-up data for every GLUE task: same columns and labels, words from a tiny lexicon.

A stand-in for real data where none is at hand; easy on purpose, and no measure of anything.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

DETERMINERS = ["the", "this", "that", "their", "our"]
NOUNS = [
    *["film", "story", "actor", "song", "dinner", "hotel", "garden", "lesson", "market", "train"],
    *["bridge", "letter", "painting", "teacher", "river", "engine"],
]
VERBS = ["is", "was", "seemed", "remains"]
ADVERBS = ["very", "quite", "rather", "truly", "really", "so"]
GOOD = ["good", "lovely", "clever", "warm", "bright", "fresh", "gentle", "funny", "rich", "calm"]
BAD = ["bad", "dull", "awful", "cold", "bleak", "stale", "rude", "boring", "poor", "noisy"]
OTHER = ["not", "?"]


@dataclass(frozen=True)
class Clause:
    """One statement, such as: the film is not very good."""

    determiner: str
    noun: str
    verb: str
    negated: bool
    adverb: str
    adjective: str

    def words(self) -> list[str]:
        negation = ["not"] if self.negated else []
        return [self.determiner, self.noun, self.verb, *negation, self.adverb, self.adjective]

    def text(self) -> str:
        return " ".join(self.words())

    def question(self) -> str:
        """The clause asked back: is the film not very good ?"""
        words = self.words()
        return " ".join([words[2], *words[:2], *words[3:], "?"])

    def positive(self) -> bool:
        return (self.adjective in GOOD) != self.negated


def vocabulary() -> list[str]:
    """Every word that a text may hold."""
    return sorted({*DETERMINERS, *NOUNS, *VERBS, *ADVERBS, *GOOD, *BAD, *OTHER})


def clause(random: Random) -> Clause:
    """Any statement."""
    draw = random.choice
    adjective = draw(GOOD + BAD)
    return Clause(
        draw(DETERMINERS), draw(NOUNS), draw(VERBS), draw([True, False]), draw(ADVERBS), adjective
    )


def other(random: Random, words: list[str], word: str) -> str:
    """Any of the words but one."""
    return random.choice([candidate for candidate in words if candidate != word])


def sentiment(random: Random) -> tuple[str, ...]:
    drawn = clause(random)
    return drawn.text(), str(int(drawn.positive()))


def acceptability(random: Random) -> tuple[str, ...]:
    """A clause, or one with two neighbours swapped."""
    words = clause(random).words()
    acceptable = random.random() < 0.5
    if not acceptable:
        i = random.randrange(len(words) - 1)
        words[i], words[i + 1] = words[i + 1], words[i]
    return " ".join(words), str(int(acceptable))


def related(random: Random, kind: int) -> tuple[Clause, Clause]:
    """Two clauses: 0 the second follows, 1 it is of something else, 2 it contradicts."""
    first = clause(random)
    second = replace(first, adverb=other(random, ADVERBS, first.adverb))
    if kind == 1:
        second = replace(second, noun=other(random, NOUNS, first.noun))
    if kind == 2:
        second = replace(second, negated=not first.negated)
    return first, second


def pair(labels: list[str], questions: int) -> Callable[[Random], tuple[str, ...]]:
    """Pairs labelled by relation, the first so many of the two texts asked as questions."""

    def draw(random: Random) -> tuple[str, ...]:
        kind = random.choice([0, 0, 1, 2]) if labels[1] == labels[2] else random.randrange(3)
        clauses = related(random, kind)
        texts = [c.question() if i < questions else c.text() for i, c in enumerate(clauses)]
        return *texts, labels[kind]

    return draw


def similarity(random: Random) -> tuple[str, ...]:
    """A pair that differs in 0 to 5 words, scored 5 to 0."""
    first, changes = clause(random), random.randrange(6)
    slots = [
        ("determiner", DETERMINERS),
        ("noun", NOUNS),
        ("verb", VERBS),
        ("adverb", ADVERBS),
        ("adjective", GOOD + BAD),
    ]
    second = first
    for name, words in random.sample(slots, changes):
        second = replace(second, **{name: other(random, words, getattr(first, name))})
    return first.text(), second.text(), f"{5 - changes:.3f}"


ENTAILMENT = ["entailment", "not_entailment", "not_entailment"]

FIELDS = {
    "cola": ["sentence", "label"],
    "sst2": ["sentence", "label"],
    "mrpc": ["#1 String", "#2 String", "Quality"],
    "stsb": ["sentence1", "sentence2", "score"],
    "qqp": ["question1", "question2", "is_duplicate"],
    "mnli": ["sentence1", "sentence2", "gold_label"],
    "qnli": ["question", "sentence", "label"],
    "rte": ["sentence1", "sentence2", "label"],
    "wnli": ["sentence1", "sentence2", "label"],
}

DRAW: dict[str, Callable[[Random], tuple[str, ...]]] = {
    "cola": acceptability,
    "sst2": sentiment,
    "mrpc": pair(["1", "0", "0"], questions=0),
    "stsb": similarity,
    "qqp": pair(["1", "0", "0"], questions=2),
    "mnli": pair(["entailment", "neutral", "contradiction"], questions=0),
    "qnli": pair(ENTAILMENT, questions=1),
    "rte": pair(ENTAILMENT, questions=0),
    "wnli": pair(["1", "0", "0"], questions=0),
}


def rows(task: str, split: str, size: int, seed: int) -> dict[str, list[str]]:
    """The columns of `size` different rows; no first text of a train split is in another split."""
    random = Random(f"{task} {split} {seed}")
    # A dict, to keep the order and drop what is drawn twice.
    drawn: dict[tuple[str, ...], None] = {}
    for _ in range(100 * size):
        row = DRAW[task](random)
        if reserved(row[0]) != (split == "train"):
            drawn[row] = None
        if len(drawn) == size:
            values = zip(*drawn, strict=True)
            return {name: list(v) for name, v in zip(FIELDS[task], values, strict=True)}
    raise ValueError(f"The built-in sentences cannot give {size} rows of {task} {split}.")


def reserved(text: str) -> bool:
    """Whether a text is kept from train splits; the same in every process."""
    return hashlib.sha256(text.encode()).digest()[0] < 64
