"""The fixed vocabularies of the wire format, as the small integers that rows and events hold.

The order is that of `protos/headrace/v1/events.proto`; a test holds the two together.
"""

from collections.abc import Iterable
from enum import IntEnum

from features.ids import id_hash


class EventType(IntEnum):
    """What a viewer did."""

    UNSPECIFIED = 0
    IMPRESSION = 1
    CLICK = 2
    PLAY = 3
    PROGRESS = 4
    COMPLETE = 5
    LIKE = 6
    DISLIKE = 7
    RATE = 8
    SKIP = 9
    ADD = 10
    SHARE = 11
    SEARCH = 12
    ERASE = 13  # not a deed: the viewer is to be forgotten; never counted


class Device(IntEnum):
    """On what the viewer was."""

    UNSPECIFIED = 0
    TV = 1
    PHONE = 2
    TABLET = 3
    WEB = 4


class Page(IntEnum):
    """Where in the product the viewer was."""

    UNSPECIFIED = 0
    HOME = 1
    CATEGORY = 2
    ITEM = 3
    SEARCH = 4


class Arm(IntEnum):
    """A strategy that a slot of a slate may be given to: its own order of the candidates."""

    RANKER = 0  # the bundle's ranker over all candidates
    ALS = 1  # factors
    COVISITATION = 2
    TRENDING = 3
    CONTENT = 4  # what titles are: genres, years, language, cast
    LONG_TAIL = 5  # few viewers, high ratings
    SERENDIPITY = 6  # far from the viewer's taste, highly rated
    NEW = 7  # titles first seen lately


N_ARMS = len(Arm)
ARM_NAMES = tuple(arm.name.lower() for arm in Arm)
PINNED_NAME = "pinned"  # in the place of an arm, of a slot that a rule filled: nobody chose
N_TYPES = 12  # counted types: column `type - 1`
N_DEVICES = 5

GENRES = (
    "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "IMAX", "Musical", "Mystery", "Romance", "Sci-Fi",
    "Thriller", "War", "Western",
)  # fmt: skip
N_GENRES = 32
GENRE_SLOT = {name: slot for slot, name in enumerate(GENRES)}


def genre_slot(name: str) -> int:
    """Slot of a genre in 0..31: a known genre has its own, any other shares one of the last 13.

    >>> genre_slot("Drama"), len(GENRES) <= genre_slot("Cooking") < N_GENRES
    (7, True)
    """
    known = GENRE_SLOT.get(name)
    if known is not None:
        return known
    return len(GENRES) + id_hash(name) % (N_GENRES - len(GENRES))


def genre_mask(names: Iterable[str]) -> int:
    """The genres of a title as one 32-bit mask, bit `genre_slot(name)` for each.

    >>> genre_mask(["Action", "Animation"])
    5
    """
    mask = 0
    for name in names:
        mask |= 1 << genre_slot(name)
    return mask
