"""Compact letter display: methods that share a letter cannot be told apart.

Letters are the largest groups within which no pair differs; one method may be in several, so they
are no ranking. Insert and absorb: Piepho, 2004, J. Comput. Graph. Stat. 13, 456.
"""

from collections.abc import Sequence

import numpy as np

Group = frozenset[int]


def groups(different: np.ndarray) -> list[Group]:
    """The maximal groups of which no two members differ, given who does [k, k].

    Sorted by their members, so that the group of the first member comes first.
    """
    found: set[Group] = {frozenset(range(len(different)))}
    for first, second in np.argwhere(np.triu(different | different.T, 1)).tolist():
        wrong = {group for group in found if {first, second} <= group}
        parts = {group - {one} for group in wrong for one in (first, second)}
        found = absorbed(found - wrong | parts)
    return sorted(found, key=sorted)


def absorbed(groups: set[Group]) -> set[Group]:
    """The groups that lie in no other."""
    return {group for group in groups if not any(group < other for other in groups)}


def letters(means: Sequence[float] | np.ndarray, different: np.ndarray) -> list[str]:
    """The letters of each method [k]; `a` is the group of the highest mean."""
    order = np.argsort(-np.asarray(means), kind="stable")
    found = groups(different[np.ix_(order, order)])
    names = {int(method): "" for method in order}
    for number, group in enumerate(found):
        for place in sorted(group):
            names[int(order[place])] += letter(number)
    return [names[method] for method in range(len(names))]


def letter(number: int) -> str:
    """a, b, ..., z, then a1, b1, ..."""
    rounds, place = divmod(number, 26)
    return chr(ord("a") + place) + (str(rounds) if rounds else "")
