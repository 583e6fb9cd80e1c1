"""From meanings to sentences: opinions, agreement, events, kinds, sizes and places to eat.

A meaning is a small frozen record; how it is said is drawn anew each time. Nothing here knows of
labels, which follow from the meanings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeVar

from experiments.mini import lexicon
from experiments.mini.lexicon import Noun, Person, Transfer, Verb

Item = TypeVar("Item")


class Draw:
    """Choices from a seed, built on `Random.random` alone: no Python release changes its values."""

    def __init__(self, seed: int | str) -> None:
        self.random = Random(seed).random

    def below(self, end: int) -> int:
        return int(self.random() * end)

    def chance(self, share: float) -> bool:
        return self.random() < share

    def one(self, items: Sequence[Item]) -> Item:
        return items[int(self.random() * len(items))]

    def other(self, items: Sequence[Item], *taken: Item) -> Item:
        """Any but those taken."""
        while (item := self.one(items)) in taken:
            pass
        return item

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """So many different ones, in any order."""
        chosen: list[Item] = []
        while len(chosen) < count:
            chosen.append(self.other(items, *chosen))
        return chosen


def sentence(text: str, end: str = ".") -> str:
    """The text with a capital at its beginning and a mark at its end."""
    return text[0].upper() + text[1:] + end


def article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


# --- Opinions ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Words:
    """The words that one split may use."""

    good: list[str]
    bad: list[str]
    people: list[str]
    deeds: list[tuple[Verb, Verb]]
    works: list[tuple[Verb, Verb]]
    objects: list[str]


DENIALS = ["not", "never", "hardly", "far from"]
STRESSES = ["", "", "very ", "quite ", "really "]
AFFIRMING = ["I believe that", "everybody agreed that", "most people thought that", "we felt that"]
DENYING = ["I doubt that", "nobody thought that", "few people thought that", "we denied that"]
VERBS = ["was", "was", "seemed"]


def judgement(draw: Draw, thing: str, positive: bool, depth: int, words: Words) -> str:
    """A clause on a thing, said with so many negations: at most one inside and one outside."""
    inside = depth == 2 or (depth == 1 and draw.chance(0.6))
    outside = depth == 2 or (depth == 1 and not inside)
    adjective = draw.one(words.good if positive == (depth != 1) else words.bad)
    verb = "was" if inside else draw.one(VERBS)
    how = f"{draw.one(DENIALS)} " if inside else draw.one(STRESSES)
    clause = f"{thing} {verb} {how}{adjective}"
    if outside:
        return f"{draw.one(DENYING)} {clause}"
    return f"{draw.one(AFFIRMING)} {clause}" if draw.chance(0.25) else clause


def opinion(
    draw: Draw, noun: str, positive: bool, words: Words, depths: Sequence[int], weighed: float
) -> tuple[str, list[tuple[str, bool]]]:
    """One sentence on the reviewed noun, and whether it praises each thing that it speaks of.

    Where it weighs two things, the main clause decides; how often it does is `weighed`, how often a
    clause is denied a choice from `depths`.
    """
    depth = draw.one(depths)
    if not draw.chance(weighed):
        return judgement(draw, f"the {noun}", positive, depth, words), [(noun, positive)]
    aspect, other = draw.some(lexicon.ASPECTS, 2)
    main = judgement(draw, f"the {aspect}", positive, min(depth, 1), words)
    agree = draw.chance(0.15)
    side = judgement(draw, f"the {other}", positive == agree, min(draw.one(depths), 1), words)
    views = [(aspect, positive), (other, positive == agree)]
    if agree:
        return f"{side}, and {main}", views
    said = [f"{side}, but {main}", f"although {side}, {main}", f"{main}, even though {side}"]
    return draw.one(said), views


# --- Agreement ---------------------------------------------------------------------------------


def number(noun: Noun | Person, plural: bool) -> str:
    return noun.many if plural else noun.one


def phrase(draw: Draw, nouns: Sequence[Noun | Person], plural: bool, depth: int) -> str:
    """A noun of this number, with so many others hanging on it, each of any number."""
    text = f"the {number(draw.one(nouns), plural)}"
    for _ in range(depth):
        tail = number(draw.one(nouns), draw.chance(0.5))
        text += f" {draw.one(lexicon.RELATIONS)} the {tail}"
    return text


def predicate(draw: Draw, plural: bool) -> str:
    """Draw a predicate in the present tense that agrees in number with its subject."""
    state = draw.one(lexicon.STATES)
    kind = draw.below(4)
    if kind == 0:
        return f"{'are' if plural else 'is'} {state}"
    if kind == 1:
        return f"{'have' if plural else 'has'} become {state}"
    if kind == 2:
        return f"{'do' if plural else 'does'} not look {state}"
    return f"{draw.one(lexicon.STAND)[not plural]} {state}"


def agreement(draw: Draw, nouns: list[Noun], persons: list[Person], right: bool) -> str:
    """A sentence with agreement over a distance, kept or broken in one place."""
    plural = draw.chance(0.5)
    told = plural == right
    kind = draw.below(10)
    if kind < 5:
        return f"{phrase(draw, nouns, plural, 1 + draw.below(2))} {predicate(draw, told)}"
    if kind < 8:
        # The clause inside has a subject of its own.
        inner, other = draw.one(persons), draw.chance(0.5)
        verb = draw.one(lexicon.LIKE)
        inside = f"that the {number(inner, other)} {verb[not other]}"
        if draw.chance(0.5):
            return f"{phrase(draw, nouns, plural, 0)} {inside} {predicate(draw, told)}"
        inside = f"that the {number(inner, plural)} near {phrase(draw, nouns, other, 0)}"
        head = phrase(draw, nouns, other, 0)
        return f"{head} {inside} {verb[not told]} {predicate(draw, other)}"
    person, near = draw.one(persons), draw.one(persons)
    pronoun = "themselves" if plural else person.self
    if not right:
        pronoun = draw.other(["himself", "herself", "themselves"], pronoun)
    beside = f"{draw.one(lexicon.RELATIONS)} the {number(near, draw.chance(0.5))}"
    return f"the {number(person, plural)} {beside} {draw.one(lexicon.REFLEXIVE)} {pronoun}"


# --- Events ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """Who did what to whom, when and where; `verb` names a pair of verbs that mean the same."""

    agent: str
    verb: tuple[Verb, Verb] | Transfer
    patient: str
    receiver: str = ""
    day: str = ""
    place: str = ""


def people(split: str | None = None) -> list[str]:
    """Names, and roles with an article."""
    kinds = [lexicon.WOMEN, lexicon.MEN, [f"the {role}" for role in lexicon.ROLES]]
    return [p for kind in kinds for p in (lexicon.share(kind, split) if split else kind)]


def words(split: str | None = None) -> Words:
    """Return the words that one split may use, or all words."""

    def part(items: list[Item]) -> list[Item]:
        return lexicon.share(items, split) if split else items

    return Words(
        good=part(lexicon.GOOD),
        bad=part(lexicon.BAD),
        people=people(split),
        deeds=part(lexicon.DEEDS),
        works=part(lexicon.WORKS),
        objects=part(lexicon.OBJECTS),
    )


def event(draw: Draw, words: Words, kind: int, day: bool, place: bool) -> Event:
    """Any event: kind 0 is a deed to a person, 1 a work on a thing, 2 a transfer."""
    agent, other = draw.some(words.people, 2)
    thing = f"the {draw.one(words.objects)}"
    when = draw.one(lexicon.DAYS) if day else ""
    where = draw.one(lexicon.PLACES) if place else ""
    if kind == 0:
        return Event(agent, draw.one(words.deeds), other, day=when, place=where)
    if kind == 1:
        return Event(agent, draw.one(words.works), thing, day=when, place=where)
    return Event(agent, draw.one(lexicon.TRANSFERS), thing, other, day=when, place=where)


def core(draw: Draw, event: Event) -> str:
    """The event without its circumstances."""
    agent, patient, receiver = event.agent, event.patient, event.receiver
    if isinstance(event.verb, Transfer):
        give, receive = event.verb
        return draw.one(
            [
                f"{agent} {give.past} {patient} to {receiver}",
                f"{agent} {give.past} {receiver} {patient}",
                f"{receiver} {receive.past} {patient} from {agent}",
                f"{patient} was {give.participle} to {receiver} by {agent}",
            ]
        )
    verb = draw.one(event.verb)
    if draw.chance(0.4):
        return f"{patient} was {verb.participle} by {agent}"
    return f"{agent} {verb.past} {patient}"


def statement(draw: Draw, event: Event) -> str:
    """The event as a sentence without its mark, circumstances before or behind."""
    text = core(draw, event)
    parts = [part for part in (event.place, event.day) if part]
    if event.day and draw.chance(0.3):
        return f"{event.day}, {' '.join([text, *parts[:-1]])}"
    return " ".join([text, *parts])


def question(draw: Draw, event: Event, asked: str) -> str:
    """A question after one part of an event: agent, patient, receiver, day, place or whether."""
    agent, patient, receiver = event.agent, event.patient, event.receiver
    if isinstance(event.verb, Transfer):
        give, receive = event.verb
        forms = {
            "agent": [
                f"who {give.past} {patient} to {receiver}",
                f"from whom did {receiver} {receive.base} {patient}",
            ],
            "receiver": [
                f"who {receive.past} {patient} from {agent}",
                f"to whom did {agent} {give.base} {patient}",
            ],
            "patient": [
                f"what did {agent} {give.base} to {receiver}",
                f"what did {receiver} {receive.base} from {agent}",
            ],
            "whole": [
                f"did {agent} {give.base} {patient} to {receiver}",
                f"did {receiver} {receive.base} {patient} from {agent}",
            ],
        }
    else:
        verb = draw.one(event.verb)
        whom = "what" if event.verb in lexicon.WORKS else "whom"
        forms = {
            "agent": [f"who {verb.past} {patient}", f"by whom was {patient} {verb.participle}"],
            "patient": [f"{whom} did {agent} {verb.base}", f"who was {verb.participle} by {agent}"],
            "whole": [
                f"did {agent} {verb.base} {patient}",
                f"was {patient} {verb.participle} by {agent}",
            ],
        }
        if whom == "what":
            forms["patient"] = [forms["patient"][0], f"what was {verb.participle} by {agent}"]
    if asked in forms:
        tail = f" {event.day}" if event.day else ""
        return draw.one(forms[asked]) + tail
    return f"{'when' if asked == 'day' else 'where'} {draw.one(forms['whole'])}"


def swap_roles(event: Event) -> Event:
    """The same with the roles of its two people exchanged."""
    if event.receiver:
        return replace(event, agent=event.receiver, receiver=event.agent)
    return replace(event, agent=event.patient, patient=event.agent)


# --- Events that relate --------------------------------------------------------------------------


def some_event(draw: Draw, words: Words) -> Event:
    """Any event, mostly without its circumstances."""
    kind = draw.one([0, 0, 1, 1, 2])
    return event(draw, words, kind, day=draw.chance(0.2), place=draw.chance(0.1))


def change_event(draw: Draw, event: Event, words: Words) -> Event:
    """Another event of the same people and things."""
    can_swap = bool(event.receiver) or event.verb in lexicon.DEEDS
    if can_swap and draw.chance(0.6):
        return swap_roles(event)
    if event.day and draw.chance(0.3):
        return replace(event, day=draw.other(lexicon.DAYS, event.day))
    for pool in (words.deeds, words.works, lexicon.TRANSFERS):
        if event.verb in pool:
            return replace(event, verb=draw.other(pool, event.verb))
    raise ValueError(f"No pool of verbs holds {event.verb}.")


def askable_parts(event: Event) -> list[str]:
    """List the parts of an event that a question may ask for."""
    parts = ["agent", "patient", "whole"]
    return parts + [part for part in ("receiver", "day", "place") if getattr(event, part)]


def unanswering(draw: Draw, event: Event, part: str, words: Words) -> Event:
    """An event that does not answer the question after a part of another."""
    if part in ("day", "place") and draw.chance(0.5):
        other, pool = ("place", lexicon.PLACES) if part == "day" else ("day", lexicon.DAYS)
        return replace(event, **{part: "", other: getattr(event, other) or draw.one(pool)})
    # Another day alone would not do.
    return replace(change_event(draw, replace(event, day=""), words), day=event.day)


Question = tuple[Event, str]


def inquiries(draw: Draw, words: Words, same: bool) -> tuple[Question, Question]:
    """Two events, each with what is asked of it, which make the same question or not."""
    one = replace(some_event(draw, words), day="", place="")
    part = draw.one(askable_parts(one))
    if same:
        return (one, part), (one, part)
    if draw.chance(0.3):
        return (one, part), (one, draw.other(askable_parts(one), part))
    return (one, part), (change_event(draw, one, words), part)


def compare_events(draw: Draw, words: Words, changes: int) -> tuple[Event, Event]:
    """Two events of five parts, so many of which are not the same."""
    one = event(draw, words, draw.below(2), day=True, place=True)
    deed = one.verb in lexicon.DEEDS
    parts = draw.some(["agent", "verb", "patient", "day", "place"], changes)
    two = one
    if deed and "agent" in parts and "patient" in parts and draw.chance(0.7):
        two = swap_roles(two)
    else:
        if "agent" in parts:
            two = replace(two, agent=draw.other(words.people, one.agent, one.patient))
        if "patient" in parts:
            pool = words.people if deed else [f"the {noun}" for noun in words.objects]
            two = replace(two, patient=draw.other(pool, one.agent, one.patient, two.agent))
    if "verb" in parts:
        two = replace(two, verb=draw.other(words.deeds if deed else words.works, one.verb))
    if "day" in parts:
        two = replace(two, day=draw.other(lexicon.DAYS, one.day))
    if "place" in parts:
        two = replace(two, place=draw.other(lexicon.PLACES, one.place))
    return one, two


# --- Kinds of things ---------------------------------------------------------------------------

QUANTIFIERS = {
    "every": ["every {one}", "all {many}", "each {one}"],
    "some": ["some {many}", "at least one {one}"],
    "no": ["no {one}", "none of the {many}"],
    "not every": ["not every {one}", "not all {many}"],
}


@dataclass(frozen=True)
class Claim:
    """A statement about how many things of a kind do something."""

    quantifier: str
    noun: Noun
    verb: Verb

    def text(self, draw: Draw) -> str:
        form = draw.one(QUANTIFIERS[self.quantifier])
        return f"{form.format(one=self.noun.one, many=self.noun.many)} {self.verb.past}"


@dataclass(frozen=True)
class Deed:
    """An action that somebody did, or did not do, with one thing of a kind."""

    agent: str
    verb: Verb
    noun: Noun
    negated: bool
    day: str = ""

    def text(self, draw: Draw) -> str:
        did = f"did not {self.verb.base}" if self.negated else self.verb.past
        if self.negated and draw.chance(0.25):
            did = f"never {self.verb.past}"
        text = f"{self.agent} {did} {article(self.noun.one)}"
        if self.day and draw.chance(0.3):
            return f"{self.day}, {text}"
        return f"{text} {self.day}".strip()


# --- Sizes -------------------------------------------------------------------------------------


def misfit(draw: Draw, thing: str, box: str, size: str) -> str:
    """A thing that does not fit a container, for a reason that `it` leaves open."""
    form = draw.one(
        [
            "the {} did not fit in the {} because it was too {}",
            "the {} would not go into the {} because it was too {}",
            "because it was too {2}, the {0} did not fit in the {1}",
        ]
    )
    return form.format(thing, box, size)


# --- Places to eat -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Venue:
    """A place to eat; a field left empty is not mentioned."""

    name: str
    kind: str
    cuisine: str = ""
    price: str = ""
    area: str = ""
    family: str = ""
    near: str = ""

    def meaning(self) -> str:
        """The fields as the meaning representation writes them."""
        fields = {
            "name": self.name,
            "eatType": self.kind,
            "food": self.cuisine,
            "priceRange": self.price,
            "area": self.area,
            "familyFriendly": self.family,
            "near": self.near,
        }
        return ", ".join(f"{key}[{value}]" for key, value in fields.items() if value)


def venue(draw: Draw, names: Sequence[str] = tuple(lexicon.VENUES)) -> Venue:
    """Any place, with three to six of its fields given."""
    full = Venue(
        f"The {draw.one(names)}",
        draw.one(lexicon.VENUE_KINDS),
        draw.one(lexicon.CUISINES),
        draw.one(lexicon.PRICES),
        draw.one(lexicon.AREAS),
        draw.one(["yes", "no"]),
        draw.one(lexicon.LANDMARKS),
    )
    left_out = draw.some(["cuisine", "price", "area", "family", "near"], 1 + draw.below(4))
    return replace(full, **dict.fromkeys(left_out, ""))


def describe_fields(draw: Draw, venue: Venue) -> str:
    """One reference: everything that the fields say, in one or two sentences."""
    food, kind = venue.cuisine, venue.kind
    if food:
        kind = draw.one([f"{food} {kind}", f"{kind} serving {food} food"])
    place = f" in the {venue.area}" if venue.area else ""
    near = f" near {venue.near}" if venue.near else ""
    extras = []
    if venue.price:
        extras.append(
            draw.one([f"has {venue.price} prices", f"is in the {venue.price} price range"])
        )
    if venue.family:
        no = venue.family == "no"
        extras.append(
            draw.one(
                [
                    "does not welcome children" if no else "welcomes children",
                    "is not suitable for families" if no else "is suitable for families",
                ]
            )
        )
    opening = f"{venue.name} is {article(kind)}{place}{near}"
    if draw.chance(0.3):
        opening = f"there is {article(kind)} called {venue.name}{place}{near}"
    elif place and draw.chance(0.3):
        opening = f"in the {venue.area}, {venue.name} is {article(kind)}{near}"
    if not extras:
        return sentence(opening)
    tail = " and ".join(extras if draw.chance(0.7) else extras[::-1])
    return sentence(draw.one([f"{opening} that {tail}", f"{opening}. It {tail}"]))
