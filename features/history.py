"""What rows were at past moments, from the lake: replayed by the functions that made them.

Values over windows depend on "now", so no table of changes could be joined exactly. Instead the
lake's interactions go once, in the order of the log, through the functions of the flow, and each
moment is answered when the first event that it must not see arrives. One pass, O(events + moments
log moments); in memory are the rows of the entities that are asked for and, where titles are, the
last events of every viewer (about 270 bytes each): a second delivery must not count for a title.

Rates of titles are smoothed by those of genres, which all events of all titles make: they are
counted along, and a moment has them as they were at that moment.

A viewer who was erased has no past: what the lake's ledger marks as erased, no row learns from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features import item_row, lake, user_row
from features.codec import WireError, decode_catalog_item, decode_erasure
from features.compiled import Rows, compiled
from features.decode import decode_records
from features.erasure import ErasureLedger
from features.events import DUPLICATE, ERASED, CatalogItem
from features.global_rates import N_RATES, rates
from features.global_rates import apply as count_rates
from features.id_map import ABSENT, IdMap
from features.ids import id_hashes
from features.item_row import MAX_PARTITIONS
from features.item_row import apply as apply_item
from features.item_row import values as item_values
from features.lake import LakeRecord
from features.store import GLOBALS, ITEMS, USERS
from features.titles import TitleFacts
from features.user_row import N_REMEMBERED
from features.user_row import apply as apply_user
from features.user_row import values as user_values
from features.vocabulary import N_GENRES, EventType

BY_TIME: Final = -2  # in `until_offset`: the moment is one of time, not of the log
NOTHING: Final = -1  # in `until_offset`: not one event of the viewer is in it
END: Final = np.iinfo(np.int64).max
INITIAL_VIEWERS: Final = 4_096

MOMENT: Final = np.dtype(
    [
        ("cut", "i8"),  # the last offset, or append time, that is included
        ("now_ms", "i8"),  # what windows and ages are counted to
        ("place", "i8"),  # of the answer
        ("slot", "i8"),  # of the row
    ]
)
REMEMBERED: Final = np.dtype([("events", "u8", (N_REMEMBERED,)), ("next", "i8")])

Ids = NDArray[np.uint64]
Times = NDArray[np.int64]
Floats = NDArray[np.float32]
State = tuple[Rows, NDArray[np.bool_]]  # rows by slot, and whether they had an event
Batch = tuple[Times, Rows, Times]  # slots, events, times of the log
Queue = tuple[Rows, Times, Times]  # moments, and by slot the first that waits and the last's end
TitleQueue = tuple[Rows, Times]  # moments by time, and `(1,)` the first that waits
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
    viewers = None if users is None else _ViewerReplay(users, with_rows=with_rows)
    titles = None if items is None else _TitleReplay(items, with_rows=with_rows)
    for events, times in events_of(folder):
        if titles is not None:
            titles.take(events, times)
        if viewers is not None:
            viewers.take(events, times)
    return (
        None if viewers is None else viewers.finish(),
        None if titles is None else titles.finish(),
    )


def events_of(folder: Path) -> Iterator[tuple[Rows, Times]]:
    """All events of a lake in batches, as the flow took them, with the times of the log.

    By append time, and within a partition by offset. Records that are no events, or lie in another
    partition than their user's, are left out, as in the flow. Those from before the erasure of
    their viewer are flagged ERASED.
    """
    n_partitions = lake.identity_of(folder).partitions[lake.INTERACTIONS]
    titles, ledger = titles_of(folder), ledger_of(folder)
    streams = [
        _Stream(_events_of(folder, p, n_partitions, titles, ledger)) for p in range(n_partitions)
    ]
    while left := [stream for stream in streams if len(stream.times)]:
        until = min(stream.times[-1] for stream in left)  # nothing earlier can follow
        taken = [stream.take(until) for stream in left]
        events = np.concatenate([events for events, _ in taken])
        times = np.concatenate([times for _, times in taken])
        order = np.argsort(times, kind="stable")
        yield events[order], times[order]


def titles_of(folder: Path) -> TitleFacts:
    """What the lake's catalogue says of titles."""
    titles = TitleFacts()
    for _, item in _catalogue_of(folder):
        if item is not None:
            titles.put(item)
    return titles


def title_ids_of(folder: Path) -> Ids:
    """`(n_titles,)` ids of the titles that the lake's catalogue has, without those removed."""
    there: dict[str, bool] = {}
    for item_id, item in _catalogue_of(folder):
        there[item_id] = item is not None and not item.removed
    return id_hashes(item_id for item_id, is_there in there.items() if is_there)


def _catalogue_of(folder: Path) -> Iterator[tuple[str, CatalogItem | None]]:
    """Titles by id, in the order of the catalogue; None where one is taken out."""
    for record in _records_of(folder, lake.CATALOG):
        value = record.value()
        if not value:
            yield (record.key() or b"").decode(errors="replace"), None
            continue
        try:
            item = decode_catalog_item(value)
        except WireError:  # the flow leaves it out, too
            continue
        yield item.item_id, item


def ledger_of(folder: Path) -> ErasureLedger:
    """Which viewers were erased, and where, by the lake's copy of the ledger."""
    ledger = ErasureLedger()
    for record in _records_of(folder, lake.ERASURES):
        key, value = record.key(), record.value()
        try:
            if key and value:
                ledger.put(decode_erasure(key, value))
        except WireError:  # the flow leaves it out, too
            continue
    return ledger


def _records_of(folder: Path, table: str) -> Iterator[LakeRecord]:
    """All records of a table; none where the lake was written before there was such a table."""
    for partition in range(lake.identity_of(folder).partitions.get(table, 0)):
        for records in lake.read_records(folder, table, partition):
            yield from records


def _events_of(
    folder: Path, partition: int, n_partitions: int, titles: TitleFacts, ledger: ErasureLedger
) -> Iterator[tuple[Rows, Times]]:
    """Batches of a partition's events; their times never go back, whatever the broker's clock."""
    latest = 0
    for records in lake.read_records(folder, lake.INTERACTIONS, partition):
        events = decode_records(records).events
        events = events[events["key_hash"] % n_partitions == partition]
        if len(events):
            ledger.flag(events)
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

    A row remembers its last N_REMEMBERED different events, and none from before its erasure; so
    does this, without the rest of it.
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
        if event["type"] == EventType.ERASE:
            row["events"][:] = 0
            row["next"] = 0
            continue
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


class _ViewerReplay:
    """Rows of the viewers that are asked for, and the answers so far."""

    def __init__(self, asked: Moments, *, with_rows: bool) -> None:
        self._ids, slots = np.unique(asked.ids, return_inverse=True)
        n = len(self._ids)
        rows = np.repeat(USERS.empty, n)
        rows["id"] = self._ids
        self._state: State = rows, np.zeros(n, np.bool_)
        self._answers: Answers = (
            np.full((len(slots), user_row.N_COLUMNS), np.nan, np.float32),
            np.repeat(USERS.empty, len(slots) if with_rows else 0),
        )
        by_time = asked.until_offset == BY_TIME
        self._by_time, self._by_offset = (
            _Queue(slots[of], cuts[of], asked.now_ms[of], np.flatnonzero(of), n)
            for of, cuts in ((by_time, asked.until_ms), (~by_time, asked.until_offset))
        )

    def take(self, events: Rows, times: Times) -> None:
        """Takes a batch in; answers what may not see an event before it is applied."""
        slots = slots_in(self._ids, events["user"])
        mine = np.flatnonzero(slots != ABSENT)
        batch = slots[mine], events[mine], times[mine]
        queues = self._by_time.arrays, self._by_offset.arrays
        _replay_users(self._state, batch, *queues, self._answers)

    def finish(self) -> Past:
        """Answers what is left: moments behind the end of the lake."""
        queues = self._by_time.arrays, self._by_offset.arrays
        _finish_users(self._state, *queues, self._answers)
        return Past(*self._answers)


class _TitleReplay:
    """Rows of the titles that are asked for, the rates of genres, and the answers so far.

    Titles are fed from every partition, so their moments are times. These come in one queue, since
    the rates at a moment are made by events of any title.
    """

    def __init__(self, asked: Moments, *, with_rows: bool) -> None:
        self._ids, slots = np.unique(asked.ids, return_inverse=True)
        rows = np.repeat(ITEMS.empty, len(self._ids))
        rows["id"] = self._ids
        self._state: State = rows, np.zeros(len(rows), np.bool_)
        self._globals = np.repeat(GLOBALS.empty, MAX_PARTITIONS)  # by partition
        self._answers: Answers = (
            np.full((len(slots), item_row.N_COLUMNS), np.nan, np.float32),
            np.repeat(ITEMS.empty, len(slots) if with_rows else 0),
        )
        order = np.argsort(asked.until_ms, kind="stable")
        moments = np.empty(len(order), MOMENT)
        moments["cut"], moments["now_ms"] = asked.until_ms[order], asked.now_ms[order]
        moments["place"], moments["slot"] = order, slots[order]
        self._queue: TitleQueue = moments, np.zeros(1, np.int64)
        self._deliveries = Deliveries()

    def take(self, events: Rows, times: Times) -> None:
        """Takes a batch in; answers what may not see an event before it is applied."""
        self._deliveries.flag(events)
        batch = slots_in(self._ids, events["item"]), events, times
        _replay_items(self._state, self._globals, batch, self._queue, self._answers)

    def finish(self) -> Past:
        """Answers what is left: moments behind the end of the lake."""
        _answer_items(self._state, self._globals, END, self._queue, self._answers)
        return Past(*self._answers)


def slots_in(known: Ids, ids: Ids) -> Times:
    """`(n,) int64`: where ids stand among sorted ones, ABSENT where they do not.

    >>> slots_in(np.array([3, 7], np.uint64), np.array([7, 8, 3], np.uint64)).tolist()
    [1, -1, 0]
    """
    if not len(known):
        return np.full(len(ids), ABSENT, np.int64)
    slots = np.minimum(np.searchsorted(known, ids), len(known) - 1)
    return np.where(known[slots] == ids, slots, ABSENT)


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
    """Of a viewer's events before the erasure nothing is known: not even that there were any."""
    slots, events, times = batch
    for i in range(len(events)):
        slot, event = slots[i], events[i]
        _answer_user(state, slot, times[i], by_time, answers)
        _answer_user(state, slot, event["offset"], by_offset, answers)
        apply_user(state[0][slot], event)
        if not event["flags"] & ERASED:
            state[1][slot] = True


@compiled
def _finish_users(state: State, by_time: Queue, by_offset: Queue, answers: Answers) -> None:
    for slot in range(len(state[0])):
        _answer_user(state, slot, END, by_time, answers)
        _answer_user(state, slot, END, by_offset, answers)


@compiled
def _answer_items(
    state: State, globals_: Rows, before: int, queue: TitleQueue, answers: Answers
) -> None:
    """Answers the moments whose cut lies before a mark, all by the rates of now."""
    moments, head = queue
    if head[0] == len(moments) or moments[head[0]]["cut"] >= before:
        return
    priors = np.empty((N_GENRES + 1, N_RATES), np.float32)
    rates(globals_, priors)
    while head[0] < len(moments) and moments[head[0]]["cut"] < before:
        moment = moments[head[0]]
        slot, place = moment["slot"], moment["place"]
        if state[1][slot]:
            item_values(state[0][slot], moment["now_ms"], priors, answers[0][place])
        if len(answers[1]) > 0:
            answers[1][place] = state[0][slot]
        head[0] += 1


@compiled
def _replay_items(
    state: State, globals_: Rows, batch: Batch, queue: TitleQueue, answers: Answers
) -> None:
    slots, events, times = batch
    for i in range(len(events)):
        event = events[i]
        _answer_items(state, globals_, times[i], queue, answers)
        if event["type"] == EventType.ERASE:
            continue
        if not event["flags"] & DUPLICATE:
            count_rates(globals_[event["partition"]], event, 0)
        if slots[i] != ABSENT:
            apply_item(state[0][slots[i]], event)
            state[1][slots[i]] = True
