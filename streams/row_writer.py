"""Writes the rows of a batch to Redis, titles first, and puts everything back after a loss."""

import time
from collections.abc import Sequence
from weakref import WeakSet

import structlog

from features.redis_store import RedisConfig, RedisLink, RedisRowStore
from features.row_cache import RowCache
from features.store import ITEMS, USERS, Table
from streams import metrics
from streams.features import RowWrites

log = structlog.get_logger(__name__)


class RowWriter:
    """One connection for the rows of a worker: what is read back on it was written before."""

    def __init__(self, config: RedisConfig) -> None:
        self._link = RedisLink(config)
        self._stores = {
            "user": RedisRowStore(self._link, USERS, config),
            "item": RedisRowStore(self._link, ITEMS, config),
        }
        self._caches: WeakSet[RowCache] = WeakSet()
        self._servers_seen = 0

    def cache(self, table: Table, capacity: int) -> RowCache:
        """A cache over one of the tables, remembered for the day Redis comes back empty."""
        store = self._stores["user" if table is USERS else "item"]
        cache = RowCache(store, capacity)
        self._caches.add(cache)
        return cache

    def write(self, batches: Sequence[RowWrites]) -> None:
        """Stores rows in the order given; returns when they can be read."""
        for batch in batches:
            self._stores[batch.table].write(batch.rows)
            metrics.ROWS_WRITTEN.labels(batch.table).inc(len(batch.rows))
        self._restore_after_loss()
        now_ms = time.time_ns() // 1_000_000
        for batch in batches:
            if batch.table == "user":
                metrics.FRESHNESS.observe(max(now_ms - batch.logged_at_ms, 0) / 1_000)

    def _restore_after_loss(self) -> None:
        """Another Redis process may be empty: every row in memory is written again."""
        if self._link.servers_seen == self._servers_seen:
            return
        first = self._servers_seen == 0
        self._servers_seen = self._link.servers_seen
        if first:
            return
        for cache in sorted(self._caches, key=lambda cache: cache.store.table is USERS):
            rows = cache.resident()
            cache.store.write(rows)
            log.warning("rows_restored", table=cache.store.table.letter, rows=len(rows))

    def close(self) -> None:
        """Closes the connection."""
        self._link.close()
