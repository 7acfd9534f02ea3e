"""What is known of a viewer, read at the moment of the request."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import redis
import structlog

from features.compiled import Rows
from features.ids import viewer_hash
from features.position import Position
from features.redis_store import note_error
from features.row_reader import RowPosition
from serving import metrics
from serving.slate import Query, Viewer

FIRST_POLL_S, LAST_POLL_S = 0.0002, 0.002
POLL_GROWTH = 1.5
FIRST_REST_S, LAST_REST_S = 0.03, 0.25
REDIS = "redis"  # as named in `degraded`

T = TypeVar("T")

log = structlog.get_logger(__name__)


class ReadsRow(Protocol):
    """Reads one row; `features.redis_store.AsyncRowReader` is one."""

    async def read(self, id_: int) -> Rows | None:
        """`(1,)` row of an id, None where it has none. Raises redis.RedisError."""

    async def read_position(self, id_: int) -> RowPosition | None:
        """Where the row of an id stands, None where it has none. Raises redis.RedisError."""


class ViewerReader:
    """Reads viewers' rows; a store that fails costs knowledge of the viewer, never the answer.

    After a failure the store is left alone for 30 ms, and then one read at a time tries it, each
    after a rest twice as long, up to `rest_s`: while it is away slates are as quick as without it,
    the first success makes all well again, and a single answer that was late costs few slates.

    A request that names an event to be included reads again and again, every 0.2 ms at first and
    every 2 ms in the end: an event is readable within a few milliseconds, and those few reads cost
    less than telling every server of every changed row would.
    """

    def __init__(
        self,
        rows: ReadsRow,
        topic: str,
        *,
        rest_s: float = LAST_REST_S,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = rows
        self._topic = topic
        self._longest_rest_s = rest_s
        self._rest_s = FIRST_REST_S
        self._monotonic_s = monotonic_s
        self._try_again_s: float | None = None  # None: the store is well

    async def read(self, query: Query, budget_s: float = float("inf")) -> Viewer:
        """The viewer of a query; waits for `query.after` at most `query.wait_ms` and `budget_s`."""
        id_ = viewer_hash(query.user_id, query.profile_id)
        row, failed = await self._try(self._rows.read, id_, query)
        if query.after is None:
            return Viewer(row, (REDIS,) if failed else ())
        if failed or self._includes(row, query.after):
            return _viewer(row, failed=failed, waited_s=0.0, included=not failed)
        limit_s = min(query.wait_ms / 1_000, budget_s)
        return await self._wait(id_, row, query.after, limit_s, query)

    async def read_position(self, query: Query) -> RowPosition | None:
        """Where the row of a query's viewer stands; None for no row, and where the store fails."""
        id_ = viewer_hash(query.user_id, query.profile_id)
        position, _ = await self._try(self._rows.read_position, id_, query)
        return position

    def included(self, viewer: Viewer) -> tuple[Position, ...]:
        """The log positions that a viewer's state contains: at most one, of the row's partition."""
        if viewer.row is None or viewer.row["partition"][0] < 0:
            return ()
        row = viewer.row[0]
        return (Position(self._topic, int(row["partition"]), int(row["offset"])),)

    async def _wait(
        self, id_: int, row: Rows | None, after: Position, limit_s: float, query: Query
    ) -> Viewer:
        """Reads until the row includes `after`, the store fails or the time is up."""
        started_s = self._monotonic_s()
        pause_s, waited_s = FIRST_POLL_S, 0.0
        failed = included = False
        while not (failed or included) and waited_s < limit_s:
            await asyncio.sleep(min(pause_s, limit_s - waited_s))
            pause_s = min(POLL_GROWTH * pause_s, LAST_POLL_S)
            newer, failed = await self._try(self._rows.read, id_, query)
            row = row if failed else newer
            included = not failed and self._includes(row, after)
            waited_s = self._monotonic_s() - started_s
        metrics.WAITS.labels("included" if included else "limit").inc()
        return _viewer(row, failed=failed, waited_s=waited_s, included=included)

    def _includes(self, row: Rows | None, after: Position) -> bool:
        if row is None:
            return False
        at = Position(self._topic, int(row["partition"][0]), int(row["offset"][0]))
        return after.is_included_in(at)

    async def _try(
        self, read: Callable[[int], Awaitable[T | None]], id_: int, query: Query
    ) -> tuple[T | None, bool]:
        """What is read of an id, and whether the store failed."""
        if self._is_resting():
            return None, True
        try:
            found = await read(id_)
        except (redis.RedisError, OSError) as error:
            self._note_failure(error, query)
            return None, True
        self._note_success()
        return found, False

    def _is_resting(self) -> bool:
        """Whether to leave the store alone; lets one caller through after each rest."""
        if self._try_again_s is None:
            return False
        now_s = self._monotonic_s()
        if now_s < self._try_again_s:
            return True
        self._rest_s = min(2 * self._rest_s, self._longest_rest_s)
        self._try_again_s = now_s + self._rest_s
        return False

    def _note_failure(self, error: Exception, query: Query) -> None:
        metrics.REDIS_FAILURES.inc()
        note_error(error)
        if self._try_again_s is None:
            log.warning("viewers_unreadable", reason=str(error), request_id=query.request_id)
        self._try_again_s = self._monotonic_s() + self._rest_s

    def _note_success(self) -> None:
        if self._try_again_s is not None:
            log.info("viewers_readable_again")
            self._rest_s = FIRST_REST_S
        self._try_again_s = None


def _viewer(row: Rows | None, *, failed: bool, waited_s: float, included: bool) -> Viewer:
    return Viewer(row, (REDIS,) if failed else (), round(1_000 * waited_s), included)
