"""Every title's features in memory, as the last word of the features flow has them.

A request scores about a thousand titles; asking a store for each would cost more than the rest of
the answer. So the columns of all titles stand in one matrix, loaded from the store at the start and
kept current from the topic `item-updates`.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog
from confluent_kafka import Message
from numpy.typing import NDArray

from features import item_row
from features.clock import Clock
from features.global_rates import DEFAULT_PRIORS
from features.id_map import ABSENT, IdMap
from features.item_updates import ItemUpdate, UpdateError, decode_update
from features.log import LogConfig
from features.store import RowStore
from serving import metrics
from serving.tail import Tail

LOAD_BATCH = 4_096
NEVER = -1

log = structlog.get_logger(__name__)


class ItemMirror:
    """`values`, `(n_slots, item_row.N_COLUMNS) float32`, in the order of `ids`, `(n_slots,)`.

    One thread writes, any number read, nobody locks. A reader that copies a row while it is being
    overwritten may get some columns from before and some from after. That is accepted: all values
    are absolute, a float32 is written whole, so each number is a true one, at most one update old;
    it can happen to a row for the microseconds of its copy, and the next read is right.

    Over a catalogue that changes (`over`) ids and their slots are those of its table: a new title
    has the defaults until the first update of it. A bigger table is met in two steps: `prepare`
    copies and from then on writes to the copy, `switch` shows it to readers.
    """

    def __init__(self, ids: NDArray[np.uint64]) -> None:
        if len(np.unique(ids)) != len(ids) or (ids == 0).any():
            raise ValueError("ids of a mirror must be distinct and not zero")
        slots = IdMap(len(ids))
        slots.insert(ids, np.arange(len(ids)))
        self._begin(ids, slots)

    @classmethod
    def over(cls, ids: NDArray[np.uint64], slots: IdMap) -> "ItemMirror":
        """A mirror of a table's slots, free ones (id 0) included; `slots` is the table's own map.

        A map is safe beside its writer: compiled code runs with the interpreter's lock.
        """
        mirror = cls.__new__(cls)
        mirror._begin(ids, slots)
        return mirror

    def _begin(self, ids: NDArray[np.uint64], slots: IdMap) -> None:
        self.ids = ids
        self.values: NDArray[np.float32] = np.tile(item_row.DEFAULTS, (len(ids), 1))
        self._written = self.values  # where updates go
        self._slots = slots
        self._moved_s: float | None = None
        self._writing = threading.Lock()

    def __len__(self) -> int:
        return len(self.ids)

    def prepare(self, ids: NDArray[np.uint64], slots: IdMap) -> NDArray[np.float32]:
        """Makes ready for a bigger table that has the same titles in the same slots, and more.

        The values that `switch` will show; they are kept current from now on. O(slots).
        """
        with self._writing:
            bigger = np.tile(item_row.DEFAULTS, (len(ids), 1))
            bigger[: len(self._written)] = self._written
            self._written, self.ids, self._slots = bigger, ids, slots
        return bigger

    def switch(self) -> None:
        """Shows readers what was prepared."""
        self.values = self._written

    def slots_of(self, ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """`(n,) int64` rows of ids in `values`, -1 where an id is not known here."""
        return self._slots.find(ids)

    def load(
        self, store: RowStore, now_ms: int, priors: NDArray[np.float32] = DEFAULT_PRIORS
    ) -> int:
        """Reads the rows of all titles, as of `now_ms`; how many have one. O(titles).

        `priors` are the rates of genres, `partition_reads.read_priors`. Raises what the store
        raises; titles read before that have their values.
        """
        ids = self.ids[self.ids != 0]
        return sum(
            self._load_part(store, ids[start : start + LOAD_BATCH], now_ms, priors)
            for start in range(0, len(ids), LOAD_BATCH)
        )

    def _load_part(
        self,
        store: RowStore,
        ids: NDArray[np.uint64],
        now_ms: int,
        priors: NDArray[np.float32],
    ) -> int:
        rows, found = store.read(ids)
        places = np.flatnonzero(found)
        values = np.empty((len(places), item_row.N_COLUMNS), np.float32)
        item_row.values_of(rows, places, now_ms, priors, values)
        with self._writing:
            self._written[self._slots.find(ids[places])] = values
        return len(places)

    def apply(self, update: ItemUpdate) -> int:
        """Takes an update over; how many of its items are not known here. O(items in it)."""
        with self._writing:
            slots = self._slots.find(update.ids)
            known = slots != ABSENT
            if known.all():
                self._written[slots] = update.values
            else:
                self._written[slots[known]] = update.values[known]
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


class MirrorFollower:
    """Keeps a mirror current, on a thread of its own, for as long as the server runs.

    The store is read after the end of the topic was noted, and read anew where updates were missed;
    see `Tail`. While the broker is away the mirror stays as it is and its age grows.

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
        self.counts = FollowerCounts()
        self._priors = priors
        self._store = store
        self._clock = clock
        self._now_at = now_at
        self._tail = Tail(config, topic, "mirror", self._load, self._take)
        self._has_begun = False

    def start(self) -> None:
        """Loads the mirror in this thread, then follows in another.

        Raises LogError or KafkaException where the topic cannot be read, and what the store raises.
        """
        metrics.MIRROR_AGE.set_function(self._age_s)
        self._tail.start()

    def stop(self) -> None:
        """Ends the thread; it takes as long as one look at the log."""
        self._tail.stop()

    def is_alive(self) -> bool:
        """Whether the mirror is being followed."""
        return self._tail.is_alive()

    def _age_s(self) -> float:
        age_ms = self.mirror.age_ms()
        return NEVER if age_ms == NEVER else age_ms / 1_000

    def _load(self) -> None:
        found = self.mirror.load(self._store, self._clock.now_ms(), self._priors())
        log.info("mirror_loaded", items=len(self.mirror), with_row=found)
        if self._has_begun:
            self.counts.reloads += 1
            metrics.MIRROR_RELOADS.inc()
        self._has_begun = True

    def _take(self, messages: list[Message]) -> None:
        """Applies messages; a broken one is counted and left behind."""
        for message in messages:
            try:
                update = decode_update(message.value() or b"")
            except UpdateError as problem:
                self._count_broken(message, str(problem))
            else:
                self._apply(update)

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
