"""From viewers' rows to the rows that a partition feeds: what an event says beyond its own row.

Which titles are visited together is known when an event meets its viewer's row, as it was before.
"""

import numpy as np
from numpy.typing import NDArray

from features.compiled import Row, Rows, compiled, unlocked
from features.covisitation import N_PARTNERS, put_covisits
from features.user_activity import N_RECENT
from features.user_row import APPLIED
from features.user_row import apply as apply_to_viewer
from features.user_sessions import SESSION_GAP_MS
from features.vocabulary import EventType

LOW_RATING = 5.0  # a rating below is no visit


@compiled
def is_visit(event_type: int, rating: float) -> bool:
    """Whether an event can make its title a neighbour of others: a deliberate, liking action."""
    if event_type == EventType.RATE:
        return rating >= LOW_RATING
    return event_type in (
        EventType.CLICK,
        EventType.PLAY,
        EventType.COMPLETE,
        EventType.LIKE,
        EventType.ADD,
        EventType.SHARE,
    )


@compiled
def session_partners(row: Row, event: Row, out: NDArray[np.uint64]) -> int:
    """The last titles of the session that `event` makes pairs with, newest first; how many.

    `row` is the viewer's before the event; `out`, `(N_PARTNERS,) uint64`. A session ends where 30
    minutes lie between two events. No pairs for a title that the session has visited already.
    Progress counts as a visit here, since a long film drives all else from the short memory; so
    does a rating, whose height is not remembered. Searches and rejections do not.
    """
    if not is_visit(event["type"], event["rating"]):
        return 0
    activity = row["activity"]
    count = 0
    later_ms = event["at_ms"]
    for back in range(1, N_RECENT + 1):
        place = (np.int64(activity["recent_next"]) - back + N_RECENT) % N_RECENT
        item = activity["recent_items"][place]
        at_ms = np.int64(activity["recent_at_s"][place]) * 1_000
        if item == 0 or abs(later_ms - at_ms) > SESSION_GAP_MS:
            break
        later_ms = at_ms
        event_type = activity["recent_types"][place]
        if event_type != EventType.PROGRESS and not is_visit(event_type, LOW_RATING):
            continue
        if item == event["item"]:
            return 0
        count = _add_partner(item, out, count)
    return count


@compiled
def _add_partner(item: np.uint64, out: NDArray[np.uint64], count: int) -> int:
    for k in range(count):
        if out[k] == item:
            return count
    if count < N_PARTNERS:
        out[count] = item
        count += 1
    return count


@unlocked
def apply_viewers(
    rows: Rows,
    slots: NDArray[np.int64],
    events: Rows,
    effects: NDArray[np.uint8],
    covisits: Rows,
    n_partners: NDArray[np.uint8],
) -> int:
    """Takes `events` in order into viewers' `rows[slots]`, and tells the pairs they make.

    Fills `effects` as `user_row.apply_all` does, `n_partners` `(n_events,) uint8`, and `covisits`,
    `(MOST_COVISITS * n_events,)`; returns how many of these there are. An event that was in its row
    before, or is a duplicate, makes none: what it made is stored already.
    """
    partners = np.zeros(N_PARTNERS, np.uint64)
    n_covisits = 0
    for i in range(len(events)):
        row, event = rows[slots[i]], events[i]
        count = session_partners(row, event, partners)
        effects[i] = apply_to_viewer(row, event)
        if effects[i] < APPLIED:
            count = 0
        n_partners[i] = count
        if count > 0:
            n_covisits = put_covisits(event, partners, count, covisits, n_covisits)
    return n_covisits
