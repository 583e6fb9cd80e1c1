"""How a method looks in every chart: a colour and a shape that follow from its name alone.

A method looks the same on every page and in every figure, whatever else is there. Twelve colours
and eight shapes make 96 looks, so two of many methods may share one; a legend names both.
"""

import hashlib
from dataclasses import dataclass

# Of the digest, chosen so that common methods have colours of their own. Another value would
# change every chart that was ever made.
SALT = 2043
# The first eight after Okabe and Ito, 2008, dark enough for marks on white.
COLOURS = (
    "#0072b2", "#d98200", "#009e73", "#d55e00", "#c4629a", "#2f9fd8", "#8f7d00", "#1d1d1b",
    "#7b4fb8", "#c1272d", "#0b7285", "#9a6324",
)  # fmt: skip
ON_DARK = (
    "#4aa8e0", "#f0b429", "#2cc79b", "#f2803a", "#e3a1c6", "#8fd0f5", "#d9cb52", "#f1efe8",
    "#b79bea", "#ff7b7b", "#5cc8d7", "#d9a066",
)  # fmt: skip
# As paths about the origin, and as matplotlib names them: a shape says what a colour says too.
PATHS = (
    "M5.5 0A5.5 5.5 0 1 1 -5.5 0A5.5 5.5 0 1 1 5.5 0Z",
    "M-5 -5H5V5H-5Z",
    "M0 -6.5L6 5H-6Z",
    "M0 -6.8L6.8 0L0 6.8L-6.8 0Z",
    "M0 6.5L6 -5H-6Z",
    "M-2 -6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0Z",
    "M0 -7L1.8 -2.2L6.7 -2.2L2.7 0.9L4.1 5.7L0 2.8L-4.1 5.7L-2.7 0.9L-6.7 -2.2L-1.8 -2.2Z",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


@dataclass(frozen=True)
class Look:
    """The places of a colour and a shape in the lists above."""

    colour: int
    shape: int


def look_of(name: str) -> Look:
    """The look of a method."""
    digest = hashlib.sha256(f"{SALT} {name}".encode()).digest()
    place = int.from_bytes(digest[:4], "big")
    return Look(place % len(COLOURS), place // len(COLOURS) % len(PATHS))


def look_in_figures(name: str) -> dict[str, str]:
    """A method's colour and marker as matplotlib takes them."""
    look = look_of(name)
    return {"color": COLOURS[look.colour], "marker": MARKERS[look.shape]}
