"""Colours, markers, dashes and hatches of all figures: a name has the same in each, and nothing needs colour alone.

Colours are Okabe & Ito's, which are distinct with any colour vision.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from embedome.common.terms import SPLITS, TEST, TRAIN, VAL

PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000")
# Filled all of them: they are told apart at the size of a point.
MARKERS = ("o", "^", "s", "D", "v", "P", "*")
OTHER, REFERENCE_LINE = "#BBBBBB", "#777777"


@dataclass(frozen=True, slots=True)
class Style:
    """How what has one name is drawn."""

    color: str
    marker: str = "o"
    dashes: str = "-"
    hatch: str = ""


# Train, which the others are compared with, is grey and lies below them.
SPLIT_STYLES = {
    SPLITS[TRAIN]: Style("#777777", "o", "-", ""),
    SPLITS[VAL]: Style("#0072B2", "^", "-.", "//"),
    SPLITS[TEST]: Style("#D55E00", "s", "--", ".."),
}
OTHERS = Style(OTHER, "o", ":", "")


def assign_styles(counts: Mapping[str, int], limit: int | None = None) -> dict[str, Style]:
    """Return a colour and marker for each name, of many the `limit` commonest, in alphabetical order.

    Each name prefers a place of the palette by its hash and takes the next free one where that is taken. So the styles
    do not depend on the order or the size of the counts, and a further name changes few of the others.

    Parameters
    ----------
    counts : mapping
        How many there are of each name.
    limit : int, optional
        How many names have a style of their own; all if not given.
    """
    commonest = sorted(counts, key=lambda name: (-counts[name], name))[:limit]
    places: dict[int, str] = {}
    room = max(len(PALETTE), len(commonest))
    for name in sorted(commonest):
        place = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest()) % len(PALETTE)
        while place in places:
            place = (place + 1) % room
        places[place] = name
    return {name: style_at(place) for place, name in sorted(places.items(), key=lambda item: item[1])}


def style_at(place: int) -> Style:
    """Return the style at a place; places beyond the palette have its colours with other markers."""
    turn, index = divmod(place, len(PALETTE))
    return Style(PALETTE[index], MARKERS[(index + turn) % len(MARKERS)])
