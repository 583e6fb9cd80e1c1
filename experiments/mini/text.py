"""Unlabelled text of the built-in suite: short passages that hang together.

The passages carry what the tasks need and no label says: which words are near in meaning, what is a
kind of what, how number travels through a sentence, and, through the words that join sentences,
what follows from what. All of it is grammatical and consistent.
"""

from collections.abc import Callable, Iterator

from experiments.mini import grammar, lexicon
from experiments.mini.grammar import Claim, Deed, Draw, Event, article, sentence
from experiments.mini.logic import CONTRADICTION, ENTAILMENT, NEUTRAL, claims, deeds

EVERYTHING = grammar.words()
KINDS = lexicon.LIVING + lexicon.MADE
LIKED = ["we liked it", "people loved it", "it was a success"]
DISLIKED = ["we disliked it", "people hated it", "it was a failure"]
# The words that tell how sentences relate stand alone: none can be guessed from words beside it.
SHORTLY, STILL = ["so", "overall"], ["still", "nevertheless"]
SAME, OTHER = ["namely", "equivalently"], ["separately", "meanwhile"]
AGREE, DIFFER = "They agree.", "They differ."
ANSWERS, MISSES = "That answers it.", "That misses it."
COUNTS = ["none", "one", "two", "three", "four", "five"]
RELATED = {
    ENTAILMENT: (["therefore", "thus"], "That follows."),
    NEUTRAL: (["perhaps", "possibly"], "That depends."),
    CONTRADICTION: (["impossibly", "falsely"], "That fails."),
}
# What a model should be made to guess more often than other words.
TELLING = frozenset(
    [
        *(word for verdict in LIKED + DISLIKED for word in verdict.split()[-2:]),
        *[*SHORTLY, *STILL, *SAME, *OTHER, *COUNTS],
        *["agree", "differ", "answers", "misses", "follows", "depends", "fails"],
        *(word for words, _ in RELATED.values() for word in words),
    ]
) - {"it", "a"}


def join(connective: str, text: str) -> str:
    """A sentence that begins with a connective."""
    return sentence(f"{connective}, {text}")


def reviews(draw: Draw) -> list[str]:
    """An opinion, and what goes with it."""
    noun, positive = draw.one(lexicon.REVIEWED), draw.chance(0.5)
    # Mostly plain: where a word alone says nothing, nothing can be learned to begin with.
    said = grammar.opinion(draw, noun, positive, EVERYTHING, (0, 0, 0, 1, 1, 2), weighed=0.35)
    first = sentence(said)
    verdict = draw.one(LIKED if positive else DISLIKED)
    kind = draw.below(10)
    if kind < 4:
        return [first, join(draw.one(SHORTLY), verdict)]
    if kind < 5:
        against = draw.one(DISLIKED if positive else LIKED)
        return [first, join(draw.one(STILL), against)]
    if kind < 6:
        return [sentence(verdict), first]
    same = grammar.judgement(draw, f"the {noun}", positive, draw.one([0, 0, 1]), EVERYTHING)
    if kind < 8:
        again = grammar.judgement(draw, f"the {noun}", positive, draw.one([0, 0, 1]), EVERYTHING)
        return [sentence(again), join(draw.one(SAME), same)]
    if kind == 8:
        one = draw.some(EVERYTHING.good if positive else EVERYTHING.bad, 3)
        return [
            sentence(f"the {noun} was {one[0]} and {one[1]}"),
            join("overall", f"it was {one[2]}"),
        ]
    opposite, true = lexicon.BAD, lexicon.GOOD
    if not positive:
        opposite, true = true, opposite
    return [
        sentence(f"the {noun} was {draw.one(grammar.DENIALS[:2])} {draw.one(opposite)}"),
        sentence(f"on the contrary, it was {draw.one(true)}"),
    ]


ALL_NOUNS = [noun for kind in KINDS for noun in kind]


def agreements(draw: Draw) -> list[str]:
    """One or two sentences with agreement over a distance."""
    if draw.chance(0.25):
        plural = draw.chance(0.5)
        noun = draw.one(ALL_NOUNS)
        word = draw.one(["these", "those"] if plural else ["this", "that"])
        be, it = ("are", "they") if plural else ("is", "it")
        return [
            sentence(f"{word} {grammar.number(noun, plural)} {be} {draw.one(lexicon.STATES)}"),
            sentence(f"{it} {grammar.predicate(draw, plural)}"),
        ]
    return [
        sentence(grammar.agreement(draw, ALL_NOUNS, lexicon.PERSONS, right=True))
        for _ in range(1 + draw.below(2))
    ]


def another(draw: Draw, event: Event) -> Event:
    """Another event, often of other people: the easy cases lead to the hard ones."""
    if draw.chance(0.4):
        return grammar.some_event(draw, EVERYTHING)
    return grammar.changed(draw, event, EVERYTHING)


def paraphrases(draw: Draw) -> list[str]:
    """An event told twice, or two events, and a word on which it is."""
    one, same = grammar.some_event(draw, EVERYTHING), draw.chance(0.5)
    two = one if same else another(draw, one)
    first = sentence(grammar.statement(draw, one))
    if draw.chance(0.6):
        return [first, join(draw.one(SAME if same else OTHER), grammar.statement(draw, two))]
    return [first, sentence(grammar.statement(draw, two)), AGREE if same else DIFFER]


def questions(draw: Draw) -> list[str]:
    """Two questions with a word on whether they are the same one."""
    same = draw.chance(0.5)
    pair = grammar.inquiries(draw, EVERYTHING, same)
    if draw.chance(0.4):
        said = draw.one(SAME if same else OTHER)
        return [sentence(pair[0], "?"), sentence(f"{said}, {pair[1]}", "?")]
    return [*(sentence(text, "?") for text in pair), AGREE if same else DIFFER]


def answers(draw: Draw) -> list[str]:
    """An event, a question and its reply, or a question and a sentence that may answer it."""
    one = grammar.some_event(draw, EVERYTHING)
    part = draw.one([part for part in grammar.asked(one) if part != "whole"])
    if draw.chance(0.65):
        reply = getattr(one, part)
        return [
            sentence(grammar.statement(draw, one)),
            sentence(grammar.question(draw, one, part), "?"),
            sentence(reply),
        ]
    good = draw.chance(0.5)
    told = one if good else grammar.unanswering(draw, one, part, EVERYTHING)
    return [
        sentence(grammar.question(draw, one, part), "?"),
        sentence(grammar.statement(draw, told)),
        ANSWERS if good else MISSES,
    ]


def reports(draw: Draw) -> list[str]:
    """Two reports, and in how many points they agree."""
    points = draw.below(6)
    one, two = grammar.compared(draw, EVERYTHING, 5 - points)
    return [
        sentence(grammar.statement(draw, one)),
        sentence(grammar.statement(draw, two)),
        f"Points shared: {COUNTS[points]}.",
    ]


def kinds(draw: Draw) -> list[str]:
    """What is a kind of what."""
    kind = draw.one(KINDS)
    top, one, two = kind[0], *draw.some(kind[1:], 2)
    verb = draw.one(lexicon.GROWN if kind in lexicon.LIVING else lexicon.WORN)
    return draw.one(
        [
            [sentence(f"{article(one.one)} is {article(top.one)}")],
            [sentence(f"{one.many} and {two.many} are {top.many}")],
            [
                sentence(f"{article(one.one)} {verb.past}"),
                sentence(f"therefore, {article(top.one)} {verb.past}"),
            ],
            [
                sentence(f"{article(one.one)} {verb.past}"),
                sentence(f"the {top.one} was {article(one.one)}"),
            ],
        ]
    )


def inferences(draw: Draw) -> list[str]:
    """Two statements, and whether the second follows from the first."""
    label = draw.one([ENTAILMENT, ENTAILMENT, NEUTRAL, CONTRADICTION])
    kind = draw.one(KINDS)
    pair: tuple[Claim, Claim] | tuple[Deed, Deed]
    if draw.chance(0.55):
        pair = claims(draw, label, kind)
    else:
        pair = deeds(draw, label, kind, draw.one(EVERYTHING.people))
    first, second = (said.text(draw) for said in pair)
    connectives, verdict = RELATED[label]
    if draw.chance(0.6):
        return [sentence(first), join(draw.one(connectives), second)]
    return [sentence(first), sentence(second), verdict]


def sizes(draw: Draw) -> list[str]:
    """A thing that did not fit, and which of the two was to blame."""
    thing, box = draw.one(lexicon.OBJECTS), draw.one(lexicon.CONTAINERS)
    big = draw.chance(0.5)
    size = draw.one(lexicon.BIG if big else lexicon.SMALL)
    first = sentence(grammar.misfit(draw, thing, box, size))
    blamed, other = (thing, box) if big else (box, thing)
    kind = draw.below(4)
    if kind == 0:
        return [first, sentence(f"the {blamed} was too {size}")]
    if kind == 1:
        return [first, sentence(f"it was the {blamed} that was too {size}")]
    if kind == 2:
        return [first, sentence(f"it was not the {other} that was too {size}")]
    another = draw.one(lexicon.BIG if big else lexicon.SMALL)
    return [first, sentence(f"{draw.one(SAME)}, the {blamed} was too {another}")]


def places(draw: Draw) -> list[str]:
    """A place to eat, described, or its fields alone."""
    venue = grammar.venue(draw)
    return [grammar.described(draw, venue) if draw.chance(0.8) else venue.meaning()]


WRITERS: list[Callable[[Draw], list[str]]] = [
    *[reviews] * 18,
    *[agreements] * 14,
    *[paraphrases] * 20,
    *[questions] * 9,
    *[answers] * 9,
    *[reports] * 8,
    *[kinds] * 4,
    *[inferences] * 18,
    *[sizes] * 5,
    *[places] * 5,
]


def passages(seed: int) -> Iterator[list[str]]:
    """Passages of one to four sentences without end, the same ones for a seed everywhere."""
    draw = Draw(f"text {seed}")
    while True:
        yield draw.one(WRITERS)(draw)
