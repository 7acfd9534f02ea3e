"""Every title's features in memory, as the last word of the features flow has them.

A request scores about a thousand titles; asking a store for each would cost more than the rest of
the answer. So the columns of all titles stand in one matrix, loaded from the store at the start and
kept current from the topic `item-updates`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from numpy.typing import NDArray

from features import item_row
from features.clock import Clock
from features.global_rates import DEFAULT_PRIORS
from features.id_map import ABSENT, IdMap
from features.item_updates import ItemUpdate, UpdateError, decode_update
from features.log import LogConfig, LogError, end_offsets, partitions_of
from features.store import RowStore
from serving import metrics

LOAD_BATCH = 4_096
CONSUME_BATCH = 100
CONSUME_S = 0.1
FETCH_WAIT_MS = 25  # of a broker that has nothing new: it need not be asked all the time
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 2.0
METADATA_TIMEOUT_S = 2.0
NEVER = -1

log = structlog.get_logger(__name__)


class ItemMirror:
    """`values`, `(n_items, item_row.N_COLUMNS) float32`, in the order of `ids`, `(n_items,)`.

    One thread writes, any number read, nobody locks. A reader that copies a row while it is being
    overwritten may get some columns from before and some from after. That is accepted: all values
    are absolute, a float32 is written whole, so each number is a true one, at most one update old;
    it can happen to a row for the microseconds of its copy, and the next read is right.
    """

    def __init__(self, ids: NDArray[np.uint64]) -> None:
        if len(np.unique(ids)) != len(ids) or (ids == 0).any():
            raise ValueError("ids of a mirror must be distinct and not zero")
        self.ids = ids
        self.values: NDArray[np.float32] = np.tile(item_row.DEFAULTS, (len(ids), 1))
        self._slots = IdMap(len(ids))
        self._slots.insert(ids, np.arange(len(ids)))
        self._moved_s: float | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def slots_of(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """`(n,) int64` rows of ids in `values`, -1 where an id is not known here."""
        return self._slots.find(ids)

    def load(
        self, store: RowStore, now_ms: int, priors: NDArray[np.float32] = DEFAULT_PRIORS
    ) -> int:
        """Reads the rows of all titles, as of `now_ms`; how many have one. O(n_items).

        `priors` are the rates of genres, `partition_reads.read_priors`. Raises what the store
        raises; titles read before that have their values.
        """
        return sum(
            self._load_part(store, start, now_ms, priors)
            for start in range(0, len(self.ids), LOAD_BATCH)
        )

    def _load_part(
        self, store: RowStore, start: int, now_ms: int, priors: NDArray[np.float32]
    ) -> int:
        rows, found = store.read(self.ids[start : start + LOAD_BATCH])
        slots = np.flatnonzero(found)
        values = np.empty((len(slots), item_row.N_COLUMNS), np.float32)
        item_row.values_of(rows, slots, now_ms, priors, values)
        self.values[start + slots] = values
        return len(slots)

    def apply(self, update: ItemUpdate) -> int:
        """Takes an update over; how many of its items are not known here. O(items in it)."""
        slots = self._slots.find(update.ids)
        known = slots != ABSENT
        if known.all():
            self.values[slots] = update.values
        else:
            self.values[slots[known]] = update.values[known]
        self._moved_s = time.monotonic()
        return len(slots) - int(np.count_nonzero(known))

    def age_ms(self) -> int:
        """Milliseconds since the last update, by a clock that nobody sets; -1: there was none."""
        if self._moved_s is None:
            return NEVER
        return int(1_000 * (time.monotonic() - self._moved_s))


@dataclass(slots=True)
class FollowerCounts:
    """What a follower has met since it was made."""

    messages: int = 0
    items: int = 0
    unknown: int = 0  # items of updates that are not in the mirror
    broken: int = 0  # messages that are no item update of these columns
    reloads: int = 0  # times it began again, because it could not know what it had missed


@dataclass(frozen=True, slots=True)
class _Start:
    """From where to follow: the log it was, and the end of each partition."""

    cluster_id: str | None
    offsets: dict[int, int]


class MirrorFollower:
    """Keeps a mirror current, on a thread of its own, for as long as the server runs.

    The ends of the partitions are noted before the store is read, so that an update which falls
    between the two is taken over afterwards. While the broker is away the mirror stays as it is and
    its age grows. Where what was missed cannot be known (the log has forgotten this place, or
    another log answers at its address) ends are noted and the store is read anew.

    `now_at` is told the flow's clock of each update: a stream clock follows it. `priors` tells the
    rates of genres when the store is read.
    """

    def __init__(
        self,
        mirror: ItemMirror,
        store: RowStore,
        config: LogConfig,
        topic: str,
        clock: Clock,
        now_at: Callable[[int], None] | None = None,
        priors: Callable[[], NDArray[np.float32]] = lambda: DEFAULT_PRIORS,
    ) -> None:
        self.mirror = mirror
        self._priors = priors
        self.counts = FollowerCounts()
        self._store = store
        self._config = config
        self._topic = topic
        self._clock = clock
        self._now_at = now_at
        self._stopping = threading.Event()
        self._connection_lost = threading.Event()
        self._start: _Start | None = None
        self._thread = threading.Thread(target=self._run, name="mirror", daemon=True)

    def start(self) -> None:
        """Loads the mirror in this thread, then follows in another.

        Raises LogError or KafkaException where the topic cannot be read, and what the store raises.
        """
        self._start = self._begin()
        metrics.MIRROR_AGE.set_function(self._age_s)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; it takes as long as one look at the log."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def is_alive(self) -> bool:
        """Whether the mirror is being followed."""
        return self._thread.is_alive()

    def _age_s(self) -> float:
        age_ms = self.mirror.age_ms()
        return NEVER if age_ms == NEVER else age_ms / 1_000

    def _begin(self) -> _Start:
        """Notes where the log ends, then reads the store."""
        partitions = partitions_of(self._config, self._topic)
        cluster_id = self._cluster_id()
        offsets = end_offsets(self._config, self._topic, partitions)
        found = self.mirror.load(self._store, self._clock.now_ms(), self._priors())
        log.info("mirror_loaded", items=len(self.mirror), with_row=found)
        return _Start(cluster_id, offsets)

    def _run(self) -> None:
        """Follows, and begins again after trouble; nothing but `stop` ends it."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                self._start = self._start or self._begin_again()
                self._follow(self._start)
            except (KafkaException, LogError, redis.RedisError, OSError) as error:
                log.warning("mirror_interrupted", reason=str(error), next_try_s=pause_s)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S

    def _begin_again(self) -> _Start:
        start = self._begin()
        self.counts.reloads += 1
        metrics.MIRROR_RELOADS.inc()
        return start

    def _follow(self, start: _Start) -> None:
        """Applies updates until told to stop, or until this log is no longer the one it was."""
        consumer = self._consumer(start)
        try:
            while not self._stopping.is_set():
                for message in consumer.consume(CONSUME_BATCH, CONSUME_S):
                    self._take(message)
                if self._connection_lost.is_set() and not self._is_same_log(consumer, start):
                    self._start = None
                if self._start is None:
                    return
        finally:
            consumer.close()

    def _consumer(self, start: _Start) -> Consumer:
        consumer = Consumer(
            {
                **self._config.consumer("headrace-mirror"),
                "error_cb": self._note_trouble,
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "log_level": 0,  # errors come to the callback
            }
        )
        consumer.assign([TopicPartition(self._topic, p, at) for p, at in start.offsets.items()])
        return consumer

    def _note_trouble(self, error: KafkaError) -> None:
        if not self._connection_lost.is_set():
            log.warning("mirror_broker_away", reason=error.str())
        self._connection_lost.set()

    def _is_same_log(self, consumer: Consumer, start: _Start) -> bool:
        """Whether the log that answers is the one that was followed; true while none answers.

        A broker in memory comes back empty, and leaves a consumer waiting at a place that the new
        log has not reached: only its cluster id tells.
        """
        try:
            metadata = consumer.list_topics(timeout=METADATA_TIMEOUT_S)
        except KafkaException:
            return True
        self._connection_lost.clear()
        return bool(metadata.cluster_id == start.cluster_id)

    def _take(self, message: Message) -> None:
        """Applies one message; a broken one is counted and left behind."""
        error = message.error()
        if error is not None:
            self._take_error(error)
            return
        try:
            update = decode_update(message.value() or b"")
        except UpdateError as problem:
            self._count_broken(message, str(problem))
        else:
            self._apply(update)
        if self._start is not None:
            self._start.offsets[message.partition()] = message.offset() + 1

    def _take_error(self, error: KafkaError) -> None:
        """A place that the log no longer has means that updates were missed."""
        lost = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
        if error.code() in lost:
            log.warning("mirror_place_lost", reason=error.str())
            self._start = None
        else:
            self._note_trouble(error)

    def _count_broken(self, message: Message, reason: str) -> None:
        self.counts.broken += 1
        metrics.MIRROR_BROKEN.inc()
        if self.counts.broken == 1:
            log.warning("bad_item_update", offset=message.offset(), reason=reason)

    def _apply(self, update: ItemUpdate) -> None:
        unknown = self.mirror.apply(update)
        self.counts.messages += 1
        self.counts.items += len(update.ids) - unknown
        self.counts.unknown += unknown
        metrics.MIRROR_ITEMS.inc(len(update.ids) - unknown)
        metrics.MIRROR_UNKNOWN.inc(unknown)
        if self._now_at is not None:
            self._now_at(update.now_ms)

    def _cluster_id(self) -> str | None:
        """The name of the log that answers; asked without naming a topic, which might create it."""
        consumer = Consumer({**self._config.consumer("headrace-metadata"), "log_level": 0})
        try:
            metadata: Any = consumer.list_topics(timeout=METADATA_TIMEOUT_S)
            return None if metadata.cluster_id is None else str(metadata.cluster_id)
        finally:
            consumer.close()
