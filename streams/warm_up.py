"""Compiles what the features flow calls, before it reads its first record."""

import gc
from dataclasses import dataclass

import numpy as np

from features import item_row
from features.codec import encode_interaction
from features.decode import decode_records
from features.events import Interaction
from features.global_rates import rates_of
from features.redis_store import hexadecimal
from features.row_cache import RowCache
from features.store import GLOBALS, ITEMS, USERS, InMemoryRowStore
from features.titles import TitleFacts
from features.vocabulary import EventType
from streams.partition_tables import PartitionTables

CAPACITY = 2


@dataclass(frozen=True, slots=True)
class SampleRecord:
    """A record that never was in a log."""

    offset_: int

    def value(self) -> bytes:
        """A click of a viewer and a title of their own."""
        name = str(self.offset_)
        return encode_interaction(Interaction(name, name, name, EventType.CLICK, 1))

    def key(self) -> None:
        """No key."""

    def headers(self) -> None:
        """No headers."""

    def topic(self) -> str:
        """No topic."""
        return ""

    def partition(self) -> int:
        """The first."""
        return 0

    def offset(self) -> int:
        """Its number."""
        return self.offset_

    def timestamp(self) -> tuple[int, int]:
        """A moment in 2001."""
        return 0, 10**12


def warm_up() -> None:
    """Runs sample events through decoding, all rows and an eviction; some seconds at first."""
    users = RowCache(InMemoryRowStore(USERS), CAPACITY)
    items = RowCache(InMemoryRowStore(ITEMS), CAPACITY)
    tables = PartitionTables(lambda table: RowCache(InMemoryRowStore(table), CAPACITY))
    priors = rates_of(GLOBALS.empty)
    for offset in range(2 * CAPACITY):
        events = decode_records([SampleRecord(offset)]).events
        TitleFacts().enrich(events)
        effects = np.empty(len(events), np.uint8)
        slots = users.slots_of(np.ascontiguousarray(events["user"]))
        tables.apply(users.rows, slots, events, effects)
        slots = items.slots_of(np.ascontiguousarray(events["item"]))
        item_row.apply_all(items.rows, slots, events, effects)
        values = np.empty((1, item_row.N_COLUMNS), np.float32)
        item_row.values_of(items.rows, slots, 10**12, priors, values)
        hexadecimal(users.rows["id"])
        hexadecimal(np.ascontiguousarray(users.rows["id"]))
        for cache in (users, items):
            cache.next_epoch()
            cache.next_epoch()
    gc.collect()
    gc.freeze()  # what is loaded stays: the collector need not look at it again
