"""Where a viewer stands with each title: in progress, watched, abandoned, rejected.

A bounded table, the title touched last in front. A watched or rejected title that falls off its end
is remembered by a 32-bit fingerprint, so that what was watched stays out of the slate.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.vocabulary import EventType

N_TITLES = 32
N_FINGERPRINTS = 128
WATCHED_FRACTION = 0.9
FRACTION_STEPS = 200

SEEN, IN_PROGRESS, WATCHED, ABANDONED, REJECTED = 1, 2, 3, 4, 5

FIELDS = np.dtype(
    [
        ("items", "u8", (N_TITLES,)),  # 0 behind the last title
        ("at_ms", "i8", (N_TITLES,)),
        ("states", "u1", (N_TITLES,)),
        ("fractions", "u1", (N_TITLES,)),  # watched share in steps of 1/200
        ("ratings", "u1", (N_TITLES,)),  # rating * 10 + 1; 0: none
        ("fingerprints", "u4", (N_FINGERPRINTS,)),
        ("next_fingerprint", "i4"),
    ],
    align=True,
)

COLUMNS = (
    ("user_titles_in_progress", "titles", "started and not finished", 0.0),
    ("user_titles_watched", "titles", "watched to the end or rated, of the last 32", 0.0),
    ("user_titles_abandoned", "titles", "left before the end, of the last 32", 0.0),
    ("user_completion_share", "0..1", "watched / (watched + abandoned + in progress)", 0.0),
)


@compiled
def update(row: Row, event: Row) -> None:
    """Takes one event in: moves its title to the front with its new state. O(N_TITLES)."""
    kind = event["type"]
    if kind in (EventType.IMPRESSION, EventType.SEARCH):
        return
    place = find(row, event["item"])
    state, fraction, rating, at_ms = SEEN, 0, 0, event["at_ms"]
    if place >= 0:
        state, fraction = row["states"][place], row["fractions"][place]
        rating, at_ms = row["ratings"][place], max(at_ms, row["at_ms"][place])
    elif is_done_with(row, event["item"]):
        state = WATCHED  # long ago: only its fingerprint was left
    if event["rating"] >= 0:
        rating = int(event["rating"] * 10 + 0.5) + 1
    fraction = max(fraction, _fraction(event))
    state = _next_state(state, kind, fraction)
    _put_in_front(row, place, event["item"])
    row["at_ms"][0], row["states"][0] = at_ms, state
    row["fractions"][0], row["ratings"][0] = fraction, rating


@compiled
def _fraction(event: Row) -> int:
    if event["type"] == EventType.COMPLETE:
        return FRACTION_STEPS
    if event["watch_duration_s"] <= 0:
        return 0
    share = min(event["watch_position_s"] / event["watch_duration_s"], 1.0)
    return int(share * FRACTION_STEPS + 0.5)


@compiled
def _next_state(state: int, kind: int, fraction: int) -> int:
    """The rules: a rating says watched; a dislike rejects until a like; a skip abandons."""
    if kind == EventType.DISLIKE:
        state = REJECTED
    elif kind == EventType.LIKE and state == REJECTED:
        state = SEEN
    elif kind in (EventType.COMPLETE, EventType.RATE):
        state = WATCHED
    elif kind in (EventType.PLAY, EventType.PROGRESS):
        if fraction >= WATCHED_FRACTION * FRACTION_STEPS:
            state = WATCHED
        elif state != WATCHED:
            state = IN_PROGRESS
    elif kind == EventType.SKIP and state == IN_PROGRESS:
        state = ABANDONED
    return state


@compiled
def _put_in_front(row: Row, place: int, item: np.uint64) -> None:
    if place < 0:
        place = N_TITLES - 1
        if row["states"][place] in (WATCHED, REJECTED):
            row["fingerprints"][row["next_fingerprint"]] = np.uint32(row["items"][place])
            row["next_fingerprint"] = (row["next_fingerprint"] + 1) % N_FINGERPRINTS
    for i in range(place, 0, -1):
        row["items"][i] = row["items"][i - 1]
        row["at_ms"][i] = row["at_ms"][i - 1]
        row["states"][i] = row["states"][i - 1]
        row["fractions"][i] = row["fractions"][i - 1]
        row["ratings"][i] = row["ratings"][i - 1]
    row["items"][0] = item


@compiled
def find(row: Row, item: np.uint64) -> int:
    """Place of a title in the table, or -1. O(N_TITLES)."""
    for place in range(N_TITLES):
        if row["items"][place] == item:
            return place
        if row["items"][place] == 0:
            return -1
    return -1


@compiled
def is_done_with(row: Row, item: np.uint64) -> bool:
    """Whether the viewer has watched or rejected a title. O(titles kept)."""
    place = find(row, item)
    if place >= 0:
        return row["states"][place] in (WATCHED, REJECTED)
    fingerprint = np.uint32(item)
    for kept in row["fingerprints"]:  # noqa: SIM110 (numba compiles no generators in any())
        if kept == fingerprint and kept != 0:
            return True
    return False


@compiled
def values(row: Row, now_ms: int, out: NDArray[np.float32]) -> None:  # noqa: ARG001
    """Writes the columns of COLUMNS into `out`, `(len(COLUMNS),) float32`. Pure."""
    in_progress, watched, abandoned = 0, 0, 0
    for state in row["states"]:
        in_progress += state == IN_PROGRESS
        watched += state == WATCHED
        abandoned += state == ABANDONED
    begun = in_progress + watched + abandoned
    out[0], out[1], out[2] = in_progress, watched, abandoned
    out[3] = watched / begun if begun > 0 else 0.0
