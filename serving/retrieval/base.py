"""Candidates of one request: flat arrays, made once and used again for every request.

A title is a candidate once, however many sources offer it. The first of them, in the order in which
they are asked, is its primary source; sources with a cause come first, so that a slate can say why.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.ranking import N_COLUMNS, N_SCORES

NOT_A_CANDIDATE: Final = -1
NO_CAUSE: Final = -1

Floats = NDArray[np.float32]
Slots = NDArray[np.int32]


class Source(IntEnum):
    """What brings candidates."""

    COVISITATION = 0
    FOR_YOU = 1
    TRENDING = 2
    WEEK = 3
    NEW = 4
    POPULAR = 5
    SESSION = 6
    CONTENT = 7
    REGION = 8
    GENRE = 9
    LONG_TAIL = 10
    SERENDIPITY = 11
    ARRIVAL = 12
    LIST = 13
    SEARCH = 14  # candidates that the request names
    EDITORIAL = 15  # pinned by a rule
    CONTINUE = 16
    NEXT_EPISODE = 17
    SIMILAR = 18


@dataclass(frozen=True, slots=True)
class SourceWords:
    """A source as answers name it, and what it says to a viewer."""

    name: str
    kind: str  # of the reason, for texts of the client's own
    reason: str  # with {cause} where the source has one, with {genre} where it is of a genre
    has_cause: bool = False  # whether its candidates come from a title
    has_genre: bool = False


WORDS: Final = {
    Source.COVISITATION: SourceWords(
        "covisitation", "because_you_watched", "because you watched {cause}", has_cause=True
    ),
    Source.FOR_YOU: SourceWords("for_you", "for_you", "for your taste"),
    Source.TRENDING: SourceWords("trending", "trending", "trending now"),
    Source.WEEK: SourceWords("week", "popular_this_week", "popular this week"),
    Source.NEW: SourceWords("new", "new_this_week", "new this week"),
    Source.POPULAR: SourceWords("popular", "popular", "popular"),
    Source.SESSION: SourceWords(
        "session", "because_you_watched", "because you watched {cause} just now", has_cause=True
    ),
    Source.CONTENT: SourceWords(
        "similar_content", "similar_content", "similar to {cause}", has_cause=True
    ),
    Source.REGION: SourceWords("region", "trending_in_region", "trending in your region"),
    Source.GENRE: SourceWords("genre", "trending_in_genre", "trending in {genre}", has_genre=True),
    Source.LONG_TAIL: SourceWords("long_tail", "hidden_gem", "a hidden gem"),
    Source.SERENDIPITY: SourceWords("serendipity", "something_different", "something different"),
    Source.ARRIVAL: SourceWords("just_added", "just_added", "just added"),
    Source.LIST: SourceWords("your_list", "from_your_list", "from your list"),
    Source.CONTINUE: SourceWords("continue_watching", "continue_watching", "continue watching"),
    Source.NEXT_EPISODE: SourceWords(
        "next_episode", "next_episode", "next after {cause}", has_cause=True
    ),
    Source.SIMILAR: SourceWords("similar", "similar_to", "more like {cause}", has_cause=True),
    Source.SEARCH: SourceWords("search", "found", "found by your search"),
    Source.EDITORIAL: SourceWords("editorial", "editorial", "picked by our editors"),
}
MOST_CANDIDATES: Final = 1_000
LEADING: Final = np.uint32(1 << Source.SIMILAR)  # sources whose candidates stand before all others


@dataclass(frozen=True, slots=True)
class Quotas:
    """How many candidates each source brings at most; about half remain as different titles.

    Chosen on MovieTweetings, on the events between 60 % and 80 %, in a study outside the engine:
    1,000 candidates from co-visitation, factors, trends and a long chart held 74 % of the next
    titles; the 1,000 titles of a chart with a half-life of 30 days alone held 73 %.
    """

    covisitation: int = 200
    covisitation_cosine: int = 100
    for_you: int = 150
    trending_6h: int = 100
    trending_1d: int = 250
    week: int = 500
    new: int = 60
    popular: int = 800  # asked last: they fill what room is left
    session: int = 45
    content: int = 60
    region: int = 60
    genre: int = 90
    long_tail: int = 30
    serendipity: int = 30
    arrivals: int = 30
    begun: int = 10
    list: int = 16
    similar: int = 30

    @property
    def total(self) -> int:
        """Candidates if no two sources agreed."""
        return sum(getattr(self, name) for name in self.__slots__)


class Candidates:
    """At most `capacity` titles of `n_items`; the first `n` of each array are in use."""

    def __init__(self, n_items: int, capacity: int) -> None:
        self.n = 0
        self.slots: Slots = np.zeros(capacity, np.int32)
        self.primary: NDArray[np.uint8] = np.zeros(capacity, np.uint8)  # a Source
        self.sources: NDArray[np.uint32] = np.zeros(capacity, np.uint32)  # bit `source` for each
        self.causes: Slots = np.full(capacity, NO_CAUSE, np.int32)  # a slot, or NO_CAUSE
        self.scores: Floats = np.zeros((capacity, N_SCORES), np.float32)
        self.features: Floats = np.zeros((capacity, N_COLUMNS), np.float32)
        self.genres = 0  # a mask: of which genres those of Source.GENRE are
        self.places: Slots = np.full(n_items, NOT_A_CANDIDATE, np.int32)  # by catalogue slot

    @property
    def capacity(self) -> int:
        """How many titles there is room for."""
        return len(self.slots)

    def clear(self) -> None:
        """Forgets all candidates. O(candidates)."""
        self.places[self.slots[: self.n]] = NOT_A_CANDIDATE
        self.n = 0

    def offer(
        self, offered: NDArray[Any], quota: int, source: Source, cause: int = NO_CAUSE
    ) -> None:
        """Takes the first `quota` of `offered` slots; one that is a candidate already gets its bit.

        `cause` is the slot of the title that they come from. O(quota). What there is no room for is
        left out.
        """
        self.n = _offer(
            offered[:quota], int(source), cause, self.n,
            self.slots, self.primary, self.sources, self.causes, self.scores, self.places,
        )  # fmt: skip

    def keep(self, allowed: NDArray[np.bool_]) -> int:
        """Leaves only candidates with `allowed[place]`, in their order; how many went.

        Their features are not moved: they are filled behind it.
        """
        before = self.n
        self.n = _keep(
            allowed, self.n,
            self.slots, self.primary, self.sources, self.causes, self.scores, self.places,
        )  # fmt: skip
        return before - self.n


@compiled
def _offer(
    offered: NDArray[Any],
    source: int,
    cause: int,
    n: int,
    slots: Slots,
    primary: NDArray[np.uint8],
    sources: NDArray[np.uint32],
    causes: Slots,
    scores: Floats,
    places: Slots,
) -> int:
    bit = np.uint32(1 << source)
    for slot in offered:
        place = places[slot]
        if place >= 0:
            sources[place] |= bit
        elif n < len(slots):
            places[slot] = n
            slots[n], primary[n], sources[n], causes[n] = slot, source, bit, cause
            scores[n, :] = 0.0
            n += 1
    return n


@compiled
def _keep(
    allowed: NDArray[np.bool_],
    n: int,
    slots: Slots,
    primary: NDArray[np.uint8],
    sources: NDArray[np.uint32],
    causes: Slots,
    scores: Floats,
    places: Slots,
) -> int:
    kept = 0
    for i in range(n):
        if not allowed[i]:
            places[slots[i]] = NOT_A_CANDIDATE
            continue
        if kept != i:
            slots[kept], primary[kept], sources[kept] = slots[i], primary[i], sources[i]
            causes[kept] = causes[i]
            scores[kept, :] = scores[i]
            places[slots[kept]] = kept
        kept += 1
    return kept


@compiled
def heap_push(slots: Slots, scores: NDArray[Any], n: int, slot: int, score: float) -> int:
    """Puts a title into a heap of the `len(slots)` best, worst in front; how many it holds.

    A full heap lets its worst go, and must only be given better ones. O(log n).
    """
    if n < len(slots):
        place = n
        while place > 0 and scores[(place - 1) // 2] > score:
            parent = (place - 1) // 2
            slots[place], scores[place] = slots[parent], scores[parent]
            place = parent
        slots[place], scores[place] = slot, score
        return n + 1
    place = 0
    while True:
        child = 2 * place + 1
        if child >= n:
            break
        if child + 1 < n and scores[child + 1] < scores[child]:
            child += 1
        if scores[child] >= score:
            break
        slots[place], scores[place] = slots[child], scores[child]
        place = child
    slots[place], scores[place] = slot, score
    return n
