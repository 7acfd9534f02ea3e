"""Memory is bounded by the settings, whoever comes."""

import os
from threading import Event

import numpy as np
import psutil
import pytest

from benchmarks.memory import EmptyStore
from features.clock import WallClock
from features.events import EVENT
from features.log import LogConfig
from features.row_cache import RowCache
from features.store import ITEMS, TABLES, USERS
from features.titles import TitleFacts
from features.vocabulary import EventType
from streams.features import FlowParts, ItemShard, Topics, UserShard

CAPACITY = 1_024
BATCH = 256
NOW_MS = 1_700_000_000_000


@pytest.fixture
def caches():
    return {table.letter: RowCache(EmptyStore(table), CAPACITY) for table in TABLES}


@pytest.fixture
def shards(caches):
    parts = FlowParts(
        log=LogConfig("nowhere"),
        topics=Topics("interactions", "item-updates", "dead-letters"),
        group="bounds",
        n_partitions=1,
        titles=TitleFacts(),
        clock=WallClock(),
        user_rows=lambda: caches[USERS.letter],
        item_rows=lambda: caches[ITEMS.letter],
        partition_rows=lambda table: caches[table.letter],
        write_rows=lambda _: None,
        settle=lambda: None,
        stop=Event(),
    )
    return UserShard(parts), ItemShard(parts)


def batch_at(offset, rng):
    events = np.zeros(BATCH, EVENT)
    for name in ("user", "item", "event"):
        events[name] = rng.integers(1, 1 << 63, BATCH)
    events["offset"] = np.arange(offset, offset + BATCH)
    events["type"] = EventType.CLICK
    events["at_ms"] = events["logged_at_ms"] = NOW_MS + offset
    return events


def apply(shards, events):
    users, titles = shards
    routed, _ = users.on_batch([events])
    titles.on_batch([value for _, value in routed])
    for shard in shards:
        shard.snapshot()


def test_two_hundred_thousand_unseen_ids_take_no_more_memory_than_the_first(shards, caches, rng):
    process = psutil.Process(os.getpid())
    at_first = 0
    for offset in range(0, 200_000, BATCH):
        apply(shards, batch_at(offset, rng))
        if offset == 40 * BATCH:
            at_first = process.memory_info().rss
    assert all(len(cache) <= CAPACITY for cache in caches.values())
    assert all(caches[table.letter].evictions >= 190_000 for table in (USERS, ITEMS))
    grown = process.memory_info().rss - at_first
    assert grown < 16 << 20  # the rows of all who came would be 760 MiB


def test_rows_touched_within_two_epochs_are_refused_room_rather_than_lost(shards, rng):
    users, _ = shards
    for offset in range(0, CAPACITY, BATCH):
        users.on_batch([batch_at(offset, rng)])
    with pytest.raises(MemoryError, match="1024 rows of table 'u' are too few"):
        users.on_batch([batch_at(CAPACITY, rng)])
