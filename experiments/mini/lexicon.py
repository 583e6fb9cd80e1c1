"""The words of the built-in suite, by the classes that its grammar and its labels rest on.

Every list is dealt out to the splits by position (`share`), so that the words a task tests are
never those it trains on; all of them occur in the unlabelled text.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

Item = TypeVar("Item")


def table(text: str) -> list[str]:
    """The words of a block of text."""
    return text.split()


def share(items: Sequence[Item], split: str) -> list[Item]:
    """Return one split's share of a list: half of it for train, a quarter each for dev and test."""
    places = {"train": (0, 2), "dev": (1,), "test": (3,)}[split]
    return [item for position, item in enumerate(items) if position % 4 in places]


# --- Opinions ----------------------------------------------------------------------------------

GOOD = table("""
    good great lovely clever warm bright fresh gentle funny charming excellent fine superb
    pleasant brilliant elegant lively witty smart splendid wonderful sincere amusing beautiful
""")
BAD = table("""
    bad dull awful cold bleak stale rude boring poor dreadful terrible horrible clumsy tedious
    shallow lazy ugly messy gloomy bland harsh stupid nasty grim
""")
REVIEWED = table("""
    film book play meal hotel concert lesson trip game novel show party
""")
ASPECTS = table("""
    plot music food room service staff view price ending sound
""")

# --- People ------------------------------------------------------------------------------------

WOMEN = table("""
    Ann Clara Ella Fiona Helen Maria Olga Sara
""")
MEN = table("""
    Adam Ben David Eric Jack Oscar Peter Tom
""")
ROLES = table("farmer baker teacher doctor painter singer judge nurse")


class Person(NamedTuple):
    """A kind of person, with the pronoun that fits."""

    one: str
    many: str
    self: str


# In an order that gives every split both genders.
PERSONS = [
    Person("woman", "women", "herself"),
    Person("girl", "girls", "herself"),
    Person("man", "men", "himself"),
    Person("boy", "boys", "himself"),
    Person("king", "kings", "himself"),
    Person("prince", "princes", "himself"),
    Person("queen", "queens", "herself"),
    Person("princess", "princesses", "herself"),
    Person("actress", "actresses", "herself"),
    Person("mother", "mothers", "herself"),
    Person("monk", "monks", "himself"),
    Person("father", "fathers", "himself"),
    Person("son", "sons", "himself"),
    Person("uncle", "uncles", "himself"),
    Person("daughter", "daughters", "herself"),
    Person("aunt", "aunts", "herself"),
]

# --- Events ------------------------------------------------------------------------------------


class Verb(NamedTuple):
    """One verb: bare, past, participle."""

    base: str
    past: str
    participle: str


def verbs(text: str) -> list[tuple[Verb, Verb]]:
    """Pairs of verbs that mean the same: one pair a line, `base past [participle]` twice."""
    pairs: list[tuple[Verb, Verb]] = []
    for line in text.strip().splitlines():
        one, two = (Verb(*(half.split() + half.split()[1:2])[:3]) for half in line.split("/"))
        pairs.append((one, two))
    return pairs


# What a person does to a person.
DEEDS = verbs("""
    help helped / assist assisted
    call called / phone phoned
    praise praised / applaud applauded
    rescue rescued / save saved
    scold scolded / rebuke rebuked
    mock mocked / ridicule ridiculed
    greet greeted / welcome welcomed
    hire hired / employ employed
    annoy annoyed / irritate irritated
    scare scared / frighten frightened
    trick tricked / fool fooled
    follow followed / trail trailed
""")
# What a person does to a thing.
WORKS = verbs("""
    buy bought / purchase purchased
    repair repaired / mend mended
    build built / construct constructed
    find found / discover discovered
    break broke broken / smash smashed
    lift lifted / raise raised
    hide hid hidden / conceal concealed
    clean cleaned / wash washed
    pull pulled / drag dragged
    throw threw thrown / toss tossed
    close closed / shut shut
    steal stole stolen / snatch snatched
""")
OBJECTS = table("""
    gate ladder lamp clock map basket bell blanket bottle bucket camera chain crown flag jar
    kettle kite mirror needle rope stool ticket vase wheel
""")


class Transfer(NamedTuple):
    """A thing changing hands, told from either side."""

    give: Verb
    receive: Verb


TRANSFERS = [
    Transfer(Verb("give", "gave", "given"), Verb("receive", "received", "received")),
    Transfer(Verb("sell", "sold", "sold"), Verb("buy", "bought", "bought")),
    Transfer(Verb("lend", "lent", "lent"), Verb("borrow", "borrowed", "borrowed")),
    Transfer(Verb("lease", "leased", "leased"), Verb("rent", "rented", "rented")),
]
DAYS = [
    *["on Monday", "on Tuesday", "on Wednesday", "on Thursday", "on Friday", "on Saturday"],
    *["on Sunday", "at noon"],
]
PLACES = [
    *["in the kitchen", "at the market", "near the bridge", "at the station", "in the library"],
    *["by the river", "in the office", "on the roof"],
]

# --- Kinds of things ---------------------------------------------------------------------------


class Noun(NamedTuple):
    """A noun, singular and plural."""

    one: str
    many: str


def nouns(text: str) -> list[Noun]:
    """Nouns, whose plural is regular unless a slash gives it."""
    return [
        Noun(one, many or one + "s") for one, _, many in (w.partition("/") for w in text.split())
    ]


# Hypernym first.
LIVING = [
    nouns("bird sparrow robin eagle crow"),
    nouns("fish/fishes trout/trouts salmon/salmons shark carp/carps"),
    nouns("insect ant beetle moth wasp"),
    nouns("flower rose tulip daisy/daisies lily/lilies"),
    nouns("tree oak pine birch/birches elm"),
    nouns("fruit apple pear plum lemon"),
    nouns("vegetable carrot onion turnip cabbage"),
    nouns("pet dog cat hamster rabbit"),
]
MADE = [
    nouns("tool hammer spade drill chisel"),
    nouns("vehicle car truck bus/buses tractor"),
    nouns("instrument violin flute guitar piano"),
    nouns("garment coat shirt jacket skirt"),
    nouns("weapon sword spear dagger rifle"),
    nouns("toy doll puppet marble balloon"),
    nouns("building castle barn temple palace"),
    nouns("gem diamond ruby/rubies pearl emerald"),
]
# What may be said of living things, and of made ones.
GROWN = [
    *[Verb("survive", "survived", "survived"), Verb("suffer", "suffered", "suffered")],
    *[Verb("grow", "grew", "grown"), Verb("die", "died", "died")],
]
WORN = [
    *[Verb("break", "broke", "broken"), Verb("rust", "rusted", "rusted")],
    *[Verb("shine", "shone", "shone"), Verb("fall", "fell", "fallen")],
]
OWNED = [
    *[Verb("see", "saw", "seen"), Verb("want", "wanted", "wanted")],
    *[Verb("carry", "carried", "carried"), Verb("mention", "mentioned", "mentioned")],
    *[Verb("paint", "painted", "painted"), Verb("need", "needed", "needed")],
]

# --- Agreement ---------------------------------------------------------------------------------

RELATIONS = ["near", "behind", "beside", "under"]
STATES = table("""
    old new small large red blue green white heavy round clean dry
""")
# Present tense, plural and singular.
STAND = [
    *[("stand", "stands"), ("remain", "remains"), ("look", "looks"), ("seem", "seems")],
]
LIKE = [
    *[("like", "likes"), ("know", "knows"), ("admire", "admires"), ("fear", "fears")],
]
REFLEXIVE = ["hurt", "saw", "praised", "blamed"]

# --- Sizes -------------------------------------------------------------------------------------

BIG = ["big", "large", "huge", "wide"]
SMALL = ["small", "little", "tiny", "narrow"]
CONTAINERS = ["box", "bag", "drawer", "trunk", "case", "crate", "chest", "pocket"]

# --- Places to eat and stay --------------------------------------------------------------------

VENUES = table("""
    Lantern Anchor Orchard Harvest Willow Compass Meadow Kestrel Saffron Juniper Copper Velvet
    Marble Pepper Heron Falcon Clover Ginger Amber Cobalt Maple Thistle Walnut Coral
""")
VENUE_KINDS = ["tavern", "bistro", "diner", "canteen"]
CUISINES = ["Basque", "Greek", "Korean", "Cuban", "Polish", "Nepalese", "Danish", "Moroccan"]
PRICES = ["low", "medium", "high"]
AREAS = ["old town", "harbour district", "north bank", "hill quarter"]
LANDMARKS = [
    f"{word} {kind}" for word in ("Union", "Castle", "Mill") for kind in ("Square", "Gate")
]

# --- Invented words ----------------------------------------------------------------------------

ONSETS = table("""
    b c ch cl cr d dr f fr g gr h j k l m n p pl pr r s sh sl st str t th tr v w
""")
VOWELS = table("a a e e i i o o u ai ea ee ie oo ou é")
CODAS = ["", "", "", *table("ck d ff g l ll m n nd ng nt r rd rn rs s se st t te ty x y")]
