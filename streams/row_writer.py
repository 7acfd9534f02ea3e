"""Writes the rows of a batch to Redis, viewers last, and puts everything back after a loss."""

import time
from collections.abc import Callable, Sequence
from weakref import WeakSet

import numpy as np
import structlog

from features.redis_store import Command, RedisConfig, RedisLink, RedisRowStore
from features.row_cache import RowCache
from features.store import TABLES, USERS, RowStore, Table
from streams import metrics
from streams.features import RowWrites

PING_EVERY_S = 0.2

log = structlog.get_logger(__name__)


class RowWriter:
    """Writes rows on one connection and reads cold ones on another, for one worker.

    While Redis works on a batch the flow works on the next: `write` sends and returns, and waits
    only for the batch before. `settle` waits for the last one; it is called before offsets are
    committed, and a cache gives no row back before.
    """

    def __init__(self, config: RedisConfig, give_up: Callable[[], bool] = lambda: False) -> None:
        self._writes = RedisLink(config, give_up=give_up)
        self._reads = RedisLink(config, give_up=give_up)
        self._stores = {table.letter: RedisRowStore(self._reads, table, config) for table in TABLES}
        self._caches: WeakSet[RowCache] = WeakSet()
        self._servers_seen = 0
        self._newest_logged_at_ms = 0
        self._pinged_s = 0.0

    def cache(self, table: Table, capacity: int) -> RowCache:
        """A cache over one of the tables, remembered for the day Redis comes back empty."""
        cache = RowCache(self._stores[table.letter], capacity)
        self._caches.add(cache)
        return cache

    def store(self, table: Table) -> RowStore:
        """One of the tables, as it lies in Redis."""
        return self._stores[table.letter]

    def write(self, batches: Sequence[RowWrites]) -> None:
        """Sends rows in the order of TABLES; returns when those before can be read."""
        self._await_answers()
        commands: list[Command] = []
        for table in TABLES:
            rows = [batch.rows for batch in batches if batch.table is table]
            if rows:
                together = rows[0] if len(rows) == 1 else np.concatenate(rows)
                commands += self._stores[table.letter].write_commands(together)
                metrics.ROWS_WRITTEN.labels(table.letter).inc(sum(map(len, rows)))
        self._writes.begin(commands)
        self._newest_logged_at_ms = max(batch.logged_at_ms for batch in batches)

    def settle(self) -> None:
        """Returns when everything written can be read, in a Redis that was replaced too."""
        self._await_answers()
        now_s = time.monotonic()
        if now_s - self._pinged_s >= PING_EVERY_S:
            self._pinged_s = now_s
            self._writes.ping()
            self._restore_after_loss()

    def _await_answers(self) -> None:
        self._writes.settle()
        if self._newest_logged_at_ms:
            age_ms = time.time_ns() // 1_000_000 - self._newest_logged_at_ms
            metrics.FRESHNESS.observe(max(age_ms, 0) / 1_000)
            self._newest_logged_at_ms = 0
        self._restore_after_loss()

    def _restore_after_loss(self) -> None:
        """Another Redis process may be empty: every row in memory is written again."""
        if self._writes.servers_seen == self._servers_seen:
            return
        is_first = self._servers_seen == 0
        self._servers_seen = self._writes.servers_seen
        if is_first:
            return
        for cache in sorted(self._caches, key=lambda cache: cache.store.table is USERS):
            rows = cache.resident()
            cache.store.write(rows)
            log.warning("rows_restored", table=cache.store.table.letter, rows=len(rows))

    def close(self) -> None:
        """Waits for the last rows and closes the connections."""
        self.settle()
        self._writes.close()
        self._reads.close()
