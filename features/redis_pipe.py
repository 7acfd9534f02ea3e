"""One connection to Redis for an event loop, shared by all who read: commands go out together.

redis-py's asyncio client takes a connection, a stream and several tasks' turns for each command.
Here a command is a future in a queue: those of one turn of the loop leave in one write, answers
come in their order, and one timer watches the oldest. What is understood of URL, TLS and passwords
is what redis-py understands.
"""

import asyncio
import time
from collections import deque
from typing import Any, Final

import hiredis
import redis
import redis.asyncio
import structlog

FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.02, 0.5
SECOND_LOOK_S: Final = 0.001  # what has arrived while the loop was busy is read before this is over

REFUSALS: Final[dict[str, type[redis.RedisError]]] = {
    "LOADING": redis.BusyLoadingError,
    "READONLY": redis.ReadOnlyError,
    "NOAUTH": redis.AuthenticationError,
    "WRONGPASS": redis.AuthenticationError,
    "NOPERM": redis.exceptions.NoPermissionError,
}

Reply = Any  # of hiredis: bytes, int, list, None, or the exception of a refusal

log = structlog.get_logger(__name__)


def refusal(message: str) -> redis.RedisError:
    """The exception of an error that Redis answers with.

    >>> type(refusal("LOADING Redis is loading the dataset in memory")).__name__
    'BusyLoadingError'
    """
    return REFUSALS.get(message.split(" ", 1)[0], redis.ResponseError)(message)


class Pipe:
    """Commands to one Redis, in order; made and used in one event loop.

    It connects when a command needs it. A connection whose oldest command is not answered within
    `timeout_s` is given up, with all that waits for it: answers come in order, so none would come.
    After a failure to connect commands fail at once for a while that doubles, 20 ms to 0.5 s.
    """

    def __init__(self, url: str, options: dict[str, Any], *, timeout_s: float) -> None:
        pool: Any = redis.asyncio.ConnectionPool.from_url(url, **options)
        self._address = pool.make_connection()  # never connected: it knows how to
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._waiting: list[tuple[bytes, asyncio.Future[Reply]]] = []
        self._backoff_s = FIRST_BACKOFF_S
        self._not_before_s = 0.0
        self.connections_made = 0

    def call(self, command: bytes) -> "asyncio.Future[Reply]":
        """Sends a packed command; the future of its answer fails with redis.RedisError."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Reply] = loop.create_future()
        if self._connection is not None and self._connection.is_open:
            self._connection.send(command, answer)
        elif self._connecting is None and time.monotonic() < self._not_before_s:
            answer.set_exception(redis.ConnectionError("Redis cannot be reached; not tried again"))
        else:
            self._waiting.append((command, answer))
            if self._connecting is None:
                self._connecting = loop.create_task(self._connect())
        return answer

    async def close(self) -> None:
        """Closes the connection; what waits fails."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        self._fail_waiting(redis.ConnectionError("the connection was closed"))
        if self._connection is not None:
            await self._connection.close()

    async def _connect(self) -> None:
        """Connects, introduces itself and sends what waits; or fails what waits."""
        connection: _Connection | None = None
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._opened()
                await self._introduce(connection)
        except (OSError, redis.RedisError, TimeoutError) as error:
            self._note_failure(connection, error)
        except asyncio.CancelledError:
            if connection is not None:
                connection.drop(redis.ConnectionError("the connection was closed"))
            raise
        else:
            self._connection, self._backoff_s = connection, FIRST_BACKOFF_S
            self.connections_made += 1
            waiting, self._waiting = self._waiting, []
            for command, answer in waiting:
                connection.send(command, answer)
        finally:
            self._connecting = None

    def _note_failure(self, connection: "_Connection | None", error: Exception) -> None:
        if connection is not None:
            connection.drop(redis.ConnectionError("the connection was given up"))
        self._not_before_s = time.monotonic() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, LAST_BACKOFF_S)
        self._fail_waiting(_told(error))

    async def _opened(self) -> "_Connection":
        loop, address = asyncio.get_running_loop(), self._address

        def made() -> _Connection:
            return _Connection(loop, self._timeout_s)

        if hasattr(address, "path"):
            _, connection = await loop.create_unix_connection(made, address.path)
        else:
            tls = address.ssl_context.get() if hasattr(address, "ssl_context") else None
            _, connection = await loop.create_connection(made, address.host, address.port, ssl=tls)
        return connection

    async def _introduce(self, connection: "_Connection") -> None:
        """Password and database. Raises redis.RedisError where Redis refuses them."""
        address = self._address
        provider = address.credential_provider
        if provider is not None:
            words = await provider.get_credentials_async()
        else:
            words = [word for word in (address.username, address.password) if word]
        if words:
            await connection.ask("AUTH", *words)
        if address.db:
            await connection.ask("SELECT", str(address.db))

    def _fail_waiting(self, error: redis.RedisError) -> None:
        waiting, self._waiting = self._waiting, []
        for _, answer in waiting:
            _fail(answer, error)


class _Connection(asyncio.Protocol):
    """One connection: what is sent, and whose answer comes next."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout_s: float) -> None:
        self._loop = loop
        self._timeout_s = timeout_s
        self._transport: Any = None
        self._reader: Any = hiredis.Reader(replyError=refusal)
        self._unsent: list[bytes] = []
        self._unanswered: deque[tuple[float, asyncio.Future[Reply]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] = loop.create_future()
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(redis.ConnectionError(f"the connection was lost: {exc or 'Redis closed it'}"))
        if not self._ended.done():
            self._ended.set_result(None)

    def send(self, command: bytes, answer: "asyncio.Future[Reply]") -> None:
        """Queues a command; all of this turn of the loop leave together."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(command)
        due_s = self._loop.time() + self._timeout_s
        self._unanswered.append((due_s, answer))
        if self._timer is None:
            self._timer = self._loop.call_at(due_s, self._look)

    async def ask(self, *words: str) -> Reply:
        """The answer to a command of some words. Raises redis.RedisError."""
        answer: asyncio.Future[Reply] = self._loop.create_future()
        self.send(hiredis.pack_command(words), answer)
        return await answer

    def data_received(self, data: bytes) -> None:
        """Gives answers to those who wait for them, in order."""
        self._reader.feed(data)
        try:
            while (reply := self._reader.gets()) is not False:
                _, answer = self._unanswered.popleft()
                if isinstance(reply, redis.RedisError):
                    _fail(answer, reply)
                elif not answer.done():
                    answer.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            self.drop(redis.InvalidResponse("an answer is not in Redis's protocol"))

    def drop(self, error: redis.RedisError) -> None:
        """Gives the connection up."""
        self._end(error)
        self._transport.abort()

    async def close(self) -> None:
        """Closes the connection and waits until it is."""
        self._end(redis.ConnectionError("the connection was closed"))
        self._transport.abort()
        await self._ended

    def _flush(self) -> None:
        """Sends what was queued; from now on its answers are waited for, however late this is."""
        if self.is_open:
            self._transport.write(b"".join(self._unsent))
            due_s = self._loop.time() + self._timeout_s
            sent = [self._unanswered.pop()[1] for _ in self._unsent]
            self._unanswered.extend((due_s, answer) for answer in reversed(sent))
        self._unsent.clear()

    def _look(self, *, again: bool = False) -> None:
        """Gives the connection up if its oldest command has waited too long.

        Only at the second look: where the loop itself was late, answers lie in the socket.
        """
        self._timer = None
        if not self._unanswered:
            return
        due_s = self._unanswered[0][0]
        if due_s > self._loop.time():
            self._timer = self._loop.call_at(due_s, self._look)
        elif again:
            self.drop(redis.TimeoutError(f"no answer within {self._timeout_s:g} s"))
        else:
            self._timer = self._loop.call_later(SECOND_LOOK_S, self._look_again)

    def _look_again(self) -> None:
        self._look(again=True)

    def _end(self, error: redis.RedisError) -> None:
        self.is_open = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._unanswered:
            _fail(self._unanswered.popleft()[1], error)


def _fail(answer: "asyncio.Future[Reply]", error: redis.RedisError) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # seen: whoever has stopped waiting leaves no complaint behind


def _told(error: Exception) -> redis.RedisError:
    """What a failure to connect is to those who wait."""
    if isinstance(error, redis.RedisError):
        return error
    if isinstance(error, TimeoutError):
        return redis.TimeoutError("Redis did not take the connection in time")
    return redis.ConnectionError(f"Redis cannot be reached: {error}")
