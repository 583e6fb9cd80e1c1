"""Unlabelled text of the built-in suite: short passages that hang together.

The passages carry what the tasks need and no label says: which words are near in meaning, what is a
kind of what, how number travels through a sentence, and, through remarks and the words that join
sentences, what follows from what. All of it is grammatical and consistent.
"""

from collections.abc import Callable, Iterator

from experiments.mini import grammar, lexicon
from experiments.mini.grammar import Claim, Deed, Draw, Event, article, sentence
from experiments.mini.lexicon import Noun
from experiments.mini.logic import CONTRADICTION, ENTAILMENT, NEUTRAL, claims, deeds

EVERYTHING = grammar.words()
KINDS = lexicon.LIVING + lexicon.MADE
ALL_NOUNS = [noun for kind in KINDS for noun in kind]
LIKED = ["we liked it", "people loved it", "it was a success"]
DISLIKED = ["we disliked it", "people hated it", "it was a failure"]
PLEASED, FAILED = "impressed", "disappointed"
# The words that tell how sentences relate stand alone: none can be guessed from words beside it.
SHORTLY, STILL = ["so", "overall"], ["still", "nevertheless"]
SAME, OTHER = ["namely", "equivalently"], ["separately", "meanwhile"]
AGREE, DIFFER = "They agree.", "They differ."
ANSWERS, MISSES = "That answers it.", "That misses it."
COUNTS = ["none", "one", "two", "three", "four", "five"]
ALIKE, UNLIKE, NARROWER, WIDER = "same", "other", "narrower", "wider"
# What the parts of an event are called, in the order in which remarks go through them.
PARTS = {
    "agent": "agent",
    "verb": "deed",
    "patient": "patient",
    "receiver": "receiver",
    "day": "day",
    "place": "place",
}
WHOLE = "fact"
RELATED = {
    ENTAILMENT: (["therefore", "thus"], "That follows."),
    NEUTRAL: (["perhaps", "possibly"], "That depends."),
    CONTRADICTION: (["impossibly", "falsely"], "That fails."),
}
# The words that tell how things relate, by what they say: each list of meanings is opposed.
OPPOSED = [
    [["liked", "loved", "success"], ["disliked", "hated", "failure"]],
    [[PLEASED], [FAILED]],
    [SHORTLY, STILL],
    [SAME, OTHER],
    [["agree"], ["differ"]],
    [["answers"], ["misses"]],
    [["follows"], ["depends"], ["fails"]],
    [connectives for connectives, _ in RELATED.values()],
    [[count] for count in COUNTS],
    [[ALIKE], [UNLIKE]],
    [[ALIKE], [NARROWER], [WIDER]],
    [[part] for part in [*PARTS.values(), WHOLE]],
]
# Forms that tell the number of their subject.
INFLECTED = [
    *[("is", "are"), ("has", "have"), ("does", "do"), *lexicon.STAND, *lexicon.LIKE],
    ("himself", "herself", "themselves"),
]
# What a model should be made to guess more often than other words.
TELLING = frozenset(
    [
        *(word for meanings in OPPOSED for words in meanings for word in words),
        *(word for forms in INFLECTED for word in forms),
    ]
)


def join(connective: str, text: str) -> str:
    """A sentence that begins with a connective."""
    return sentence(f"{connective}, {text}")


# --- Opinions ------------------------------------------------------------------------------------


def reviews(draw: Draw) -> list[str]:
    """An opinion, and what goes with it."""
    noun, positive = draw.one(lexicon.REVIEWED), draw.chance(0.5)
    said, views = grammar.opinion(draw, noun, positive, EVERYTHING, (0, 0, 0, 1, 1, 2), weighed=0.4)
    first = sentence(said)
    verdict = draw.one(LIKED if positive else DISLIKED)
    remark = [
        sentence(", ".join(f"the {thing} {PLEASED if good else FAILED}" for thing, good in views))
    ]
    if draw.chance(0.3):
        remark = []
    kind = draw.below(10)
    if kind < 5:
        return [first, *remark, join(draw.one(SHORTLY), verdict)]
    if kind < 6:
        return [first, *remark, join(draw.one(STILL), draw.one(DISLIKED if positive else LIKED))]
    if kind < 7:
        return [sentence(verdict), first]
    good, bad = lexicon.GOOD, lexicon.BAD
    true, opposite = (good, bad) if positive else (bad, good)
    if kind == 7:
        return [sentence(f"a {draw.one(true)} {noun} {PLEASED if positive else FAILED} us")]
    if kind == 8:
        one = draw.some(true, 3)
        return [
            sentence(f"the {noun} was {one[0]} and {one[1]}"),
            join(draw.one(SHORTLY), f"it was {one[2]}"),
        ]
    return [
        sentence(f"the {noun} was {draw.one(grammar.DENIALS[:2])} {draw.one(opposite)}"),
        sentence(f"on the contrary, it was {draw.one(true)}"),
    ]


# --- Agreement -----------------------------------------------------------------------------------


def agreements(draw: Draw) -> list[str]:
    """One or two sentences with agreement over a distance."""
    if draw.chance(0.2):
        plural = draw.chance(0.5)
        noun = draw.one([*ALL_NOUNS, *lexicon.PERSONS])
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


# --- Events --------------------------------------------------------------------------------------


def another(draw: Draw, event: Event) -> Event:
    """Another event, often of other people: the easy cases lead to the hard ones."""
    if draw.chance(0.3):
        return grammar.some_event(draw, EVERYTHING)
    return grammar.change_event(draw, event, EVERYTHING)


def remark_on_parts(one: Event, two: Event, but: str = "") -> str:
    """A remark on the parts in which two events are the same, and in which not."""
    found = []
    for part, name in PARTS.items():
        values = getattr(one, part), getattr(two, part)
        if part != but and all(values):
            found.append(f"{ALIKE if values[0] == values[1] else UNLIKE} {name}")
    return sentence(", ".join(found))


def paraphrases(draw: Draw) -> list[str]:
    """An event told twice, or two events, and a word on which it is."""
    one = grammar.some_event(draw, EVERYTHING)
    kind = draw.below(10)
    if kind < 5:
        # Only ever of one event: what does not fit is out of place.
        return [sentence(grammar.statement(draw, one)), sentence(grammar.statement(draw, one))]
    same = draw.chance(0.5)
    two = one if same else another(draw, one)
    first, second = grammar.statement(draw, one), grammar.statement(draw, two)
    if kind < 6:
        return [sentence(first), join(draw.one(SAME if same else OTHER), second)]
    said = [sentence(first), sentence(second)]
    if kind < 9:
        said.append(remark_on_parts(one, two))
    return [*said, AGREE if same else DIFFER]


def questions(draw: Draw) -> list[str]:
    """Two questions with a word on whether they are the same one."""
    kind = draw.below(10)
    (one, part), (two, other) = grammar.inquiries(draw, EVERYTHING, kind < 4 or draw.chance(0.5))
    pair = [sentence(grammar.question(draw, *asked), "?") for asked in ((one, part), (two, other))]
    if kind < 4:
        return pair
    same = (one, part) == (two, other)
    remark = []
    if kind < 8:
        names = {**PARTS, "whole": WHOLE}
        remark = [sentence(f"after the {names[part]}, after the {names[other]}")]
    return [*pair, *remark, AGREE if same else DIFFER]


def answers(draw: Draw) -> list[str]:
    """An event, a question and its reply, or a question and a sentence that may answer it."""
    one = grammar.some_event(draw, EVERYTHING)
    part = draw.one([part for part in grammar.askable_parts(one) if part != "whole"])
    asked = sentence(grammar.question(draw, one, part), "?")
    kind = draw.below(10)
    if kind < 3:
        return [sentence(grammar.statement(draw, one)), asked, sentence(getattr(one, part))]
    if kind < 6:
        return [asked, sentence(grammar.statement(draw, one))]
    good = draw.chance(0.5)
    told = one if good else grammar.unanswering(draw, one, part, EVERYTHING)
    said = [asked, sentence(grammar.statement(draw, told))]
    if kind < 9:
        said.append(sentence(f"after the {PARTS[part]}"))
    return [*said, ANSWERS if good else MISSES]


def reports(draw: Draw) -> list[str]:
    """Two reports, and in how many points they agree."""
    points = draw.below(6)
    one, two = grammar.compare_events(draw, EVERYTHING, 5 - points)
    said = [sentence(grammar.statement(draw, event)) for event in (one, two)]
    if draw.chance(0.7):
        said.append(remark_on_parts(one, two))
    if draw.chance(0.5):
        said.append(f"Points shared: {COUNTS[points]}.")
    return said


# --- Kinds of things -----------------------------------------------------------------------------


def breadth(one: Noun, two: Noun, kind: list[Noun]) -> str:
    """How the second noun compares with the first."""
    return ALIKE if one == two else NARROWER if one == kind[0] else WIDER


def kinds(draw: Draw) -> list[str]:
    """Draw sentences about which kinds of things belong to which wider kind."""
    kind = draw.one(KINDS)
    top, one, two = kind[0], *draw.some(kind[1:], 2)
    verb = draw.one(lexicon.GROWN if kind in lexicon.LIVING else lexicon.WORN)
    return draw.one(
        [
            [sentence(f"{article(one.one)} is {article(top.one)}")],
            [sentence(f"{one.many} and {two.many} are {top.many}")],
            [sentence(f"{top.many} are {WIDER} than {one.many}")],
            [sentence(f"{one.many} are {NARROWER} than {top.many}")],
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
        remark = f"{breadth(pair[0].noun, pair[1].noun, kind)} kind"
    else:
        pair = deeds(draw, label, kind, draw.one(EVERYTHING.people))
        days = pair[0].day, pair[1].day
        when = ALIKE if days[0] == days[1] else WIDER if days[0] else NARROWER
        remark = f"{breadth(pair[0].noun, pair[1].noun, kind)} kind, {when} time"
    first, second = (said.text(draw) for said in pair)
    connectives, verdict = RELATED[label]
    form = draw.below(10)
    if form < 3:
        return [sentence(first), join(draw.one(connectives), second)]
    said = [sentence(first), sentence(second)]
    if form < 8:
        said.append(sentence(remark))
    return [*said, verdict]


# --- Sizes and places ----------------------------------------------------------------------------


def sizes(draw: Draw) -> list[str]:
    """A thing that did not fit, and which of the two was to blame."""
    thing, box = draw.one(lexicon.OBJECTS), draw.one(lexicon.CONTAINERS)
    big = draw.chance(0.5)
    size = draw.one(lexicon.BIG if big else lexicon.SMALL)
    first = sentence(grammar.misfit(draw, thing, box, size))
    blamed, other = (thing, box) if big else (box, thing)
    kind = draw.below(4)
    if kind < 2:
        return [first, sentence(f"the {blamed} was too {size}")]
    if kind == 2:
        return [first, sentence(f"it was not the {other} that was too {size}")]
    again = draw.one(lexicon.BIG if big else lexicon.SMALL)
    return [first, sentence(f"{draw.one(SAME)}, the {blamed} was too {again}")]


def places(draw: Draw) -> list[str]:
    """A place to eat, described, or its fields alone."""
    venue = grammar.venue(draw)
    return [grammar.describe_fields(draw, venue) if draw.chance(0.8) else venue.meaning()]


# --- Invented words ------------------------------------------------------------------------------


def invent_word(draw: Draw) -> str:
    """A word that means nothing."""
    word = "".join(
        draw.one(lexicon.ONSETS) + draw.one(lexicon.VOWELS) + draw.one(lexicon.CODAS)
        for _ in range(1 + draw.below(3))
    )
    return word[0].upper() + word[1:] if draw.chance(0.5) else word


def sign(draw: Draw) -> str:
    """A word that means nothing, or a number with its signs."""
    if draw.chance(0.8):
        return invent_word(draw)
    number = str(draw.below(10) if draw.chance(0.5) else draw.below(100))
    return draw.one(["", "", "£", "-", "#"]) + number + draw.one(["", "", "%", "'s", "-15"])


def name_event(draw: Draw) -> list[str]:
    """An event between people with invented names, told twice."""
    agent, other = (invent_word(draw).capitalize() for _ in range(2))
    one = Event(agent, draw.one(lexicon.DEEDS), other)
    return [sentence(grammar.statement(draw, one)), sentence(grammar.statement(draw, one))]


def records(draw: Draw) -> list[str]:
    """A record of invented fields and values, and a sentence that says some of them again."""
    fields = [
        (invent_word(draw).lower(), " ".join(sign(draw) for _ in range(1 + draw.below(2))))
        for _ in range(2 + draw.below(4))
    ]
    written = " | ".join(f"{field} : {value}" for field, value in fields)
    (_, first), *rest = draw.some(fields, 2 + draw.below(len(fields) - 1))
    forms = ["has the {} {}", "has {1} as its {0}", "with the {} {}", "is {1} in {0}"]
    return [written, sentence(f"{first} {' and '.join(draw.one(forms).format(*f) for f in rest)}")]


# For a model that is to spell: every piece of a word occurs, and what is unknown is copied.
SPELLERS = [name_event, records, records]


# --- All together --------------------------------------------------------------------------------

WRITERS: list[Callable[[Draw], list[str]]] = [
    *[reviews] * 16,
    *[agreements] * 17,
    *[paraphrases] * 20,
    *[questions] * 9,
    *[answers] * 9,
    *[reports] * 9,
    *[kinds] * 4,
    *[inferences] * 18,
    *[sizes] * 5,
    *[places] * 4,
]


def passages(seed: int, spelled: float = 0.0) -> Iterator[list[str]]:
    """Passages of one to four sentences without end, the same ones for a seed everywhere.

    A share `spelled` of them is about invented words.
    """
    draw = Draw(f"text {seed}")
    while True:
        # Without invented words nothing is drawn for them.
        writers = SPELLERS if spelled and draw.chance(spelled) else WRITERS
        yield draw.one(writers)(draw)
