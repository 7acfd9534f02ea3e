"""Rows in Redis, as the bytes they are.

A fixed-width record makes the command a fixed-width record too: an `MSET` of n rows is one
structured array (key, row and the protocol's punctuation), filled by NumPy and sent as it lies.
No row becomes a Python object on the way out.
"""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, Final

import hiredis
import numpy as np
import redis
import structlog
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.retry import Retry

from features import metrics
from features.compiled import Rows, unlocked
from features.redis_config import RedisConfig
from features.store import Table, rows_of

MAX_ROWS_PER_COMMAND: Final = 256
MAX_OUTSTANDING: Final = 3
MAX_JOINED_BYTES: Final = 131_072
MIN_SENT_BY_THREAD: Final = 4 << 20  # less is gone sooner than a thread has its turn
FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.02, 1.0
HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
HEX_DIGITS: Final = 16

Command = list[Any]  # a command as it goes over the wire: bytes and memory views, in order

LOST = (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError, redis.ReadOnlyError)
ERROR_KINDS: Final[
    dict[str, type[Exception] | tuple[type[Exception], ...]]
] = {  # the first that fits is told
    "loading": redis.BusyLoadingError,
    "read_only": redis.ReadOnlyError,
    "timeout": (redis.TimeoutError, TimeoutError),
    "connection": (redis.ConnectionError, OSError),
    "refused": redis.RedisError,
}

log = structlog.get_logger(__name__)


class RedisLink:
    """One connection that comes back by itself; commands are absolute, so they are sent again.

    `servers_seen` rises whenever another Redis process answers: what was stored may be gone.
    """

    def __init__(
        self,
        config: RedisConfig,
        *,
        give_up_after_s: float | None = None,
        give_up: Callable[[], bool] = lambda: False,
    ) -> None:
        self._client = redis.Redis.from_url(
            config.url,
            socket_timeout=config.socket_timeout_s,
            socket_connect_timeout=config.socket_timeout_s,
            retry=Retry(NoBackoff(), 0),
            **config.options,
        )
        self._give_up_after_s = give_up_after_s
        self._give_up = give_up
        self._connection: Any = None
        self._run_id = ""
        self._underway: Sequence[Command] = ()
        self._sender = ThreadPoolExecutor(1, "redis-sender")
        self._sending: Future[None] | None = None
        self._redis = metrics.AGES.source("redis")
        self.servers_seen = 0

    def begin(self, commands: Sequence[Command]) -> None:
        """Sends packed commands and returns; `settle` waits for their answers.

        Their memory must stay as it is until then: after a loss they are sent again. What Redis
        cannot take at once is sent by a thread, while the caller goes on.
        """
        self.settle()
        self._underway = commands
        try:
            connection = self._connected()
            pieces = together(commands)
            if sum(map(len, pieces)) < MIN_SENT_BY_THREAD:
                connection.send_packed_command(pieces)
            else:
                self._sending = self._sender.submit(connection.send_packed_command, pieces)
        except LOST as error:
            self._lose(error)

    def settle(self) -> None:
        """Returns when Redis has done what `begin` sent; see `run` for errors."""
        commands, self._underway = self._underway, ()
        if not commands:
            return
        sending, self._sending = self._sending, None
        try:
            if sending is not None:
                sending.result()
            if self._connection is None:
                raise redis.ConnectionError("the connection was lost")
            for _ in commands:
                self._connection.read_response()
            self._redis.heard()
        except LOST as error:
            self._lose(error)
            metrics.REDIS_RETRIES.inc(len(commands))
            self.run(commands)
        except redis.RedisError as error:
            note_error(error)
            raise

    def ask(self, command: Command) -> tuple[Any] | None:
        """The answer to one packed command; None at once where Redis is away.

        Also the way to find out whether another Redis answers now.
        """
        try:
            return (self._exchange([command])[0],)
        except LOST as error:
            self._lose(error)
            return None

    def run(self, commands: Sequence[Command]) -> list[Any]:
        """Sends packed commands, answers in order; waits for a Redis that is away.

        Raises redis.RedisError when Redis refuses a command (out of memory, no permission), or when
        it is away for longer than `give_up_after_s` or until `give_up()` says so.
        """
        started = time.monotonic()
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                return self._exchange(commands)
            except LOST as error:
                self._lose(error)
                waited_s = time.monotonic() - started
                limit_s = float("inf") if self._give_up_after_s is None else self._give_up_after_s
                if waited_s >= limit_s or self._give_up():
                    raise
                log.warning("redis_away", error=str(error), waited_s=round(waited_s, 2))
                time.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
                metrics.REDIS_RETRIES.inc(len(commands))
            except redis.RedisError as error:
                note_error(error)
                raise

    def close(self) -> None:
        """Gives the connection back and closes it."""
        self._drop()
        self._sender.shutdown()
        self._client.close()

    def _exchange(self, commands: Sequence[Command]) -> list[Any]:
        connection = self._connected()
        answers: list[Any] = []
        for sent, command in enumerate(commands):
            connection.send_packed_command(command)
            if sent >= MAX_OUTSTANDING:
                answers.append(connection.read_response())
        while len(answers) < len(commands):
            answers.append(connection.read_response())
        self._redis.heard()
        return answers

    def _connected(self) -> Any:
        if self._connection is None:
            run_id = self._client.info("server")["run_id"]
            self._connection = self._client.connection_pool.get_connection()
            if run_id != self._run_id:
                self._run_id = run_id
                self.servers_seen += 1
        return self._connection

    def _lose(self, error: Exception) -> None:
        note_error(error)
        self._drop()

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.disconnect()
            self._client.connection_pool.release(self._connection)
            self._connection = None


def note_error(error: Exception) -> None:
    """Counts a command that Redis did not answer, or refused."""
    kinds = (kind for kind, types in ERROR_KINDS.items() if isinstance(error, types))
    metrics.REDIS_ERRORS.labels(next(kinds, "connection")).inc()


def packed(*words: bytes | str | int) -> Command:
    """A command of some words as it goes over the wire."""
    return [hiredis.pack_command(words)]


class RedisRowStore:
    """The RowStore protocol over Redis: `MGET` and `MSET` of packed records."""

    def __init__(self, link: RedisLink, table: Table, config: RedisConfig) -> None:
        self.table = table
        self._link = link
        self._frames = Frames(config.key_head(table), table)

    def write_commands(self, rows: Rows) -> list[Command]:
        """Commands that store rows; they share buffers with those of the next call."""
        return [self._frames.mset(part, i) for i, part in enumerate(parts(rows))]

    def read(self, ids: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.bool_]]:
        """Rows of ids; see RowStore."""
        return self.rows_in(self._link.run(self.read_commands(ids)), ids)

    def read_commands(self, ids: NDArray[np.uint64]) -> list[Command]:
        """Commands whose answers are the rows of ids."""
        return [self._frames.mget(part) for part in parts(ids)]

    def rows_in(
        self, answers: Sequence[Any], ids: NDArray[np.uint64]
    ) -> tuple[Rows, NDArray[np.bool_]]:
        """The rows in the answers to `read_commands(ids)`, as `read` returns them."""
        return rows_of(list(chain.from_iterable(answers)), ids, self.table)

    def write(self, rows: Rows) -> None:
        """Stores rows; see RowStore."""
        self._link.run(self.write_commands(rows))


def together(commands: Sequence[Command]) -> Command:
    """All commands as one: small ones in one piece of memory, for one system call."""
    pieces = [piece for command in commands for piece in command]
    if sum(map(len, pieces)) <= MAX_JOINED_BYTES:
        return [b"".join(pieces)]
    return pieces


def parts(array: Rows) -> list[Rows]:
    """The array in pieces of at most MAX_ROWS_PER_COMMAND."""
    return [
        array[start : start + MAX_ROWS_PER_COMMAND]
        for start in range(0, len(array), MAX_ROWS_PER_COMMAND)
    ]


class Frames:
    """Builds commands over rows of one table as they go over the wire (RESP)."""

    def __init__(self, key_head: bytes, table: Table) -> None:
        key_length = len(key_head) + HEX_DIGITS
        row_bytes = table.dtype.itemsize
        key_fields: list[tuple[str, str]] = [
            ("key_mark", f"S{len(f'${key_length}') + 2}"),
            ("key_head", f"S{len(key_head)}"),
            ("id", f"V{HEX_DIGITS}"),
            ("key_end", "S2"),
        ]
        self._key = np.zeros(1, np.dtype(key_fields))
        self._key["key_mark"] = f"${key_length}\r\n".encode()
        self._key["key_head"] = key_head
        self._key["key_end"] = b"\r\n"
        row_mark = f"${row_bytes}\r\n".encode()
        self._row = np.zeros(
            1,
            np.dtype(
                [
                    ("key", self._key.dtype),
                    ("row_mark", f"S{len(row_mark)}"),
                    ("row", f"V{row_bytes}"),
                    ("row_end", "S2"),
                ]
            ),
        )
        self._row["key"] = self._key
        self._row["row_mark"] = row_mark
        self._row["row_end"] = b"\r\n"

        self._buffers: list[Rows] = []  # punctuation in place, one for each part of a write

    def mget(self, ids: NDArray[np.uint64]) -> Command:
        """`MGET` of the keys of `ids`."""
        frame = np.repeat(self._key, len(ids))
        frame["id"] = hexadecimal(ids)
        return [b"*%d\r\n$4\r\nMGET\r\n" % (len(ids) + 1), frame.tobytes()]

    def mset(self, rows: Rows, part: int) -> Command:
        """`MSET` of `rows` under the keys of their ids, in the buffer of the `part` of a write."""
        while part >= len(self._buffers):
            self._buffers.append(np.repeat(self._row, MAX_ROWS_PER_COMMAND))
        frame = self._buffers[part][: len(rows)]
        frame["key"]["id"] = hexadecimal(rows["id"])
        frame["row"] = rows.view(frame["row"].dtype)
        return [b"*%d\r\n$4\r\nMSET\r\n" % (2 * len(rows) + 1), frame.view(np.uint8).data]


def hexadecimal(ids: NDArray[np.uint64]) -> NDArray[np.void]:
    """`(n,) V16`: the 16 lower-case hexadecimal digits of each id.

    >>> hexadecimal(np.array([255], np.uint64)).tobytes()
    b'00000000000000ff'
    """
    digits = np.empty((len(ids), HEX_DIGITS), np.uint8)
    write_hexadecimal(ids, HEX, digits)
    return digits.view(f"V{HEX_DIGITS}").reshape(-1)


@unlocked
def write_hexadecimal(
    ids: NDArray[np.uint64], alphabet: NDArray[np.uint8], out: NDArray[np.uint8]
) -> None:
    """Digits of `ids` into `out`, `(n, 16) uint8`."""
    for i in range(len(ids)):
        for digit in range(16):
            shift = np.uint64(60 - 4 * digit)
            out[i, digit] = alphabet[(ids[i] >> shift) & np.uint64(15)]
