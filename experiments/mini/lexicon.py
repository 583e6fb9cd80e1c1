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
    """What one split has of a list: half of it for train, a quarter each for dev and test."""
    places = {"train": (0, 2), "dev": (1,), "test": (3,)}[split]
    return [item for position, item in enumerate(items) if position % 4 in places]


# --- Opinions ----------------------------------------------------------------------------------

GOOD = table("""
    good great lovely clever warm bright fresh gentle funny charming delightful excellent fine
    superb pleasant brilliant elegant graceful lively moving witty smart thrilling cheerful
    splendid wonderful inspiring refined sincere vivid bold amusing enjoyable impressive
    memorable remarkable stunning radiant neat beautiful
""")
BAD = table("""
    bad dull awful cold bleak stale rude boring poor dreadful terrible horrible dismal clumsy
    tedious shallow lazy ugly messy sloppy tiresome gloomy bland bitter harsh crude stupid silly
    dreary hollow weak painful annoying disappointing unpleasant pathetic nasty grim feeble
    tasteless
""")
REVIEWED = table("""
    film book play meal hotel concert lesson trip game novel soup show party museum park song
    speech tour dinner story album festival cafe garden
""")
ASPECTS = table("""
    plot acting music food room service staff view price ending cast dialogue lighting sound menu
    crew
""")

# --- People ------------------------------------------------------------------------------------

WOMEN = table("""
    Ann Bella Clara Diana Ella Fiona Greta Helen Irene Julia Karen Laura Maria Nora Olga Paula Rita
    Sara Tina Wendy
""")
MEN = table("""
    Adam Ben Carl David Eric Frank Georg Henry Ivan Jack Karl Leo Martin Noah Oscar Peter Robert
    Simon Tom Victor
""")
ROLES = table("""
    farmer baker teacher doctor lawyer sailor painter singer dancer judge pilot nurse tailor miner
    guard clerk butcher gardener
    driver cook priest soldier waiter banker plumber hunter poet editor mayor actor student
    officer porter captain chemist barber builder dentist tutor
""")


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
    hurt hurt / injure injured
    hug hugged / embrace embraced
    beat beat beaten / defeat defeated
    cure cured / heal healed
    push pushed / shove shoved
    amaze amazed / astonish astonished
    comfort comforted / console consoled
    notice noticed / spot spotted
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
    lose lost / misplace misplaced
    choose chose chosen / select selected
    send sent / mail mailed
    wreck wrecked / ruin ruined
    copy copied / duplicate duplicated
    test tested / inspect inspected
    draw drew drawn / sketch sketched
    hold held / grip gripped
""")
OBJECTS = table("""
    gate ladder lamp clock map letter basket bell blanket bottle brush bucket camera candle carpet
    chain coin crown curtain flag fence globe jar kettle key kite mirror needle parcel pen pillow
    plate radio ring rope ruler sack sign spoon statue stool table tent ticket towel tray umbrella
    vase wheel whistle
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
    *["on Sunday", "at noon", "at dawn", "at midnight", "in May", "in July"],
]
PLACES = [
    *["in the kitchen", "at the market", "near the bridge", "at the station", "in the library"],
    *["by the river", "in the office", "at the harbour", "in the cellar", "on the roof"],
    *["behind the church", "outside the school"],
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
    nouns("bird sparrow robin eagle crow owl parrot swan pigeon"),
    nouns("fish/fishes trout/trouts salmon/salmons shark carp/carps herring pike/pikes eel tuna"),
    nouns("insect ant beetle moth wasp cricket bee hornet termite"),
    nouns("flower rose tulip daisy/daisies lily/lilies orchid violet poppy/poppies iris/irises"),
    nouns("tree oak pine birch/birches elm maple willow cedar poplar"),
    nouns("fruit apple pear plum lemon cherry/cherries melon mango peach/peaches"),
    nouns("vegetable carrot onion turnip cabbage leek radish/radishes pepper potato/potatoes"),
    nouns("pet dog cat hamster rabbit puppy/puppies kitten pony/ponies tortoise"),
]
MADE = [
    nouns("tool hammer spade drill chisel wrench/wrenches shovel rake axe"),
    nouns("vehicle car truck bus/buses tractor tram van bicycle scooter"),
    nouns("instrument violin flute guitar piano trumpet harp cello organ"),
    nouns("garment coat shirt jacket skirt sweater vest dress/dresses scarf/scarves"),
    nouns("weapon sword spear dagger rifle cannon pistol musket lance"),
    nouns("toy doll puppet marble balloon rattle yoyo robot drum"),
    nouns("building castle barn temple palace chapel cottage mill tower"),
    nouns("gem diamond ruby/rubies pearl emerald sapphire topaz/topazes opal garnet"),
]
# What may be said of living things, and of made ones.
GROWN = [
    *[Verb("survive", "survived", "survived"), Verb("suffer", "suffered", "suffered")],
    *[Verb("grow", "grew", "grown"), Verb("die", "died", "died")],
    *[Verb("move", "moved", "moved"), Verb("vanish", "vanished", "vanished")],
    *[Verb("thrive", "thrived", "thrived"), Verb("rest", "rested", "rested")],
]
WORN = [
    *[Verb("break", "broke", "broken"), Verb("rust", "rusted", "rusted")],
    *[Verb("shine", "shone", "shone"), Verb("fall", "fell", "fallen")],
    *[Verb("burn", "burned", "burned"), Verb("last", "lasted", "lasted")],
    *[Verb("sink", "sank", "sunk"), Verb("crack", "cracked", "cracked")],
]
OWNED = [
    *[Verb("see", "saw", "seen"), Verb("want", "wanted", "wanted")],
    *[Verb("carry", "carried", "carried"), Verb("mention", "mentioned", "mentioned")],
    *[Verb("paint", "painted", "painted"), Verb("need", "needed", "needed")],
]

# --- Agreement ---------------------------------------------------------------------------------

RELATIONS = ["near", "behind", "beside", "under", "above", "opposite"]
STATES = table("""
    old new small large red blue green black white heavy light round clean dry quiet strange
""")
# Present tense, plural and singular.
STAND = [
    *[("stand", "stands"), ("remain", "remains"), ("look", "looks"), ("seem", "seems")],
    *[("appear", "appears"), ("stay", "stays")],
]
LIKE = [
    *[("like", "likes"), ("know", "knows"), ("admire", "admires"), ("fear", "fears")],
    *[("watch", "watches"), ("trust", "trusts"), ("see", "sees"), ("avoid", "avoids")],
]
REFLEXIVE = ["hurt", "saw", "praised", "blamed", "washed", "described", "admired", "surprised"]

# --- Sizes -------------------------------------------------------------------------------------

BIG = table("big large huge wide bulky broad enormous fat")
SMALL = table("small little tiny narrow short slim slight compact")
CONTAINERS = table("box bag drawer trunk case crate chest pocket cupboard barrel sack cabinet")

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
