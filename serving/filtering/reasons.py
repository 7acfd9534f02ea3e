"""Why a title is not shown: one bit for each reason, and its name as answers have it."""

from typing import Final

# What does not depend on the viewer.
BLOCKED: Final = 1 << 0  # by a rule
REMOVED: Final = 1 << 1  # from the catalogue
NOT_YET: Final = 1 << 2
EXPIRED: Final = 1 << 3
REGION: Final = 1 << 4
AGE: Final = 1 << 5  # above the ceiling, or unknown below one
CATEGORY: Final = 1 << 6
LANGUAGE: Final = 1 << 7
GENRE: Final = 1 << 8
RATING: Final = 1 << 9
NOT_ASKED: Final = 1 << 10  # of a search page: not among its candidates
# What does.
WATCHED: Final = 1 << 11
REJECTED: Final = 1 << 12
IN_PROGRESS: Final = 1 << 13
EXCLUDED: Final = 1 << 14  # by the request, or the title of the page itself
SHOWN: Final = 1 << 15  # on an earlier page

# In the order of the bits; a candidate that several refuse is counted for the first.
REASONS: Final = (
    "blocked",
    "removed",
    "not_yet",
    "expired",
    "region",
    "age",
    "category",
    "language",
    "genre",
    "rating",
    "not_asked",
    "watched",
    "rejected",
    "in_progress",
    "excluded",
    "shown",
)


def names_of(bits: int) -> tuple[str, ...]:
    """The reasons whose bits are set.

    >>> names_of(BLOCKED | WATCHED), names_of(0)
    (('blocked', 'watched'), ())
    """
    return tuple(name for k, name in enumerate(REASONS) if bits >> k & 1)
