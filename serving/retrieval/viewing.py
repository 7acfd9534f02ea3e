"""What a viewer has begun, what comes next of it, and what the viewer has put aside for later."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows, compiled
from features.user_activity import N_RECENT
from features.user_sessions import is_next_episode, is_over
from features.viewing_state import (
    FRACTION_STEPS,
    IN_PROGRESS,
    N_TITLES,
    REJECTED,
    WATCHED,
    state_of,
)
from features.vocabulary import EventType
from serving.catalogue import CatalogueTable
from serving.request import Request

Slots = NDArray[np.int64]

_NOTHING: Final = np.zeros(0, np.int64)


class Begun(NamedTuple):
    """A title to go on with."""

    slot: int
    cause: int  # the episode that was watched before it, -1: the title itself was begun
    fraction: float  # watched share


def liked(request: Request) -> Slots:
    """The viewer's titles, newest first, without those that were rejected."""
    states = request.row["viewing"]["titles"]["state"][0]
    found: Slots = request.history[(request.history >= 0) & (states != REJECTED)]
    return found


def begun(request: Request, table: CatalogueTable) -> list[Begun]:
    """Titles in progress, and the next episode of a series whose last one was watched.

    The one touched last first, a series once. What was abandoned, by a skip or by a week without a
    look, is not there.
    """
    places, states = np.empty(N_TITLES, np.int64), np.empty(N_TITLES, np.int64)
    n = find_begun(
        request.row["viewing"], request.history, table.facts, request.now_ms, places, states
    )
    found: list[Begun] = []
    seen: set[int] = set()
    for place, state in zip(places[:n].tolist(), states[:n].tolist(), strict=True):
        slot = int(request.history[place])
        series = int(table.facts[slot]["series"])
        if series in seen:
            continue
        if series:
            seen.add(series)
        if state == IN_PROGRESS:
            title = request.row["viewing"]["titles"][0, place]
            found.append(Begun(slot, -1, float(title["fraction"]) / FRACTION_STEPS))
        elif state == WATCHED:
            following = next_episode(table, slot)
            if following >= 0:
                found.append(Begun(following, slot, 0.0))
    return found


@compiled
def find_begun(
    viewings: Rows, history: Slots, facts: Rows, now_ms: int, places: Slots, states: Slots
) -> int:
    """Places and states of titles in progress and of episodes; how many there are.

    `viewings`, `(1,)`, is of the viewer, as rows are below: a record would cost 10 to 20 us on its
    way into compiled code.
    """
    viewing, n = viewings[0], 0
    for place in range(len(history)):
        slot = history[place]
        if slot < 0:
            continue
        state = state_of(viewing, place, now_ms)
        if facts[slot]["series"] != 0 or state == IN_PROGRESS:
            places[n], states[n] = place, state
            n += 1
    return n


def next_episode(table: CatalogueTable, slot: int) -> int:
    """Slot of the episode after one; -1 for none.

    The next of its season, or the first of the next season where its own has no later one: an
    episode that the catalogue lacks is not skipped.
    """
    fact = table.facts[slot]
    episodes, last = table.episodes.get(int(fact["series"]), {}), int(fact["episode"])
    following = min((episode for episode in episodes if episode > last), default=0)
    is_next = following and is_next_episode(last, following)
    return episodes[following] if is_next else -1


def of_session(request: Request) -> Slots:
    """The titles of the current session that the catalogue has, newest first; rejected ones not."""
    slots = np.empty(N_TITLES, np.int64)
    n = find_of_session(request.row, request.history, request.now_ms, slots)
    return slots[:n]


@compiled
def find_of_session(rows: Rows, history: Slots, now_ms: int, slots: Slots) -> int:
    """Fills `slots` for `of_session`; how many there are. O(titles of both)."""
    session, titles = rows[0]["sessions"], rows[0]["viewing"]["titles"]
    if is_over(session, now_ms):
        return 0
    n, n_kept = 0, min(session["n_titles"], len(session["titles"]))
    for place in range(len(history)):
        if history[place] < 0 or titles[place]["state"] == REJECTED:
            continue
        fingerprint = np.uint32(titles[place]["item"])
        for k in range(n_kept):
            if session["titles"][k] == fingerprint:
                slots[n] = history[place]
                n += 1
                break
    return n


def from_list(request: Request, table: CatalogueTable) -> Slots:
    """Titles that the viewer added, the last first.

    A viewer's row keeps the kinds of the last 16 events alone, so what was added before those is
    not known as added any more.
    """
    ids = np.empty(N_RECENT, np.uint64)
    n = find_added(request.row["activity"], ids)
    if n == 0:
        return _NOTHING
    slots = table.slots_of(ids[:n])
    found: Slots = slots[slots >= 0]
    return found


@compiled
def find_added(activities: Rows, ids: NDArray[np.uint64]) -> int:
    """Ids of the titles added among the last events, the last first; how many there are."""
    activity, n = activities[0], 0
    for back in range(1, N_RECENT + 1):
        place = (activity["recent_next"] + N_RECENT - back) % N_RECENT
        if activity["recent_types"][place] == EventType.ADD:
            ids[n] = activity["recent_items"][place]
            n += 1
    return n
