"""Statements about kinds of things, drawn so that a wanted relation holds between two of them.

There is always at least one thing of every kind, and a kind holds more than any of its members.
"""

from experiments.mini import lexicon
from experiments.mini.grammar import Claim, Deed, Draw
from experiments.mini.lexicon import Noun

ENTAILMENT, NEUTRAL, CONTRADICTION = "entailment", "neutral", "contradiction"

# The relation of a statement on one quantifier to the same on another, by how the second noun
# relates to the first: the same, a member of it (down), the kind it belongs to (up).
E, N, C = ENTAILMENT, NEUTRAL, CONTRADICTION
QUANTIFIED = {
    ("every", "every"): {"same": E, "down": E, "up": N},
    ("every", "some"): {"same": E, "down": E, "up": E},
    ("every", "no"): {"same": C, "down": C, "up": C},
    ("every", "not every"): {"same": C, "down": C, "up": N},
    ("some", "every"): {"same": N, "down": N, "up": N},
    ("some", "some"): {"same": E, "down": N, "up": E},
    ("some", "no"): {"same": C, "down": N, "up": C},
    ("some", "not every"): {"same": N, "down": N, "up": N},
    ("no", "every"): {"same": C, "down": C, "up": C},
    ("no", "some"): {"same": C, "down": C, "up": N},
    ("no", "no"): {"same": E, "down": E, "up": N},
    ("no", "not every"): {"same": E, "down": E, "up": E},
    ("not every", "every"): {"same": C, "down": N, "up": C},
    ("not every", "some"): {"same": N, "down": N, "up": N},
    ("not every", "no"): {"same": N, "down": N, "up": N},
    ("not every", "not every"): {"same": E, "down": N, "up": E},
}
CASES = {
    label: [
        (*pair, way)
        for pair, ways in QUANTIFIED.items()
        for way, relation in ways.items()
        if relation == label
    ]
    for label in (E, N, C)
}


def nouns(draw: Draw, kind: list[Noun], way: str) -> tuple[Noun, Noun]:
    """A noun and one that is the same, a member of it or the kind it belongs to."""
    top, member = kind[0], draw.one(kind[1:])
    if way == "same":
        noun = draw.one([top, member])
        return noun, noun
    return (top, member) if way == "down" else (member, top)


def claims(draw: Draw, label: str, kind: list[Noun]) -> tuple[Claim, Claim]:
    """Two quantified statements of which the second relates to the first as wanted."""
    verb = draw.one(lexicon.GROWN if kind in lexicon.LIVING else lexicon.WORN)
    first, second, way = draw.one(CASES[label])
    one, two = nouns(draw, kind, way)
    return Claim(first, one, verb), Claim(second, two, verb)


def settle_relation(denied: tuple[bool, bool], ways: set[str]) -> str:
    """The relation of two deeds, each denied or not, by how the second's details relate.

    A deed done implies every deed that says less of it: another kind above, no day.
    """
    narrower, wider = "down" in ways, "up" in ways
    first, second = denied
    if first == second:
        return N if (wider if first else narrower) else E
    return N if (wider if first else narrower) else C


def deeds(draw: Draw, label: str, kind: list[Noun], agent: str) -> tuple[Deed, Deed]:
    """Two statements on what somebody did, related as wanted."""
    verb = draw.one(lexicon.OWNED)
    while True:
        denied = draw.chance(0.5), draw.chance(0.5)
        way = draw.one(["same", "down", "up"])
        when = draw.one(["same", "same", "down", "up"])
        if settle_relation(denied, {way, when}) == label:
            break
    one, two = nouns(draw, kind, way)
    day = draw.one(lexicon.DAYS) if when != "same" or draw.chance(0.2) else ""
    first = Deed(agent, verb, one, denied[0], "" if when == "down" else day)
    return first, Deed(agent, verb, two, denied[1], "" if when == "up" else day)
