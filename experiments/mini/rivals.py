"""Words that could stand wrongly in another's place: of the same class, of another meaning.

What an encoder learns to find out of place, as a wrong word of the same kind is far harder to see
than one drawn from the whole vocabulary.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from experiments.mini import lexicon, passages
from experiments.mini.lexicon import Verb

# Each class is a list of meanings, each meaning a list of the words that have it.
Class = Sequence[Sequence[str]]


def single(words: Iterable[str]) -> Class:
    """A class in which every word has a meaning of its own."""
    return [[word] for word in words]


def forms(pairs: Sequence[tuple[Verb, Verb]]) -> list[Class]:
    """Verbs in each of their forms; the two of a pair mean the same."""
    return [
        [[getattr(verb, form) for verb in pair] for pair in pairs]
        for form in ("base", "past", "participle")
    ]


def all_forms(verbs: Sequence[Verb]) -> list[Class]:
    """Verbs in each of their forms, no two of which mean the same."""
    return forms([(verb, verb) for verb in verbs])


def kinds() -> list[Class]:
    """Nouns of other kinds in the same number, and each noun in the other number."""
    found: list[Class] = []
    for topic in (lexicon.LIVING, lexicon.MADE):
        for form in ("one", "many"):
            found.append([[getattr(noun, form) for noun in kind] for kind in topic])
        found.extend(single(noun) for kind in topic for noun in kind)
    return found


def phrases(items: Iterable[str]) -> list[Class]:
    """The last words of phrases that begin alike."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for item in items:
        beginning, _, last = item.rpartition(" ")
        found[beginning].append(last)
    return [single(words) for words in found.values()]


CLASSES: list[Class] = [
    [lexicon.GOOD, lexicon.BAD],
    single(lexicon.WOMEN + lexicon.MEN),
    single(lexicon.ROLES),
    *forms(lexicon.DEEDS),
    *forms(lexicon.WORKS),
    *all_forms([transfer.give for transfer in lexicon.TRANSFERS]),
    *all_forms([transfer.receive for transfer in lexicon.TRANSFERS]),
    *[cls for verbs in (lexicon.OWNED, lexicon.GROWN, lexicon.WORN) for cls in all_forms(verbs)],
    single(lexicon.OBJECTS),
    single(lexicon.CONTAINERS),
    single(lexicon.OBJECTS + lexicon.CONTAINERS),
    *phrases(lexicon.DAYS),
    *phrases(lexicon.PLACES),
    *kinds(),
    *[single([person.one, person.many]) for person in lexicon.PERSONS],
    *map(single, [*passages.INFLECTED, ("it", "they")]),
    [["all"], ["some"], ["no"]],
    [["every", "each"], ["no"]],
    [["did"], ["never"]],
    [["very", "quite", "really"], ["not", "never", "hardly"]],
    *[single(pair) for pair in [("believe", "doubt"), ("everybody", "nobody"), ("most", "few")]],
    *[single(pair) for pair in [("felt", "denied"), ("but", "and")]],
    [lexicon.BIG, lexicon.SMALL],
    single(["when", "where"]),
    single(["by", "from", "to"]),
    *passages.OPPOSED,
]


def rivals() -> dict[str, set[str]]:
    """The rivals of each word that has any, as written inside a sentence."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for words in CLASSES:
        for place, meaning in enumerate(words):
            others = {word for other, set_ in enumerate(words) if other != place for word in set_}
            for word in meaning:
                found[word] |= others
    return {word: others - {word} for word, others in found.items()}
