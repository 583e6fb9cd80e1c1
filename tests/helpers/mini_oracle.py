"""A reader of the built-in tasks: it labels rows by their surface and knows no generator."""

import re
from itertools import product

from experiments.mini import lexicon

# --- Opinions ----------------------------------------------------------------------------------

OUTSIDE = ("i doubt that", "nobody thought that", "few people thought that", "we denied that")
INSIDE = r"\b(not|never|hardly|far from)\b"


def sst2(text: str) -> str:
    """Whether the main clause praises."""
    text = text.lower().rstrip(".")
    if text.startswith("although "):
        main = text.partition(", ")[2]
    elif ", even though " in text:
        main = text.partition(", even though ")[0]
    else:
        main = re.split(", but |, and ", text)[-1]
    praises = main.split()[-1] in lexicon.GOOD
    assert praises or main.split()[-1] in lexicon.BAD, main
    denials = main.startswith(OUTSIDE) + len(re.findall(INSIDE, main))
    return str(int(praises == (denials % 2 == 0)))


# --- Agreement ---------------------------------------------------------------------------------

THINGS = [noun for kind in lexicon.LIVING + lexicon.MADE for noun in kind]
PLURAL = {noun.one: False for noun in [*THINGS, *lexicon.PERSONS]}
PLURAL |= {noun.many: True for noun in [*THINGS, *lexicon.PERSONS]}
VERB = {"are": True, "is": False, "have": True, "has": False, "do": True, "does": False}
VERB |= {form: place == 0 for pair in lexicon.STAND for place, form in enumerate(pair)}
INNER = {form: place == 0 for pair in lexicon.LIKE for place, form in enumerate(pair)}


def cola(text: str) -> str:
    """Whether every verb and pronoun agrees with its subject."""
    words = text.lower().rstrip(".").split()
    subject = words[1]
    if words[-1].endswith(("self", "selves")):
        forms = {person.one: person.self for person in lexicon.PERSONS}
        return str(int(forms.get(subject, "themselves") == words[-1]))
    verb = next(word for word in words if word in VERB)
    good = VERB[verb] == PLURAL[subject]
    if "that" in words:
        inner = words[words.index("that") + 2]
        good &= INNER[next(word for word in words if word in INNER)] == PLURAL[inner]
    return str(int(good))


# --- Events ------------------------------------------------------------------------------------

NP = r"((?:the )?\w+)"
MEANING: dict[str, str] = {}
for one, two in lexicon.DEEDS + lexicon.WORKS:
    MEANING |= dict.fromkeys([*one, *two], one.base)
MOVED = {f: t.give.base for t in lexicon.TRANSFERS for f in t.give}
TAKEN = {f: t.give.base for t in lexicon.TRANSFERS for f in t.receive}
Facts = dict[str, str]


def circumstances(text: str) -> tuple[str, Facts]:
    """The text without its day and place, and these."""
    found: Facts = {}
    for name, phrases in (("day", lexicon.DAYS), ("place", lexicon.PLACES)):
        for phrase in phrases:
            if text.startswith(f"{phrase}, "):
                text, found[name] = text.removeprefix(f"{phrase}, "), phrase
            elif text.endswith(f" {phrase}"):
                text, found[name] = text.removesuffix(f" {phrase}"), phrase
    return text, found


def lowered(text: str) -> str:
    """Without its mark, and with a capital only where a name begins."""
    text = text[:-1]
    names = lexicon.WOMEN + lexicon.MEN
    return text if text.split()[0] in names else text[0].lower() + text[1:]


def moved(giver: str, verb: str, thing: str, taker: str) -> Facts:
    return {"verb": verb, "agent": giver, "patient": thing, "receiver": taker}


def statement(text: str) -> Facts:
    """The roles that a sentence on an event fills."""
    core, found = circumstances(lowered(text))
    if match := re.fullmatch(f"{NP} was (\\w+) to {NP} by {NP}", core):
        thing, verb, taker, giver = match.groups()
        return found | moved(giver, MOVED[verb], thing, taker)
    if match := re.fullmatch(f"{NP} was (\\w+) by {NP}", core):
        patient, verb, agent = match.groups()
        return found | {"verb": MEANING[verb], "agent": agent, "patient": patient}
    core = re.sub(f"^it was {NP} who ", r"\1 ", core)
    if match := re.fullmatch(f"{NP} (\\w+) {NP} to {NP}", core):
        giver, verb, thing, taker = match.groups()
        return found | moved(giver, MOVED[verb], thing, taker)
    if match := re.fullmatch(f"{NP} (\\w+) {NP} from {NP}", core):
        taker, verb, thing, giver = match.groups()
        return found | moved(giver, TAKEN[verb], thing, taker)
    if (match := re.fullmatch(f"{NP} (\\w+) {NP} {NP}", core)) and match[2] in MOVED:
        giver, verb, taker, thing = match.groups()
        return found | moved(giver, MOVED[verb], thing, taker)
    match = re.fullmatch(f"{NP} (\\w+) {NP}", core)
    assert match, text
    return found | {"verb": MEANING[match[2]], "agent": match[1], "patient": match[3]}


# In each, what stands for the answer is `?`.
QUESTIONS = [
    (f"from whom did {NP} (\\w+) {NP}", "taken", ("receiver", "verb", "patient"), "agent"),
    (f"to whom did {NP} (\\w+) {NP}", "moved", ("agent", "verb", "patient"), "receiver"),
    (f"who (\\w+) {NP} to {NP}", "moved", ("verb", "patient", "receiver"), "agent"),
    (f"who (\\w+) {NP} from {NP}", "taken", ("verb", "patient", "agent"), "receiver"),
    (f"what did {NP} (\\w+) to {NP}", "moved", ("agent", "verb", "receiver"), "patient"),
    (f"what did {NP} (\\w+) from {NP}", "taken", ("receiver", "verb", "agent"), "patient"),
    (f"did {NP} (\\w+) {NP} to {NP}", "moved", ("agent", "verb", "patient", "receiver"), ""),
    (f"did {NP} (\\w+) {NP} from {NP}", "taken", ("receiver", "verb", "patient", "agent"), ""),
    (f"by whom was {NP} (\\w+)", "plain", ("patient", "verb"), "agent"),
    (f"(?:who|what) was (\\w+) by {NP}", "plain", ("verb", "agent"), "patient"),
    (f"(?:whom|what) did {NP} (\\w+)", "plain", ("agent", "verb"), "patient"),
    (f"did {NP} (\\w+) {NP}", "plain", ("agent", "verb", "patient"), ""),
    (f"was {NP} (\\w+) by {NP}", "plain", ("patient", "verb", "agent"), ""),
    (f"who (\\w+) {NP}", "plain", ("verb", "patient"), "agent"),
]


def question(text: str) -> Facts:
    """The roles that a question fills, with `?` for what it asks."""
    core, found = circumstances(lowered(text))
    for word, role in (("when ", "day"), ("where ", "place")):
        if core.startswith(word):
            core, found[role] = core.removeprefix(word), "?"
    for pattern, kind, roles, asked in QUESTIONS:
        if match := re.fullmatch(pattern, core):
            facts = dict(zip(roles, match.groups(), strict=True))
            verbs = {"moved": MOVED, "taken": TAKEN, "plain": MEANING}[kind]
            facts["verb"] = verbs[facts["verb"]]
            return found | facts | ({asked: "?"} if asked else {})
    raise AssertionError(text)


def mrpc(one: str, two: str) -> str:
    return str(int(statement(one) == statement(two)))


def qqp(one: str, two: str) -> str:
    return str(int(question(one) == question(two)))


def stsb(one: str, two: str) -> str:
    """How many of five roles are filled alike."""
    first, second = statement(one), statement(two)
    assert first.keys() == second.keys() and len(first) == 5
    return f"{sum(first[role] == second[role] for role in first)}.000"


def qnli(asked: str, told: str) -> str:
    """Whether the statement says all that the question does, and what it asks."""
    facts = statement(told)
    wanted = question(asked)
    answers = all(facts.get(role, "?") == value or value == "?" for role, value in wanted.items())
    known = all(role in facts for role in wanted)
    return "entailment" if answers and known else "not_entailment"


# --- Kinds -------------------------------------------------------------------------------------

TOP = {form: kind[0].one for kind in lexicon.LIVING + lexicon.MADE for n in kind for form in n}
ONE = {form: noun.one for noun in THINGS for form in noun}
CLAIM = r"(not every|not all|every|all|each|some|at least one|no|none of the) (\w+) (\w+)"
HOLDS = {
    "every": lambda parts: all(part == "all" for part in parts),
    "some": lambda parts: any(part != "none" for part in parts),
}
DEED = rf"{NP} (did not|never)? ?(\w+) an? (\w+)"


def parts(noun: str, other: str) -> list[int]:
    """Which of two regions a noun speaks of: the rarer noun's things, and the rest of its kind."""
    return [0] if (noun != TOP[noun] and other == TOP[noun]) or noun == other else [0, 1]


def said(text: str, nouns: list[str], world: tuple[str, ...]) -> bool:
    """Whether a quantified statement holds where all, some or none of each region did it."""
    inner = text.removeprefix("it is not true that ")
    match = re.fullmatch(CLAIM, inner)
    assert match, text
    quantifier, noun = match[1], ONE[match[2]]
    other = next((n for n in nouns if n != noun), noun)
    seen = [world[region] for region in parts(noun, other)]
    every = quantifier in ("every", "all", "each", "not every", "not all")
    value = HOLDS["every" if every else "some"](seen)
    negated = quantifier.startswith(("not", "no"))
    return value != (negated != (inner != text))


def verdict(pairs: list[tuple[bool, bool]]) -> str:
    """What the second's truth is wherever the first is true."""
    seconds = {second for first, second in pairs if first}
    assert seconds
    return {(True,): "entailment", (False,): "contradiction"}.get(tuple(seconds), "neutral")


def mnli(one: str, two: str) -> str:
    """The relation in every possible world."""
    first, second = lowered(one), lowered(two)
    found = [re.fullmatch(CLAIM, t.removeprefix("it is not true that ")) for t in (first, second)]
    if not all(found):
        return deeds(first, second)
    nouns = [ONE[match[2]] for match in found if match]
    worlds = product(["all", "some", "none"], repeat=2)
    return verdict([(said(first, nouns, w), said(second, nouns, w)) for w in worlds])


def deeds(first: str, second: str) -> str:
    """The relation of two deeds, a world being which member was treated on which day."""
    read = []
    for text in (first, second):
        core, when = circumstances(text)
        match = re.fullmatch(DEED, core)
        assert match, text
        read.append((ONE[match[4]], when.get("day"), match[2] is not None, match[1]))
    assert read[0][3] == read[1][3]
    nouns, days = {noun for noun, *_ in read}, {day for _, day, *_ in read} - {None}
    assert len(days) < 2
    events = list(product([0, 1], [0, 1]))  # the rarer noun or not, the day named or not
    pairs = []
    for world in product([False, True], repeat=4):
        truth = []
        for noun, day, denied, _ in read:
            regions = parts(noun, next((n for n in nouns if n != noun), noun))
            times = [0, 1] if day is None else [0]
            done = any(
                happened
                for (region, time), happened in zip(events, world, strict=True)
                if region in regions and time in times
            )
            truth.append(done != denied)
        pairs.append((truth[0], truth[1]))
    return verdict(pairs)


def rte(one: str, two: str) -> str:
    return "entailment" if mnli(one, two) == "entailment" else "not_entailment"


# --- Sizes -------------------------------------------------------------------------------------


def wnli(one: str, two: str) -> str:
    """Whether the second names the one that its size is to blame for."""
    match = re.search(r"the (\w+) (?:did not fit in|would not go into) the (\w+)", one.lower())
    size = re.search(r"too (\w+)", one)
    assert match and size
    to_blame = match[1] if size[1] in lexicon.BIG else match[2]
    return str(int(two == f"The {to_blame} was too {size[1]}."))


# --- Places to eat -----------------------------------------------------------------------------


def e2e(reference: str) -> dict[str, str]:
    """The fields that a reference mentions."""
    patterns = {
        "name": r"(The [A-Z]\w+)",
        "eatType": f"({'|'.join(lexicon.VENUE_KINDS)})",
        "food": f"({'|'.join(lexicon.CUISINES)})",
        "priceRange": r"(?:has|the) (low|medium|high) price",
        "area": f"({'|'.join(lexicon.AREAS)})",
        "near": f"near ({'|'.join(lexicon.LANDMARKS)})",
    }
    fields = {name: m[1] for name, p in patterns.items() if (m := re.search(p, reference))}
    if re.search("children|families", reference):
        fields["familyFriendly"] = "no" if " not " in reference else "yes"
    return fields
