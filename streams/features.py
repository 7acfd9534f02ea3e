"""Interactions -> user rows and item rows.

    records -> events | misrouted | bad
    events -> user shard -> user rows, rows of partitions, events that count for titles
           -> item shard -> item rows, item updates

A batch is what arrived while the last one was being written; there is no timer on the way. A shard
owns the users of its partitions, or a share of the titles. All other rows (titles, co-visitation,
segments, global rates) are written before those of users: whatever a user's row includes is in the
others too, so after a crash the positions alone tell what is still to be done. With several workers
`streams/write_order.py` sees to that.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any, TypeGuard

import bytewax.operators as op
import numpy as np
from bytewax.dataflow import Dataflow, Stream
from bytewax.operators import BranchOut, StatefulBatchLogic
from numpy.typing import NDArray

from features import item_row, user_row
from features.clock import Clock, StreamClock
from features.compiled import Rows
from features.decode import decode_records
from features.erasure import ErasureLedger, erasures_in
from features.events import CLAMPED, kind_of
from features.global_rates import DEFAULT_PRIORS
from features.item_updates import MAX_ITEMS, ItemUpdate, encode_update
from features.log import LogConfig
from features.records import joined, taken
from features.row_cache import RowCache
from features.store import ITEMS, USERS, Table
from features.titles import TitleFacts
from features.vocabulary import EventType
from streams import metrics
from streams.dead_letters import dead_letter
from streams.erasures import ledger_record
from streams.failures import reported
from streams.hot_keys import RecentKeys
from streams.kafka import CallSink, KafkaSink, KafkaSource, OutRecord, Records
from streams.partition_tables import PartitionTables
from streams.progress import Ends, Progress
from streams.sharding import shard_keys
from streams.tellings import tell_bad, tell_flagged
from streams.tracing import FlowTraces
from streams.write_order import (
    Answer,
    AnsweringShard,
    AskingShard,
    Held,
    ReleasedRows,
    StoreFirst,
    Tickets,
)

TABLE_NAMES = {"c": "covisitation", "s": "segment", "g": "global"}  # as metrics call them
SWEEP_EVERY = timedelta(seconds=1)
SWEEPS_PER_ROUND = 60  # every title's columns are looked at once a minute
LATE_MS = 300_000  # as long as the shortest window
TELL_EVERY = timedelta(milliseconds=100)  # servers hear of a title at once, then this often

Shard = str
Keyed = tuple[Shard, Any]


@dataclass(frozen=True, slots=True)
class Topics:
    """Names of the topics that the flow reads and writes."""

    interactions: str
    item_updates: str
    dead_letters: str
    erasures: str = ""  # the ledger; empty: erasures that it lacks are not written to it


@dataclass(frozen=True, slots=True)
class RowWrites:
    """Rows to be stored, as they were at the end of a batch."""

    table: Table
    rows: Rows
    logged_at_ms: int  # of the newest event in them
    ends: Ends = field(default_factory=dict)  # what lies before these offsets is in rows then


Change = RowWrites | ItemUpdate


@dataclass(slots=True)
class FlowParts:
    """What the flow is given: how to reach the log, where rows live, what titles are."""

    log: LogConfig
    topics: Topics
    group: str
    n_partitions: int
    titles: TitleFacts
    clock: Clock
    user_rows: Callable[[], RowCache]
    item_rows: Callable[[], RowCache]
    partition_rows: Callable[[Table], RowCache]  # of co-visitation, segments, global rates
    write_rows: Callable[[list[RowWrites]], None]
    settle: Callable[[], None]  # returns when every row written can be read
    n_workers: int = 1  # processes of the flow, one worker in each
    worker: int = 0  # the one of this process
    stop: Event = field(default_factory=Event)
    refresh_titles: Callable[[], None] = lambda: None
    priors: Callable[[], NDArray[np.float32]] = lambda: DEFAULT_PRIORS  # rates of genres, of now
    at_end: list[Callable[[], None]] = field(default_factory=list)  # once every worker has ended
    progress: Progress = field(default_factory=Progress)
    is_watched: bool = False  # whether lag is measured, by a thread
    traces: FlowTraces | None = None  # of sampled events; None: nobody asks
    keys: tuple[str, ...] = field(init=False)  # of the shards, by worker
    tickets: Tickets = field(default_factory=Tickets, init=False)

    def __post_init__(self) -> None:
        self.keys = shard_keys(self.n_workers)

    def settle_at_end(self) -> None:
        """Settles when the flow was told to end; after a failure nothing is waited for."""
        if self.stop.is_set():
            self.settle()

    ledger: ErasureLedger = field(default_factory=ErasureLedger)

    def store(self, batches: list[RowWrites]) -> None:
        """Writes rows, the last of their batches; the work on these is over."""
        metrics.BATCH_SECONDS.observe(self.progress.take_work_s())
        self.write_rows(batches)


def build_flow(parts: FlowParts) -> Dataflow:
    """The dataflow, ready to run on `parts.n_workers` workers."""
    flow = Dataflow("features")
    source = KafkaSource(
        parts.log,
        parts.topics.interactions,
        parts.group,
        n_readers=parts.n_workers,
        reader=parts.worker,
        stop=parts.stop,
        settle=parts.settle,
        may_read=parts.tickets.have_room,
        at_end=parts.at_end,
        progress=parts.progress,
        is_watched=parts.is_watched,
    )
    records = op.input("read_interactions", flow, source)
    decoded = op.flat_map("decode_records", records, Decoder(parts))

    split: BranchOut[OutRecord, Any] = op.branch("split_records_from_events", decoded, is_record)
    op.output("write_records", split.trues, KafkaSink(parts.log, durable=True))

    changes = (_one_worker if parts.n_workers == 1 else _several_workers)(parts, split.falses)
    kinds: BranchOut[ItemUpdate, Any] = op.branch("split_updates_from_rows", changes, is_update)
    op.output("write_rows", kinds.falses, CallSink(lambda: parts.store, parts.settle_at_end))
    updates = op.map("encode_update", kinds.trues, UpdateEncoder(parts.topics.item_updates))
    op.output("write_item_updates", updates, KafkaSink(parts.log, durable=False))
    return flow


def _one_worker(parts: FlowParts, events: Stream[Any]) -> Stream[Any]:
    """Rows of viewers follow the events through the title shard: one connection, in order."""
    users = op.stateful_batch("update_user_rows", events, lambda _: UserShard(parts))
    routed = op.map("route_to_item_shards", users, drop_shard)
    titles = op.stateful_batch("update_item_rows", routed, lambda _: ItemShard(parts))
    return op.map("gather_item_shards", titles, drop_shard)


def _several_workers(parts: FlowParts, events: Stream[Any]) -> Stream[Any]:
    """Rows of viewers are held until each title shard has stored its own; see write_order."""
    own_key = parts.keys[parts.worker]
    users = op.stateful_batch(
        "update_user_rows",
        events,
        lambda _: AskingShard(UserShard(parts), parts.worker, own_key, parts.tickets, is_rows),
    )
    routed = op.map("route_to_item_shards", users, drop_shard)
    asked: BranchOut[Any, Any] = op.branch("split_rows_from_work", routed, is_held)
    titles = op.stateful_batch(
        "update_item_rows", asked.falses, lambda _: AnsweringShard(ItemShard(parts))
    )
    changes = op.map("gather_item_shards", titles, drop_shard)
    store = StoreFirst(is_rows, parts.write_rows, parts.settle)
    stored = op.flat_map_batch("write_item_rows", changes, store)
    answered: BranchOut[Any, Any] = op.branch("split_answers_from_updates", stored, is_answer)
    answers = op.map("route_answers", answered.trues, lambda it: (parts.keys[it.sender], it))
    waiting = op.merge("gather_rows_and_answers", asked.trues, answers)
    released = op.stateful_batch(
        "release_user_rows", waiting, lambda _: ReleasedRows(parts.tickets)
    )
    rows = op.map("gather_user_rows", released, drop_shard)
    return op.merge("gather_changes", rows, answered.falses)


def drop_shard(keyed: Keyed) -> Any:
    """What a shard put out, without the shard."""
    return keyed[1]


def is_record(item: Keyed | OutRecord) -> TypeGuard[OutRecord]:
    """Whether this goes back to the log as it is: a dead letter, or a record to be moved."""
    return isinstance(item, OutRecord)


def is_rows(change: Any) -> TypeGuard[RowWrites]:
    """Whether these are rows for the store."""
    return isinstance(change, RowWrites)


def is_held(keyed: Keyed) -> bool:
    """Whether these are rows of viewers that wait for those of titles."""
    return isinstance(keyed[1], Held)


def is_answer(change: Any) -> TypeGuard[Answer]:
    """Whether this tells that titles' rows are stored."""
    return isinstance(change, Answer)


def is_update(change: ItemUpdate | RowWrites) -> TypeGuard[ItemUpdate]:
    """Whether this is news for the servers rather than rows for the store."""
    return isinstance(change, ItemUpdate)


class Decoder:
    """Records to events of each user shard, dead letters, and records to be moved."""

    def __init__(self, parts: FlowParts) -> None:
        self._parts = parts
        self._users, self._items = RecentKeys(), RecentKeys()
        metrics.HOT_KEY_SHARE.labels("user").set_function(self._users.hottest_share)
        metrics.HOT_KEY_SHARE.labels("item").set_function(self._items.hottest_share)

    @reported
    def __call__(self, records: Records) -> list[Keyed | OutRecord]:
        """Everything that a batch of records becomes."""
        begun_s = time.perf_counter()
        out = list(self._decoded(records))
        self._parts.progress.work_since(begun_s)
        return out

    def _decoded(self, records: Records) -> Iterator[Keyed | OutRecord]:
        parts = self._parts
        parts.refresh_titles()
        start_ns = 0 if parts.traces is None else time.time_ns()
        decoded = decode_records(records)
        if parts.traces is not None:
            parts.traces.read(records, decoded, start_ns)
        for bad in decoded.bad:
            metrics.BAD_RECORDS.labels(kind_of(bad.reason)).inc()
            yield dead_letter(bad, parts.topics.dead_letters)
        tell_bad(decoded.bad)
        events = decoded.events
        tell_flagged(records, events, "event_clamped", (events["flags"] & CLAMPED) != 0)
        misrouted = events["key_hash"] % parts.n_partitions != events["partition"]
        if misrouted.any():
            tell_flagged(records, events, "record_misrouted", misrouted)
            yield from self._move(records, events[misrouted])
            events = taken(events, ~misrouted)
        yield from self._erasures(events)
        parts.ledger.flag(events)
        parts.titles.enrich(events)
        self._observe(events)
        metrics.BATCH.observe(len(records))
        parts.progress.decoded(has_events=parts.n_workers == 1 or len(events) > 0)
        if parts.n_workers == 1:
            yield parts.keys[0], events
            return
        shards = events["partition"] % parts.n_workers
        for shard in np.unique(shards):
            yield parts.keys[shard], taken(events, shards == shard)

    def _observe(self, events: Rows) -> None:
        metrics.CLAMPED.inc(int(np.count_nonzero(events["flags"] & CLAMPED)))
        clock = self._parts.clock
        now_ms = clock.now_ms() if isinstance(clock, StreamClock) else events["logged_at_ms"]
        metrics.LATE.inc(int(np.count_nonzero(now_ms - events["at_ms"] > LATE_MS)))
        self._users.add(events["user"])
        self._items.add(events["item"])

    def _erasures(self, events: Rows) -> Iterator[OutRecord]:
        """Entries for erasures that the ledger lacks: whoever asked for one may have died since."""
        topic = self._parts.topics.erasures
        for erasure in erasures_in(events):
            metrics.ERASURES.inc()
            if topic and not self._parts.ledger.knows(erasure):
                self._parts.ledger.put(erasure)
                yield ledger_record(erasure, topic)

    def _move(self, records: Records, events: Rows) -> Iterator[OutRecord]:
        """Writes records again where their user's partition is: order is kept within it alone."""
        by_place = {(record.partition(), record.offset()): record for record in records}
        metrics.MISROUTED.inc(len(events))
        for event in events:
            record = by_place[int(event["partition"]), int(event["offset"])]
            yield OutRecord(
                self._parts.topics.interactions,
                record.key(),
                record.value(),
                record.headers() or (),
                int(event["key_hash"] % self._parts.n_partitions),
            )


class UserShard(StatefulBatchLogic[Rows, Keyed, None]):
    """Owns the rows of the users of some partitions, and those that the partitions feed."""

    def __init__(self, parts: FlowParts) -> None:
        self._progress = parts.progress
        self._cache = parts.user_rows()
        self._tables = PartitionTables(parts.partition_rows)
        self._watches = [
            CacheWatch("user", self._cache),
            *(CacheWatch(TABLE_NAMES[c.store.table.letter], c) for c in self._tables.caches()),
        ]
        self._keys = parts.keys
        self._own_key = parts.keys[parts.worker]

    @reported
    def on_batch(self, values: list[Rows]) -> tuple[Iterable[Keyed], bool]:
        """Takes events in; first come the events for titles, then the changed rows."""
        begun_s = time.perf_counter()
        events = joined(values)
        slots = self._cache.slots_of(np.ascontiguousarray(events["user"]))
        effects = np.empty(len(events), np.uint8)
        changes = self._tables.apply(self._cache.rows, slots, events, effects)
        _count_effects(effects)
        changed = self._cache.distinct(slots, effects != user_row.REPLAYED)
        if len(changed):
            changes.append((USERS, taken(self._cache.rows, changed)))
        out: list[Keyed] = list(self._by_item_shard(events))
        ends = self._progress.worked_off(len(values))
        if changes:  # there may be no event at all, where all were moved
            logged_at_ms = int(events["logged_at_ms"].max())
            key = self._own_key
            *others, last = [RowWrites(table, rows, logged_at_ms) for table, rows in changes]
            out.extend((key, writes) for writes in (*others, replace(last, ends=ends)))
            age_ms = time.time_ns() // 1_000_000 - logged_at_ms
            metrics.FRESHNESS_BY_STAGE.labels("applied").observe(max(age_ms, 0) / 1e3)
        else:
            self._progress.stored(ends)
        self._progress.work_since(begun_s)
        return out, StatefulBatchLogic.RETAIN

    def _by_item_shard(self, events: Rows) -> Iterator[Keyed]:
        is_of_no_title = events["type"] == EventType.ERASE
        if is_of_no_title.any():
            events = taken(events, ~is_of_no_title)
            if not len(events):
                return
        if len(self._keys) == 1:
            yield self._own_key, events
            return
        shards = owners(events["item"], len(self._keys))
        for shard in np.unique(shards):
            yield self._keys[shard], taken(events, shards == shard)

    def snapshot(self) -> None:
        """Nothing to remember: rows are in the store. Tells the cache that an epoch has ended."""
        self._cache.next_epoch()
        self._tables.next_epoch()
        for watch in self._watches:
            watch.observe()


class ItemShard(StatefulBatchLogic[Any, Change, None]):
    """Owns the rows of a share of the titles, and tells the servers what changed."""

    def __init__(self, parts: FlowParts) -> None:
        self._cache = parts.item_rows()
        self._watch = CacheWatch("item", self._cache)
        self._progress = parts.progress
        self._clock = parts.clock
        self._read_priors = parts.priors
        self._priors = parts.priors()
        self._sent = np.full((len(self._cache.rows), item_row.N_COLUMNS), np.nan, np.float32)
        self._sweep_at = 0
        self._next_sweep = datetime.now(UTC) + SWEEP_EVERY
        self._untold = np.zeros(len(self._cache.rows), np.bool_)  # changed since servers were told
        self._has_untold = False
        self._tell_from = datetime.now(UTC)
        ids = parts.titles.ids()
        ids = ids[owners(ids, parts.n_workers) == parts.worker]
        self._cache.slots_of(ids[: len(self._cache.rows) // 2])  # for the sweep

    @reported
    def on_batch(self, values: list[Any]) -> tuple[Iterable[Change], bool]:
        """Takes events in; passes other rows on behind those of the titles they touched."""
        begun_s = time.perf_counter()
        out: list[Change] = []
        events = [value for value in values if not isinstance(value, RowWrites)]
        if events:
            out.extend(self._apply(joined(events)))
        out.extend(value for value in values if isinstance(value, RowWrites))
        self._progress.work_since(begun_s)
        return out, StatefulBatchLogic.RETAIN

    def _apply(self, events: Rows) -> Iterator[Change]:
        if isinstance(self._clock, StreamClock):
            self._clock.advance(int(np.median(events["at_ms"])))
        slots = self._cache.slots_of(np.ascontiguousarray(events["item"]))
        effects = np.empty(len(events), np.uint8)
        item_row.apply_all(self._cache.rows, slots, events, effects)
        changed = self._cache.distinct(slots, effects != 0)
        if len(changed):
            logged_at_ms = int(events["logged_at_ms"].max())
            yield RowWrites(ITEMS, taken(self._cache.rows, changed), logged_at_ms)
            self._untold[changed] = self._has_untold = True
            yield from self._tell()

    def _tell(self) -> Iterator[Change]:
        """News of all changed titles, unless servers have been told just now."""
        now = datetime.now(UTC)
        if self._has_untold and now >= self._tell_from:
            self._tell_from = now + TELL_EVERY
            slots = np.flatnonzero(self._untold)
            self._untold[slots] = self._has_untold = False
            yield from self._updates(slots)

    def _updates(self, slots: NDArray[np.int64]) -> Iterator[Change]:
        """Messages with the columns of titles whose columns moved since they were last sent."""
        now_ms = self._clock.now_ms()
        self._sent[self._cache.take_loaded()] = np.nan
        values = np.empty((len(slots), item_row.N_COLUMNS), np.float32)
        item_row.values_of(self._cache.rows, slots, now_ms, self._priors, values)
        moved = (values != self._sent[slots]).any(axis=1)
        self._sent[slots] = values
        ids, values = self._cache.rows["id"][slots][moved], values[moved]
        for start in range(0, len(ids), MAX_ITEMS):
            stop = start + MAX_ITEMS
            yield ItemUpdate(ids[start:stop], values[start:stop], now_ms)

    def on_notify(self) -> tuple[Iterable[Change], bool]:
        """Tells what is left to tell, and looks at some titles when it is time to."""
        return [*self._tell(), *self._sweep()], StatefulBatchLogic.RETAIN

    def _sweep(self) -> Iterator[Change]:
        """Looks at a sixtieth of the titles: windows and rates of genres move on without events."""
        now = datetime.now(UTC)
        if now < self._next_sweep:
            return
        self._priors = self._read_priors()
        self._next_sweep = now + SWEEP_EVERY
        resident = len(self._cache)
        step = -(-resident // SWEEPS_PER_ROUND)
        slots = np.arange(self._sweep_at, min(self._sweep_at + step, resident))
        self._sweep_at = 0 if self._sweep_at + step >= resident else self._sweep_at + step
        yield from self._updates(slots)

    def notify_at(self) -> datetime:
        """When to tell of titles, or to look at the next ones."""
        return min(self._next_sweep, self._tell_from) if self._has_untold else self._next_sweep

    def snapshot(self) -> None:
        """Nothing to remember: rows are in the store. Tells the cache that an epoch has ended."""
        self._cache.next_epoch()
        self._watch.observe()


class UpdateEncoder:
    """Item updates as records of their topic."""

    def __init__(self, topic: str) -> None:
        self._topic = topic

    def __call__(self, update: ItemUpdate) -> OutRecord:
        """One record."""
        return OutRecord(self._topic, None, encode_update(update))


def owners(ids: NDArray[np.uint64], n_workers: int) -> NDArray[np.int64]:
    """`(n,) int64`: the worker that owns the row of each title."""
    return (ids % np.uint64(n_workers)).astype(np.int64)


def _count_effects(effects: NDArray[np.uint8]) -> None:
    counts = np.bincount(effects, minlength=4)
    for effect, name in enumerate(("replayed", "duplicate", "applied", "applied")):
        if counts[effect]:
            metrics.EVENTS.labels(name).inc(int(counts[effect]))


class CacheWatch:
    """Tells how a row cache does."""

    def __init__(self, table: str, cache: RowCache) -> None:
        self._table = table
        self._cache = cache
        self._lookups = self._loads = 0  # as last told

    def observe(self) -> None:
        """Tells it as of now."""
        cache, table = self._cache, self._table
        loads = cache.loads - self._loads
        hits = cache.lookups - self._lookups - loads
        self._lookups, self._loads = cache.lookups, cache.loads
        metrics.ROW_CACHE.labels(table, "hit").inc(hits)
        metrics.ROW_CACHE.labels(table, "load").inc(loads)
        metrics.ROWS_RESIDENT.labels(table).set(len(cache))
        metrics.ROW_LOADS.labels(table).set(cache.loads)
        metrics.ROW_EVICTIONS.labels(table).set(cache.evictions)
