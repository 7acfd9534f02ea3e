"""Writes the rows of a batch to Redis, viewers last, and puts everything back after a loss.

Every look at Redis (five a second when idle, and each read of cold rows) looks at the marker too.
Where it is gone, Redis has lost its rows: if all of them are in memory they are put back and the
flow goes on, since nothing is missing. If not, all rows but those of viewers are put back, and
RowsLostError ends the flow, which begins again at the beginning of the log. The rows of viewers are
then not put back, because a viewer who has read an event already cannot tell its title whether it
was a duplicate.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import NoReturn
from weakref import WeakSet

import numpy as np
import structlog
from numpy.typing import NDArray

from features.compiled import Rows
from features.records import joined
from features.redis_config import RedisConfig
from features.redis_store import Command, RedisLink, RedisRowStore, packed
from features.row_cache import RowCache
from features.store import TABLES, USERS, RowStore, Table
from streams import metrics
from streams.features import RowWrites
from streams.marker import Marker, RowsLostError, marker_key
from streams.preparation import Generation
from streams.progress import NOTHING_READ, Ends
from streams.tracing import FlowTraces

PING_EVERY_S = 0.2

log = structlog.get_logger(__name__)


class WitnessedRowStore(RedisRowStore):
    """Reads the marker with the rows: rows of a store that was emptied must not pass for new."""

    def __init__(
        self,
        link: RedisLink,
        table: Table,
        config: RedisConfig,
        get_marker: Command,
        heed: Callable[[bytes | None], None],
    ) -> None:
        super().__init__(link, table, config)
        self._reads = link
        self._get_marker = get_marker
        self._heed = heed

    def read(self, ids: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.bool_]]:
        """Rows of ids; see RowStore. Raises RowsLostError."""
        *answers, marker = self._reads.run([*self.read_commands(ids), self._get_marker])
        self._heed(marker)
        return self.rows_in(answers, ids)


class RowWriter:
    """Writes rows on one connection and reads cold ones on another, for one worker.

    While Redis works on a batch the flow works on the next: `write` sends and returns, and waits
    only for the batch before. `settle` waits for the last one; it is called before offsets are
    committed, and a cache gives no row back before.
    """

    def __init__(
        self,
        config: RedisConfig,
        give_up: Callable[[], bool] = lambda: False,
        generation: Generation | None = None,
        *,
        is_alone: bool = True,
        stored: Callable[[Ends], None] = lambda _: None,
        traces: FlowTraces | None = None,
    ) -> None:
        """`stored` is told of the log which rows can be read."""
        self._traces = traces
        self._generation = generation
        self._stored = stored
        self._is_alone = is_alone
        self._marker_key = marker_key(config)
        self._get_marker = packed("GET", self._marker_key)
        self._writes = RedisLink(config, give_up=give_up)
        self._reads = RedisLink(config, give_up=give_up)
        self._stores = {
            table.letter: WitnessedRowStore(
                self._reads, table, config, self._get_marker, self._heed
            )
            for table in TABLES
        }
        self._caches: WeakSet[RowCache] = WeakSet()
        self._servers_seen = 0
        self._newest_logged_at_ms = 0
        self._ends: Ends = NOTHING_READ  # of the rows on their way
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
                commands += self._stores[table.letter].write_commands(joined(rows))
                metrics.ROWS_WRITTEN.labels(table.letter).inc(sum(map(len, rows)))
        if self._traces is not None:
            self._traces.writing(batches)
        self._writes.begin(commands)
        self._newest_logged_at_ms = max(batch.logged_at_ms for batch in batches)
        for batch in batches:
            self._ends = batch.ends or self._ends

    def settle(self) -> None:
        """Returns when everything written can be read, in a Redis that was replaced too."""
        self._await_answers()
        now_s = time.monotonic()
        if now_s - self._pinged_s >= PING_EVERY_S:
            self._pinged_s = now_s
            answer = self._writes.ask(self._get_marker)
            if answer is not None:
                self._judge(answer[0])

    def _await_answers(self) -> None:
        begun_s = time.perf_counter()
        self._writes.settle()
        if self._traces is not None:
            self._traces.written()
        if self._newest_logged_at_ms:
            metrics.FLUSH_SECONDS.labels("redis").observe(time.perf_counter() - begun_s)
            age_s = max(time.time_ns() // 1_000_000 - self._newest_logged_at_ms, 0) / 1e3
            metrics.FRESHNESS.observe(age_s)
            metrics.FRESHNESS_BY_STAGE.labels("servable").observe(age_s)
            self._newest_logged_at_ms = 0
            self._stored(self._ends)
            self._ends = NOTHING_READ
        if self._writes.servers_seen != self._servers_seen:
            self._judge(self._writes.run([self._get_marker])[0])

    def _heed(self, found: bytes | None) -> None:
        """Looks closer when a read of cold rows met another marker than it should."""
        if self._generation is not None and found != self._generation.marker:
            self._writes.settle()
            self._judge(self._writes.run([self._get_marker])[0])

    def _judge(self, found: bytes | None) -> None:
        """Goes on with the rows that Redis has, or puts all back, or raises RowsLostError."""
        is_other = self._writes.servers_seen != self._servers_seen
        is_first = self._servers_seen == 0
        self._servers_seen = self._writes.servers_seen
        expected = self._generation
        if expected is None or found == expected.marker:
            if is_other and not is_first:  # what Redis had not yet saved is missing
                self._put_back(self._caches)
            return
        if found is None and self._holds_all():
            self._put_back(self._caches)
            self._writes.run([packed("SET", self._marker_key, expected.marker, "NX")])
            return
        self._give_up_rows(expected, found)

    def _holds_all(self) -> bool:
        """Whether every row that there is is in memory, so that nothing is lost with Redis."""
        return (
            self._is_alone
            and self._generation is not None
            and self._generation.began_empty
            and not any(cache.evictions for cache in self._caches)
        )

    def _give_up_rows(self, expected: Generation, found: bytes | None) -> NoReturn:
        mine = Marker.decode(expected.marker)
        generation = "" if mine is None else mine.generation
        if found is not None:
            raise RowsLostError("another marker stands in Redis", generation)
        kept = [cache for cache in self._caches if cache.store.table is not USERS]
        self._put_back(kept)
        letters = frozenset(cache.store.table.letter for cache in kept)
        raise RowsLostError("Redis lost them", generation, letters)

    def _put_back(self, caches: Iterable[RowCache]) -> None:
        """Writes every row of these caches again, viewers last."""
        for cache in sorted(caches, key=lambda cache: cache.store.table is USERS):
            rows = cache.resident()
            cache.store.write(rows)
            log.warning("rows_restored", table=cache.store.table.letter, rows=len(rows))

    def close(self) -> None:
        """Waits for the last rows and closes the connections."""
        self.settle()
        self.abandon()

    def abandon(self) -> None:
        """Waits until Redis has done what it was sent, whatever it is worth, and closes."""
        self._writes.settle()
        self._writes.close()
        self._reads.close()
