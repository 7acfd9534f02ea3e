"""Which titles may be shown to a viewer now: a look at each of them, compiled.

What does not depend on the viewer is a number by catalogue slot, `static`; what does is another,
`own`, filled for a request. A title may be shown where both are zero and the row does not remember
it among those that were watched long ago: a few ns a title. A viewer's part of a row is handed over
as an array of one: a record would cost 10 to 20 us on its way into compiled code.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.certification import UNKNOWN_AGE
from features.compiled import Row, Rows, compiled
from features.viewing_state import (
    IN_PROGRESS,
    N_PLACES,
    N_TITLES,
    REJECTED,
    WATCHED,
    is_remembered,
    remember,
    state_of,
)
from serving.filtering import reasons
from serving.retrieval.base import Floats, Slots, heap_push

Bits = NDArray[np.uint16]


@compiled
def mark_viewer(
    viewings: Rows,
    history: NDArray[np.int64],
    now_ms: int,
    rewatch_after_ms: int,
    exclude_in_progress: bool,
    own: Bits,
) -> None:
    """Marks the titles that a viewer's row has with their state, at `history`, their slots.

    `viewings`, `(1,)`, is of the viewer. What was watched `rewatch_after_ms` ago or earlier may be
    shown again. O(N_TITLES).
    """
    viewing = viewings[0]
    for place in range(N_TITLES):
        slot = history[place]
        if slot < 0:
            continue
        state = state_of(viewing, place, now_ms)
        if state == REJECTED:
            own[slot] |= np.uint16(reasons.REJECTED)
        elif state == IN_PROGRESS and exclude_in_progress:
            own[slot] |= np.uint16(reasons.IN_PROGRESS)
        elif state == WATCHED:
            touched_ms = np.int64(viewing["titles"][place]["at_s"]) * 1_000
            if now_ms - touched_ms < rewatch_after_ms:
                own[slot] |= np.uint16(reasons.WATCHED)


@compiled
def sift(
    slots: Slots,
    static: Bits,
    own: Bits,
    ids: NDArray[np.uint64],
    viewings: Rows,
    remembers: bool,
    bits: Bits,
    allowed: NDArray[np.bool_],
    counts: NDArray[np.int64],
) -> None:
    """Fills `bits` and `allowed`, `(n,)`, of titles, and counts each one's first reason.

    `remembers`: whether titles that the row has as fingerprints alone stay out. `counts` has a
    place for each of REASONS. About 2 ns a title.
    """
    viewing = viewings[0]
    remembered = np.zeros(N_PLACES, np.uint32)
    if remembers:
        remember(viewing, remembered)
    for i in range(len(slots)):
        found = _bits_of(slots[i], static, own, ids, viewing, remembers, remembered)
        bits[i] = found
        allowed[i] = found == 0
        if found != 0:
            first = 0
            while (found >> first) & 1 == 0:
                first += 1
            counts[first] += 1


@compiled
def _bits_of(
    slot: int,
    static: Bits,
    own: Bits,
    ids: NDArray[np.uint64],
    viewing: Row,
    remembers: bool,
    remembered: NDArray[np.uint32],
) -> int:
    found = np.int64(static[slot]) | np.int64(own[slot])
    if found == 0 and remembers and is_remembered(viewing, remembered, ids[slot]):
        found = np.int64(reasons.WATCHED)
    return found  # type: ignore[return-value]


@compiled
def best_allowed(
    among: Slots,
    order_by: Floats,
    wanted: int,
    places: Slots,
    static: Bits,
    own: Bits,
    ids: NDArray[np.uint64],
    viewings: Rows,
    remembers: bool,
) -> Slots:
    """The `wanted` best allowed titles of the slots `among` by `order_by`, each `(m,)`, best first.

    Candidates (`places` not negative) are passed over. One pass over all that may be shown to
    anybody, so that a slate is short only when titles run out; a heap holds the best.
    """
    viewing = viewings[0]
    found = np.zeros(wanted, np.int32)
    scores = np.zeros(wanted, np.float32)
    remembered = np.zeros(N_PLACES, np.uint32)
    if remembers:
        remember(viewing, remembered)
    n = 0
    for k in range(len(among)):
        slot = among[k]
        if places[slot] >= 0 or (n == wanted and not order_by[k] > scores[0]):
            continue
        if _bits_of(slot, static, own, ids, viewing, remembers, remembered) == 0:
            n = heap_push(found, scores, n, slot, order_by[k])
    return found[:n][np.argsort(-scores[:n], kind="mergesort")]


class Titles(NamedTuple):
    """What a catalogue says of titles, each `(n_items,)` by slot."""

    available_from_ms: NDArray[np.int64]  # FOR_GOOD: removed
    available_until_ms: NDArray[np.int64]
    region_sets: NDArray[np.uint16]
    ages: NDArray[np.uint8]
    categories: NDArray[np.uint32]
    languages: NDArray[np.uint32]
    genres: NDArray[np.uint32]


class Wanted(NamedTuple):
    """What titles must be; of what is empty or zero, anything."""

    region_allows: NDArray[np.bool_]  # by set of regions
    max_age: int  # negative: no ceiling
    shows_unknown_ages: bool
    categories: NDArray[np.uint32]
    languages: NDArray[np.uint32]
    genres: int
    blocked_genres: int


@compiled
def mark_static(
    slots: Slots, titles: Titles, wanted: Wanted, now_ms: int, for_good: int, bits: Bits
) -> int:
    """Fills `bits[slots]` with what refuses each title to every viewer; about 10 ns a title.

    Returns the next moment at which one of them comes or goes, `for_good` if never.
    """
    edge_ms = for_good
    for slot in slots:
        bits[slot] = _refusals(slot, titles, wanted)
        from_ms, until_ms = titles.available_from_ms[slot], titles.available_until_ms[slot]
        if from_ms == for_good:
            bits[slot] |= np.uint16(reasons.REMOVED)
        elif from_ms > now_ms:
            bits[slot] |= np.uint16(reasons.NOT_YET)
            edge_ms = min(edge_ms, from_ms)
        if until_ms <= now_ms:
            bits[slot] |= np.uint16(reasons.EXPIRED)
        else:
            edge_ms = min(edge_ms, until_ms)
    return edge_ms


@compiled
def _refusals(slot: int, titles: Titles, wanted: Wanted) -> int:
    """What refuses a title at any time."""
    found, genres = 0, np.int64(titles.genres[slot])
    if not wanted.region_allows[titles.region_sets[slot]]:
        found |= reasons.REGION
    if wanted.max_age >= 0 and not _is_for(titles.ages[slot], wanted):
        found |= reasons.AGE
    if len(wanted.categories) and not _is_among(titles.categories[slot], wanted.categories):
        found |= reasons.CATEGORY
    if len(wanted.languages) and not _is_among(titles.languages[slot], wanted.languages):
        found |= reasons.LANGUAGE
    if wanted.genres != 0 and (genres & wanted.genres) == 0:
        found |= reasons.GENRE
    if (genres & wanted.blocked_genres) != 0:
        found |= reasons.BLOCKED
    return found


@compiled
def _is_for(age: int, wanted: Wanted) -> bool:
    """Whether a title of this age may be shown under the ceiling."""
    return wanted.shows_unknown_ages if age == UNKNOWN_AGE else age <= wanted.max_age


@compiled
def _is_among(value: int, wanted: NDArray[np.uint32]) -> bool:
    for one in wanted:  # noqa: SIM110 (numba compiles no generators in any())
        if value == one:
            return True
    return False


@compiled
def mark_ratings(
    values: Floats, mean: int, count: int, least_mean: float, least_votes: float, bits: Bits
) -> None:
    """Refuses titles of the mirror with too low a mean rating (column `mean`), or too few votes."""
    for slot in range(min(len(values), len(bits))):
        bits[slot] &= ~np.uint16(reasons.RATING)
        if values[slot, mean] < least_mean or values[slot, count] < least_votes:
            bits[slot] |= np.uint16(reasons.RATING)
