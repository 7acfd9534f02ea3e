"""The record of a viewer: position, deduplication, and the feature groups in their order.

The same bytes are the state of the flow, the value in Redis and what the server reads. What most
events change lies in the first HEAD_BYTES: everything but the titles behind the first four and the
fingerprints of older ones. An effect other than APPLIED says that the tail behind them is as it
was, so that writing the head is enough.
"""

import numpy as np
from numba import literal_unroll
from numpy.typing import NDArray

from features import user_activity, user_habits, user_sessions, user_taste, viewing_state
from features.compiled import Row, Rows, compiled
from features.events import DUPLICATE, ERASED
from features.user_activity import update as update_activity
from features.user_activity import values as activity_values
from features.user_habits import update as update_habits
from features.user_habits import values as habits_values
from features.user_sessions import update as update_sessions
from features.user_sessions import values as sessions_values
from features.user_taste import update as update_taste
from features.user_taste import values as taste_values
from features.viewing_state import update as update_viewing
from features.viewing_state import values as viewing_values
from features.vocabulary import EventType

LAYOUT = 2
N_REMEMBERED = 32  # a second event with the id of one of a viewer's last 32 events has no effect

USER_ROW = np.dtype(
    [
        ("layout", "u2"),
        ("partition", "i2"),  # of the log, where this viewer's events lie; -1 before the first
        ("next_remembered", "i4"),
        ("id", "u8"),
        ("offset", "i8"),  # of the last event included
        ("logged_at_ms", "i8"),  # when the log received that event
        ("remembered_events", "u8", (N_REMEMBERED,)),
        ("activity", user_activity.FIELDS),
        ("sessions", user_sessions.FIELDS),
        ("habits", user_habits.FIELDS),
        ("taste", user_taste.FIELDS),
        ("viewing", viewing_state.FIELDS),  # the last: the tail begins within its titles
    ],
    align=True,
)
HEAD_BYTES = USER_ROW.itemsize - viewing_state.FIELDS.itemsize + viewing_state.FRONT_BYTES

COLUMNS = (
    *user_activity.COLUMNS,
    *user_sessions.COLUMNS,
    *user_habits.COLUMNS,
    *user_taste.COLUMNS,
    *viewing_state.COLUMNS,
)
NAMES = tuple(name for name, *_ in COLUMNS)
N_COLUMNS = len(COLUMNS)
_SESSIONS_AT = len(user_activity.COLUMNS)
_HABITS_AT = _SESSIONS_AT + len(user_sessions.COLUMNS)
_TASTE_AT = _HABITS_AT + len(user_habits.COLUMNS)
_VIEWING_AT = _TASTE_AT + len(user_taste.COLUMNS)

# What became of an event; after any but APPLIED the tail of the row is as it was.
REPLAYED, SEEN_BEFORE, APPLIED, APPLIED_HEAD = 0, 1, 2, 3


def new_row() -> NDArray[np.void]:
    """`(1,) USER_ROW` of a viewer of whom nothing is known."""
    row = np.zeros(1, USER_ROW)
    row["layout"], row["partition"], row["offset"] = LAYOUT, -1, -1
    return row


_EMPTY = new_row()
KEPT = ("layout", "partition", "id", "offset", "logged_at_ms")  # by an erasure
_FORGOTTEN = tuple(name for name in USER_ROW.names or () if name not in KEPT)


@compiled
def erase(row: Row) -> None:
    """Forgets the viewer: the row of one of whom nothing is known, at its place in the log."""
    for name in literal_unroll(_FORGOTTEN):
        row[name] = _EMPTY[0][name]


@compiled
def apply(row: Row, event: Row) -> int:
    """Takes one event in, exactly once; says what became of it.

    REPLAYED: the row includes it already and stays as it is. SEEN_BEFORE: a second event with an id
    that the row remembers; only the position moves, and the event is flagged DUPLICATE. Either way
    it must go on to its title's row, which decides by its own position. APPLIED_HEAD: the event
    counts, and no byte behind HEAD_BYTES has changed. APPLIED: the tail may have changed, too.

    An event of the type ERASE empties the row. One that is flagged ERASED moves the position and is
    remembered as seen until the erasure, for the sake of its title; the row learns nothing of it.
    """
    if row["partition"] == event["partition"] and event["offset"] <= row["offset"]:
        return REPLAYED
    row["partition"] = event["partition"]
    row["offset"] = event["offset"]
    row["logged_at_ms"] = event["logged_at_ms"]
    if event["type"] == EventType.ERASE:
        erase(row)
        return APPLIED
    for remembered in row["remembered_events"]:
        if remembered == event["event"]:
            event["flags"] |= DUPLICATE
            return SEEN_BEFORE
    row["remembered_events"][row["next_remembered"]] = event["event"]
    row["next_remembered"] = (row["next_remembered"] + 1) % N_REMEMBERED
    if event["flags"] & ERASED:
        return APPLIED
    update_activity(row["activity"], event)
    update_sessions(row["sessions"], event)
    update_habits(row["habits"], event)
    update_taste(row["taste"], event)
    return APPLIED if update_viewing(row["viewing"], event) else APPLIED_HEAD


@compiled
def apply_all(
    rows: Rows,
    slots: NDArray[np.int64],
    events: Rows,
    effects: NDArray[np.uint8],
) -> None:
    """Takes `events` in order into `rows[slots]`; fills `effects`, `(n_events,) uint8`."""
    for i in range(len(events)):
        effects[i] = apply(rows[slots[i]], events[i])


@compiled
def values(row: Row, now_ms: int, out: NDArray[np.float32]) -> None:
    """Writes all columns of a viewer into `out`, `(N_COLUMNS,) float32`. Pure."""
    activity_values(row["activity"], now_ms, out[:_SESSIONS_AT])
    sessions_values(row["sessions"], now_ms, out[_SESSIONS_AT:_HABITS_AT])
    habits_values(row["habits"], now_ms, out[_HABITS_AT:_TASTE_AT])
    taste_values(row["taste"], now_ms, out[_TASTE_AT:_VIEWING_AT])
    viewing_values(row["viewing"], now_ms, out[_VIEWING_AT:])
