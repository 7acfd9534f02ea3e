"""Where a viewer stands with each title: in progress, watched, abandoned, rejected.

A bounded table, the title touched last in front. A watched or rejected title that falls off its end
is remembered by a 32-bit fingerprint, so that what was watched stays out of the slate.

States come from what is reported, by these rules:

    watched      completed, rated, or reported at 90 % or beyond
    in progress  played or reported below that
    abandoned    skipped while in progress; or in progress, and not touched for 7 days: time alone
                 changes no row, so this one is found when the row is read (`state_of`)
    rejected     disliked, until it is liked or watched
    seen         anything else: clicked, added, liked, shared, skipped before it began

Whatever is abandoned and played again is in progress again. The first N_FRONT titles lie in the
head of a viewer's row (`features.user_row`), so `update` says whether anything behind them changed.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, compiled
from features.vocabulary import EventType
from features.windows import DAY_MS

N_TITLES = 32
N_FRONT = 4
N_FINGERPRINTS = 128
N_MARKS = 4_096  # a power of two
WATCHED_FRACTION = 0.9
FRACTION_STEPS = 200
ABANDONED_AFTER_MS = 7 * DAY_MS

SEEN, IN_PROGRESS, WATCHED, ABANDONED, REJECTED = 1, 2, 3, 4, 5

TITLE = np.dtype(
    [
        ("item", "u8"),  # 0 behind the last title
        ("at_s", "u4"),  # when it was touched last
        ("state", "u1"),  # as of then
        ("fraction", "u1"),  # watched share in steps of 1/200: the position in it
        ("rating", "u1"),  # rating * 10 + 1; 0: none
    ],
    align=True,
)

FIELDS = np.dtype(
    [
        ("titles", TITLE, (N_TITLES,)),
        ("fingerprints", "u4", (N_FINGERPRINTS,)),
        ("next_fingerprint", "i4"),
    ],
    align=True,
)
FRONT_BYTES = N_FRONT * TITLE.itemsize

COLUMNS = (
    ("user_titles_in_progress", "titles", "begun and touched within 7 days, of the last 32", 0.0),
    ("user_titles_watched", "titles", "watched to the end or rated, of the last 32", 0.0),
    ("user_titles_abandoned", "titles", "skipped or left for 7 days, of the last 32", 0.0),
    ("user_titles_rejected", "titles", "disliked, of the last 32", 0.0),
    (
        "user_completion_share",
        "0..1",
        "watched / (watched + abandoned + in progress), of the last 32",
        0.0,
    ),
    ("user_progress", "0..1", "watched share of the title in progress touched last", 0.0),
)


@compiled
def update(row: Row, event: Row) -> bool:
    """Takes one event in: moves its title to the front with its new state. O(N_TITLES).

    True if anything behind the first N_FRONT titles may have changed.
    """
    kind = event["type"]
    if kind in (EventType.IMPRESSION, EventType.SEARCH):
        return False
    titles = row["titles"]
    place = find(row, event["item"])
    state, fraction, rating, at_s = SEEN, 0, 0, event["at_ms"] // 1_000
    if place >= 0:
        title = titles[place]
        state, fraction, rating = title["state"], title["fraction"], title["rating"]
        at_s = max(at_s, title["at_s"])
    elif _has_fingerprint(row, event["item"]):
        state = WATCHED  # long ago: only its fingerprint was left
    if event["rating"] >= 0:
        rating = int(event["rating"] * 10 + 0.5) + 1
    fraction = max(fraction, _fraction(event))
    is_deep = place >= N_FRONT or (place < 0 and titles[N_FRONT - 1]["item"] != 0)
    _make_room(row, place)
    front = titles[0]
    front["item"], front["at_s"] = event["item"], at_s
    front["state"] = _next_state(state, kind, fraction)
    front["fraction"], front["rating"] = fraction, rating
    return is_deep


@compiled
def _fraction(event: Row) -> int:
    """Steps of the title that lie behind the position; its length as reported, or as known."""
    if event["type"] == EventType.COMPLETE:
        return FRACTION_STEPS
    duration_s = float(event["watch_duration_s"])
    if duration_s <= 0:
        duration_s = event["runtime_min"] * 60.0
    if duration_s <= 0:
        return 0
    share = min(event["watch_position_s"] / duration_s, 1.0)
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
def _make_room(row: Row, place: int) -> None:
    """Moves the titles before `place` back by one; for a new title (-1) all of them."""
    titles = row["titles"]
    if place < 0:
        place = 0
        while place < N_TITLES - 1 and titles[place]["item"] != 0:
            place += 1
        last = titles[place]
        if last["state"] in (WATCHED, REJECTED):
            row["fingerprints"][row["next_fingerprint"]] = np.uint32(last["item"])
            row["next_fingerprint"] = (row["next_fingerprint"] + 1) % N_FINGERPRINTS
    for k in range(place, 0, -1):
        titles[k] = titles[k - 1]


@compiled
def find(row: Row, item: np.uint64) -> int:
    """Place of a title in the table, or -1. O(N_TITLES)."""
    titles = row["titles"]
    for place in range(N_TITLES):
        if titles[place]["item"] == item:
            return place
        if titles[place]["item"] == 0:
            return -1
    return -1


@compiled
def _has_fingerprint(row: Row, item: np.uint64) -> bool:
    fingerprint = np.uint32(item)
    for kept in row["fingerprints"]:  # noqa: SIM110 (numba compiles no generators in any())
        if kept == fingerprint and kept != 0:
            return True
    return False


@compiled
def is_done_with(row: Row, item: np.uint64) -> bool:
    """Whether the viewer has watched or rejected a title. O(titles kept)."""
    place = find(row, item)
    if place >= 0:
        return row["titles"][place]["state"] in (WATCHED, REJECTED)
    return _has_fingerprint(row, item)


@compiled
def is_remembered(row: Row, item: np.uint64) -> bool:
    """Whether a title was watched or rejected before it fell off the table; nobody knows when."""
    return find(row, item) < 0 and _has_fingerprint(row, item)


@compiled
def mark_done(row: Row, marks: NDArray[np.bool_]) -> None:
    """Marks each title that `is_done_with` may know, by its lowest bits. O(titles kept).

    `marks`, `(N_MARKS,)`, all False before. No such title goes unmarked; of the others about one in
    thirty shares a mark. Ids and fingerprints agree in their lowest 32 bits.
    """
    for title in row["titles"]:
        if title["state"] in (WATCHED, REJECTED):
            marks[title["item"] & np.uint64(N_MARKS - 1)] = True
    for fingerprint in row["fingerprints"]:
        if fingerprint != 0:
            marks[fingerprint & np.uint32(N_MARKS - 1)] = True


@compiled
def is_marked(marks: NDArray[np.bool_], item: np.uint64) -> bool:
    """Whether `is_done_with` has to be asked about a title: False says that it is not done with."""
    return bool(marks[item & np.uint64(N_MARKS - 1)])


@compiled
def state_of(row: Row, place: int, now_ms: int) -> int:
    """The state of the title at a place of the table, as of now; 0 behind the last title."""
    title = row["titles"][place]
    touched_ms = np.int64(title["at_s"]) * 1_000
    if title["state"] == IN_PROGRESS and now_ms - touched_ms > ABANDONED_AFTER_MS:
        return ABANDONED
    return np.int64(title["state"])  # type: ignore[return-value]


@compiled
def continue_watching(
    row: Row, now_ms: int, items: NDArray[np.uint64], fractions: NDArray[np.float32]
) -> int:
    """Titles in progress, the one touched last first; how many were found.

    Fills `items` and `fractions`, each `(n,)`, with at most n of them. O(N_TITLES). Pure.
    """
    n = 0
    for place in range(N_TITLES):
        if n == len(items) or row["titles"][place]["item"] == 0:
            break
        if state_of(row, place, now_ms) == IN_PROGRESS:
            items[n] = row["titles"][place]["item"]
            fractions[n] = row["titles"][place]["fraction"] / FRACTION_STEPS
            n += 1
    return n


@compiled
def values(row: Row, now_ms: int, out: NDArray[np.float32]) -> None:
    """Writes the columns of COLUMNS into `out`, `(len(COLUMNS),) float32`. Pure."""
    out[:] = 0.0
    for place in range(N_TITLES):
        state = state_of(row, place, now_ms)
        if state == IN_PROGRESS:
            if out[0] == 0.0:
                out[5] = row["titles"][place]["fraction"] / FRACTION_STEPS
            out[0] += 1.0
        elif state > IN_PROGRESS:
            out[state - 2] += 1.0
    begun = out[0] + out[1] + out[2]
    out[4] = out[1] / begun if begun > 0 else 0.0
