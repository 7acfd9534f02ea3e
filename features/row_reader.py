"""Rows for a server: one at a time, within a deadline, over one connection (features/redis_pipe).

`read` brings a whole row, `read_position` its first 32 bytes alone: enough to know whether anything
has happened to the viewer since.
"""

import struct
from typing import Final, NamedTuple

import numpy as np

from features.compiled import Rows
from features.redis_config import RedisConfig
from features.redis_pipe import Pipe, Reply
from features.store import Table

POSITION: Final = struct.Struct("=Hh4x8xqq")  # layout, partition, offset, logged_at_ms of USER_ROW
POSITION_NAMES: Final = ("layout", "partition", "offset", "logged_at_ms")
_NOWHERE: Final = -1


class RowPosition(NamedTuple):
    """Up to where in the log a viewer's row goes."""

    partition: int
    offset: int
    logged_at_ms: int


class AsyncRowReader:
    """One row at a time for a server: a deadline, no retry; absence and failure are different."""

    def __init__(self, config: RedisConfig, table: Table, *, timeout_s: float = 0.03) -> None:
        self._pipe = Pipe(config.url, config.options, timeout_s=timeout_s)
        self._table = table
        head = config.key_head(table)
        key = b"$%d\r\n%b" % (len(head) + 16, head)
        self._get = b"*2\r\n$3\r\nGET\r\n" + key
        self._getrange = b"*4\r\n$8\r\nGETRANGE\r\n" + key
        self._range_end = b"\r\n$1\r\n0\r\n$2\r\n%d\r\n" % (POSITION.size - 1)
        self._layout: bytes = table.empty["layout"].tobytes()

    async def read(self, id_: int) -> Rows | None:
        """`(1,)` row of an id, None where it has none.

        A record of another size or layout counts as absent: the log rebuilds it. Raises
        redis.RedisError, at the latest after the time-out.
        """
        record: Reply = await self._pipe.call(b"%b%016x\r\n" % (self._get, id_))
        if record is None or len(record) != self._table.dtype.itemsize:
            return None
        if record[:2] != self._layout:
            return None
        return np.frombuffer(bytearray(record), self._table.dtype)  # a copy that can be written

    async def read_position(self, id_: int) -> RowPosition | None:
        """Where a viewer's row stands, None where there is none or it has included nothing yet.

        Raises redis.RedisError, at the latest after the time-out.
        """
        head: Reply = await self._pipe.call(b"%b%016x%b" % (self._getrange, id_, self._range_end))
        return _position_in(head, self._layout)

    async def close(self) -> None:
        """Closes the connection."""
        await self._pipe.close()


def _position_in(head: bytes, layout: bytes) -> RowPosition | None:
    if len(head) < POSITION.size or head[:2] != layout:
        return None
    _, partition, offset, logged_at_ms = POSITION.unpack(head)
    if partition == _NOWHERE:
        return None
    return RowPosition(partition, offset, logged_at_ms)
