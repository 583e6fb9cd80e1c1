"""Labelled rows of the built-in suite: a miniature of each GLUE task and of E2E, from one grammar.

Composition decides every label. What a task tests is never in two of train, dev and test:
adjectives of opinion, nouns that must agree, people, verbs, things and kinds of things.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from experiments.mini import grammar, lexicon
from experiments.mini.grammar import Draw, sentence
from experiments.mini.lexicon import Noun, share
from experiments.mini.logic import CONTRADICTION, ENTAILMENT, NEUTRAL, claims, deeds

Row = tuple[str, ...]

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
    "e2e": ["mr", "ref"],
}
YES_NO = ["0", "1"]
FOLLOWS = [ENTAILMENT, "not_entailment"]
SCORES = [f"{points}.000" for points in range(6)]
# In the last column; e2e has none.
LABELS = {
    "cola": YES_NO,
    "sst2": YES_NO,
    "mrpc": YES_NO,
    "stsb": SCORES,
    "qqp": YES_NO,
    "mnli": [ENTAILMENT, NEUTRAL, CONTRADICTION],
    "qnli": FOLLOWS,
    "rte": FOLLOWS,
    "wnli": YES_NO,
}
SPLITS = {
    task: ["train", "dev", "test"] if task != "mnli" else
    ["train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched", "ax"]
    for task in FIELDS
}  # fmt: skip


def lot(split: str) -> str:
    """Whose words a split uses: those of train, dev or test."""
    return "test" if split == "ax" else split.partition("_")[0]


def sst2(draw: Draw, split: str, label: str) -> Row:
    noun = draw.one(lexicon.REVIEWED)
    words = grammar.words(lot(split))
    said, _ = grammar.opinion(draw, noun, label == "1", words, depths=(0, 1, 1, 2), weighed=0.5)
    return (sentence(said),)


def cola(draw: Draw, split: str, label: str) -> Row:
    nouns = share([noun for kind in lexicon.LIVING + lexicon.MADE for noun in kind], lot(split))
    persons = share(lexicon.PERSONS, lot(split))
    return (sentence(grammar.agreement(draw, nouns, persons, right=label == "1")),)


def mrpc(draw: Draw, split: str, label: str) -> Row:
    words = grammar.words(lot(split))
    one = grammar.some_event(draw, words)
    two = one if label == "1" else grammar.change_event(draw, one, words)
    return sentence(grammar.statement(draw, one)), sentence(grammar.statement(draw, two))


def qqp(draw: Draw, split: str, label: str) -> Row:
    pair = grammar.inquiries(draw, grammar.words(lot(split)), label == "1")
    return tuple(sentence(grammar.question(draw, *asked), "?") for asked in pair)


def stsb(draw: Draw, split: str, label: str) -> Row:
    changes = SCORES[::-1].index(label)
    one, two = grammar.compare_events(draw, grammar.words(lot(split)), changes)
    return sentence(grammar.statement(draw, one)), sentence(grammar.statement(draw, two))


def qnli(draw: Draw, split: str, label: str) -> Row:
    words = grammar.words(lot(split))
    told = grammar.some_event(draw, words)
    part = draw.one([part for part in grammar.askable_parts(told) if part != "whole"])
    question = grammar.question(draw, told, part)
    if label != ENTAILMENT:
        told = grammar.unanswering(draw, told, part, words)
    return sentence(question, "?"), sentence(grammar.statement(draw, told))


def kinds(split: str) -> list[list[Noun]]:
    """The kinds of things a split speaks of; what is mismatched is of another topic."""
    living, made = (share(topic, lot(split)) for topic in (lexicon.LIVING, lexicon.MADE))
    if split.endswith("_mismatched"):
        return made
    return living if split == "train" or split.endswith("_matched") else living + made


def mnli(draw: Draw, split: str, label: str) -> Row:
    kind = draw.one(kinds(split))
    if split == "ax":
        return diagnostic(draw, kind, label)
    if draw.chance(0.5):
        return tuple(sentence(claim.text(draw)) for claim in claims(draw, label, kind))
    person = draw.one(grammar.people(lot(split)))
    return tuple(sentence(deed.text(draw)) for deed in deeds(draw, label, kind, person))


def diagnostic(draw: Draw, kind: list[Noun], label: str) -> Row:
    """Two claims of which the first is told by denying its opposite, which no other text does."""
    one, two = claims(draw, label, kind)
    opposite = replace(one, quantifier=OPPOSITE[one.quantifier])
    return sentence(f"it is not true that {opposite.text(draw)}"), sentence(two.text(draw))


OPPOSITE = {"every": "not every", "not every": "every", "some": "no", "no": "some"}


def rte(draw: Draw, split: str, label: str) -> Row:
    topics = share(lexicon.LIVING + lexicon.MADE, lot(split))
    relation = label if label == ENTAILMENT else draw.one([NEUTRAL, NEUTRAL, CONTRADICTION])
    person = draw.one(grammar.people(lot(split)))
    pair = deeds(draw, relation, draw.one(topics), person)
    return tuple(sentence(deed.text(draw)) for deed in pair)


def wnli(draw: Draw, split: str, label: str) -> Row:
    thing = draw.one(share(lexicon.OBJECTS, lot(split)))
    box = draw.one(share(lexicon.CONTAINERS, lot(split)))
    big = draw.chance(0.5)
    size = draw.one(lexicon.BIG if big else lexicon.SMALL)
    blamed = thing if big == (label == "1") else box
    return sentence(grammar.misfit(draw, thing, box, size)), sentence(
        f"the {blamed} was too {size}"
    )


DRAW: dict[str, Callable[[Draw, str, str], Row]] = {
    "cola": cola,
    "sst2": sst2,
    "mrpc": mrpc,
    "stsb": stsb,
    "qqp": qqp,
    "mnli": mnli,
    "qnli": qnli,
    "rte": rte,
    "wnli": wnli,
}


def label_rows(task: str, split: str, draw: Draw) -> Iterator[Row]:
    """Rows without end, labels in equal shares, texts in any number of copies."""
    while True:
        label = draw.one(LABELS[task])
        yield *DRAW[task](draw, split, label), label


def restaurants(split: str, draw: Draw) -> Iterator[Row]:
    """Meaning representations, each with two to five different references."""
    names = share(lexicon.VENUES, split)
    while True:
        venue = grammar.venue(draw, names)
        said = dict.fromkeys(grammar.describe_fields(draw, venue) for _ in range(2 + draw.below(7)))
        if len(said) > 1:
            yield from ((venue.meaning(), text) for text in islice(said, 5))


def rows(task: str, split: str, size: int, seed: int, noise: float = 0.0) -> dict[str, list[str]]:
    """The columns of `size` different rows, a share `noise` of which has another label, drawn."""
    draw = Draw(f"{task} {split} {seed}")
    source = restaurants(split, draw) if task == "e2e" else label_rows(task, split, draw)
    # A dict, to keep the order and drop what is drawn twice.
    drawn: dict[Row, None] = {}
    for row in islice(source, 100 * size):
        drawn[row] = None
        if len(drawn) == size:
            break
    else:
        raise ValueError(f"The built-in suite cannot give {size} rows of {task} {split}.")
    # Errors have a stream of their own: the rows are the same at every rate.
    columns = [list(column) for column in zip(*drawn, strict=True)]
    if task != "e2e":
        columns[-1] = mistaken(task, columns[-1], noise, Draw(f"{task} {split} {seed} noise"))
    return dict(zip(FIELDS[task], columns, strict=True))


def mistaken(task: str, labels: list[str], noise: float, draw: Draw) -> list[str]:
    """The labels with a share replaced: a class by any other, a score by any."""
    known = LABELS[task]
    found = []
    for label in labels:
        wrong = draw.one(known) if task == "stsb" else draw.other(known, label)
        found.append(wrong if draw.chance(noise) else label)
    return found


def ceiling(task: str, noise: float) -> float:
    """The expected score, by the task's first metric, of always giving the label before noise.

    Accuracy is the share of labels left as they were. Of two equally frequent classes, Matthews'
    correlation loses twice the share exchanged. A score replaced by an independent one of the same
    distribution adds nothing to the covariance and leaves the variances: Pearson's correlation is
    the share left.
    """
    return 1 - (2 * noise if task == "cola" else noise)
