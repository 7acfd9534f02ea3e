"""What rows were at past moments, from the lake: replayed by the functions that made them.

Values over windows depend on "now", so no table of changes could be joined exactly. Instead the
lake's interactions go once, in the order of the log, through the functions of the flow, and each
moment is answered when the first event that it must not see arrives. One pass, O(events + moments
log moments); in memory are the rows of the entities that are asked for and, where titles are, the
last events of every viewer (about 270 bytes each): a second delivery must not count for a title.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features import item_row, lake, user_row
from features.codec import WireError, decode_catalog_item
from features.compiled import Rows, compiled
from features.decode import decode_records
from features.events import DUPLICATE
from features.global_rates import DEFAULT_PRIORS
from features.id_map import ABSENT, IdMap
from features.item_row import apply as apply_item
from features.item_row import values as item_values
from features.store import ITEMS, USERS, Table
from features.titles import TitleFacts
from features.user_row import N_REMEMBERED
from features.user_row import apply as apply_user
from features.user_row import values as user_values

BY_TIME: Final = -2  # in `until_offset`: the moment is one of time, not of the log
NOTHING: Final = -1  # in `until_offset`: not one event of the viewer is in it
END: Final = np.iinfo(np.int64).max
INITIAL_VIEWERS: Final = 4_096

MOMENT: Final = np.dtype(
    [
        ("cut", "i8"),  # the last offset, or append time, that is included
        ("now_ms", "i8"),  # what windows and ages are counted to
        ("place", "i8"),  # of the answer
    ]
)
REMEMBERED: Final = np.dtype([("events", "u8", (N_REMEMBERED,)), ("next", "i8")])

Ids = NDArray[np.uint64]
Times = NDArray[np.int64]
Floats = NDArray[np.float32]
State = tuple[Rows, NDArray[np.bool_]]  # rows by slot, and whether they had an event
Batch = tuple[Times, Rows, Times]  # slots, events, times of the log
Queue = tuple[Rows, Times, Times]  # moments, and by slot the first that waits and the last's end
Answers = tuple[Floats, Rows]  # by place


@dataclass(frozen=True, slots=True)
class Moments:
    """What is asked for: rows of entities of one kind, as of moments. All arrays are `(n,)`.

    A moment includes what the log had received by `until_ms`, or, of a viewer, up to `until_offset`
    of the viewer's partition where that is not BY_TIME. Values are computed for `now_ms`.
    """

    ids: Ids
    now_ms: Times
    until_ms: Times
    until_offset: Times

    @classmethod
    def at(cls, ids: Ids, now_ms: Times) -> "Moments":
        """Moments by the wall clock: what the log had by then."""
        return cls(ids, now_ms, now_ms, np.full(len(ids), BY_TIME))


@dataclass(frozen=True, slots=True)
class Past:
    """The answers, in the order of the moments."""

    values: Floats  # (n, n_columns); NaN where the entity had no event yet
    rows: Rows  # (n,) if asked for, else (0,)


def past_of(
    folder: Path,
    users: Moments | None = None,
    items: Moments | None = None,
    *,
    with_rows: bool = False,
) -> tuple[Past | None, Past | None]:
    """Viewers' and titles' features at past moments, from a lake. Raises LakeError.

    Titles' genres and years are those that the lake's catalogue has last, as in a rebuild.
    """
    viewers = None if users is None else _Replay(USERS, users, with_rows=with_rows)
    titles = None if items is None else _Replay(ITEMS, items, with_rows=with_rows)
    deliveries = None if titles is None else Deliveries()
    for events, times in events_of(folder):
        if deliveries is not None:
            deliveries.flag(events)
        for replay, key in ((viewers, "user"), (titles, "item")):
            if replay is not None:
                replay.take(events, events[key], times)
    return tuple(None if r is None else r.finish() for r in (viewers, titles))  # type: ignore[return-value]


def events_of(folder: Path) -> Iterator[tuple[Rows, Times]]:
    """All events of a lake in batches, as the flow took them, with the times of the log.

    By append time, and within a partition by offset. Records that are no events, or lie in another
    partition than their user's, are left out, as in the flow.
    """
    n_partitions = lake.identity_of(folder).partitions[lake.INTERACTIONS]
    titles = titles_of(folder)
    streams = [_Stream(_events_of(folder, p, n_partitions, titles)) for p in range(n_partitions)]
    while left := [stream for stream in streams if len(stream.times)]:
        until = min(stream.times[-1] for stream in left)  # nothing earlier can follow
        taken = [stream.take(until) for stream in left]
        events = np.concatenate([events for events, _ in taken])
        times = np.concatenate([times for _, times in taken])
        order = np.argsort(times, kind="stable")
        yield events[order], times[order]


def titles_of(folder: Path) -> TitleFacts:
    """Genres and years by the lake's catalogue."""
    titles = TitleFacts()
    for partition in range(lake.identity_of(folder).partitions[lake.CATALOG]):
        for records in lake.read_records(folder, lake.CATALOG, partition):
            for value in (record.value() for record in records):
                try:
                    if value:
                        titles.put(decode_catalog_item(value))
                except WireError:  # the flow leaves it out, too
                    continue
    return titles


def _events_of(
    folder: Path, partition: int, n_partitions: int, titles: TitleFacts
) -> Iterator[tuple[Rows, Times]]:
    """Batches of a partition's events; their times never go back, whatever the broker's clock."""
    latest = 0
    for records in lake.read_records(folder, lake.INTERACTIONS, partition):
        events = decode_records(records).events
        events = events[events["key_hash"] % n_partitions == partition]
        if len(events):
            titles.enrich(events)
            times = np.maximum(np.maximum.accumulate(events["logged_at_ms"]), latest)
            latest = int(times[-1])
            yield events, times


class _Stream:
    """The events of one partition, a batch at a time; empty at its end."""

    def __init__(self, batches: Iterator[tuple[Rows, Times]]) -> None:
        self._batches = batches
        self._next()

    def _next(self) -> None:
        nothing: tuple[Rows, Times] = (np.empty(0), np.empty(0, np.int64))
        found = next(self._batches, nothing)
        self.events: Rows = found[0]
        self.times: Times = found[1]

    def take(self, until: int) -> tuple[Rows, Times]:
        """Takes the batch's events up to a time."""
        n = int(np.searchsorted(self.times, until, "right"))
        events, times = self.events[:n], self.times[:n]
        self.events, self.times = self.events[n:], self.times[n:]
        if not len(self.times):
            self._next()
        return events, times


class Deliveries:
    """The last events of every viewer: which event is a second delivery, as the viewer's row says.

    A row remembers its last N_REMEMBERED different events; so does this, without the rest of it.
    """

    def __init__(self) -> None:
        self._slots = IdMap(INITIAL_VIEWERS)
        self._remembered = np.zeros(INITIAL_VIEWERS, REMEMBERED)

    def flag(self, events: Rows) -> None:
        """Sets DUPLICATE on second deliveries. Events are taken once, in the log's order."""
        users = np.ascontiguousarray(events["user"])
        slots = self._slots.find(users)
        if len(new := np.unique(users[slots == ABSENT])):
            self._make_room(len(self._slots) + len(new))
            self._slots.insert(new, np.arange(len(self._slots), len(self._slots) + len(new)))
            slots = self._slots.find(users)
        _flag_second_deliveries(self._remembered, slots, events)

    def _make_room(self, n: int) -> None:
        if n <= self._slots.capacity:
            return
        ids = self._slots.ids()
        bigger = IdMap(2 * n)
        bigger.insert(ids, self._slots.find(ids))
        more = np.zeros(bigger.capacity - len(self._remembered), REMEMBERED)
        self._remembered = np.concatenate([self._remembered, more])
        self._slots = bigger


@compiled
def _flag_second_deliveries(remembered: Rows, slots: NDArray[np.int64], events: Rows) -> None:
    for i in range(len(events)):
        row, event = remembered[slots[i]], events[i]
        is_second = False
        for id_ in row["events"]:
            is_second = is_second or id_ == event["event"]
        if is_second:
            event["flags"] |= DUPLICATE
        else:
            row["events"][row["next"]] = event["event"]
            row["next"] = (row["next"] + 1) % N_REMEMBERED


class _Queue:
    """Moments by entity, each entity's in the order in which the log passes them."""

    def __init__(self, slots: Times, cuts: Times, now_ms: Times, places: Times, n: int) -> None:
        order = np.lexsort((cuts, slots))
        moments = np.empty(len(order), MOMENT)
        moments["cut"], moments["now_ms"] = cuts[order], now_ms[order]
        moments["place"] = places[order]
        bounds = np.searchsorted(slots[order], np.arange(n + 1))
        self.arrays: Queue = moments, bounds[:-1].copy(), bounds[1:].copy()


class _Replay:
    """Rows of the entities that are asked for, and the answers so far."""

    def __init__(self, table: Table, asked: Moments, *, with_rows: bool) -> None:
        self._ids, slots = np.unique(asked.ids, return_inverse=True)
        n = len(self._ids)
        self._rows = np.repeat(table.empty, n)
        self._rows["id"] = self._ids
        self._known = np.zeros(n, np.bool_)
        self._is_user = table is USERS
        n_columns = user_row.N_COLUMNS if self._is_user else item_row.N_COLUMNS
        self._values = np.full((len(slots), n_columns), np.nan, np.float32)
        self._kept = np.repeat(table.empty, len(slots) if with_rows else 0)
        by_time = asked.until_offset == BY_TIME
        self._by_time, self._by_offset = (
            _Queue(slots[of], cuts[of], asked.now_ms[of], np.flatnonzero(of), n)
            for of, cuts in ((by_time, asked.until_ms), (~by_time, asked.until_offset))
        )

    def take(self, events: Rows, ids: Ids, times: Times) -> None:
        """Takes a batch in; answers what may not see an event before it is applied."""
        if not len(self._ids):
            return
        slots = np.searchsorted(self._ids, ids)
        slots[slots == len(self._ids)] = 0
        mine = np.flatnonzero(self._ids[slots] == ids)
        batch = slots[mine], events[mine], times[mine]
        state, answers = (self._rows, self._known), (self._values, self._kept)
        if self._is_user:
            _replay_users(state, batch, self._by_time.arrays, self._by_offset.arrays, answers)
        else:
            _replay_items(state, batch, self._by_time.arrays, answers)

    def finish(self) -> Past:
        """Answers what is left: moments behind the end of the lake."""
        state, answers = (self._rows, self._known), (self._values, self._kept)
        if self._is_user:
            _finish_users(state, self._by_time.arrays, self._by_offset.arrays, answers)
        else:
            _finish_items(state, self._by_time.arrays, answers)
        return Past(self._values, self._kept)


@compiled
def _answer_user(state: State, slot: int, before: int, queue: Queue, answers: Answers) -> None:
    """Answers the moments of a viewer whose cut lies before a mark."""
    moments, heads, ends = queue
    while heads[slot] < ends[slot] and moments[heads[slot]]["cut"] < before:
        moment = moments[heads[slot]]
        place = moment["place"]
        if state[1][slot]:
            user_values(state[0][slot], moment["now_ms"], answers[0][place])
        if len(answers[1]) > 0:
            answers[1][place] = state[0][slot]
        heads[slot] += 1


@compiled
def _replay_users(
    state: State, batch: Batch, by_time: Queue, by_offset: Queue, answers: Answers
) -> None:
    slots, events, times = batch
    for i in range(len(events)):
        slot, event = slots[i], events[i]
        _answer_user(state, slot, times[i], by_time, answers)
        _answer_user(state, slot, event["offset"], by_offset, answers)
        apply_user(state[0][slot], event)
        state[1][slot] = True


@compiled
def _finish_users(state: State, by_time: Queue, by_offset: Queue, answers: Answers) -> None:
    for slot in range(len(state[0])):
        _answer_user(state, slot, END, by_time, answers)
        _answer_user(state, slot, END, by_offset, answers)


@compiled
def _answer_item(state: State, slot: int, before: int, queue: Queue, answers: Answers) -> None:
    """Answers the moments of a title whose cut lies before a mark."""
    moments, heads, ends = queue
    while heads[slot] < ends[slot] and moments[heads[slot]]["cut"] < before:
        moment = moments[heads[slot]]
        place = moment["place"]
        if state[1][slot]:
            item_values(state[0][slot], moment["now_ms"], DEFAULT_PRIORS, answers[0][place])
        if len(answers[1]) > 0:
            answers[1][place] = state[0][slot]
        heads[slot] += 1


@compiled
def _replay_items(state: State, batch: Batch, by_time: Queue, answers: Answers) -> None:
    """A title is fed from every partition, so its moments are times."""
    slots, events, times = batch
    for i in range(len(events)):
        _answer_item(state, slots[i], times[i], by_time, answers)
        apply_item(state[0][slots[i]], events[i])
        state[1][slots[i]] = True


@compiled
def _finish_items(state: State, by_time: Queue, answers: Answers) -> None:
    for slot in range(len(state[0])):
        _answer_item(state, slot, END, by_time, answers)
