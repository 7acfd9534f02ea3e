"""Reading rows over one connection: together, in time, and again after all that goes wrong."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import numpy as np
import pytest
import redis

from features.redis_config import RedisConfig
from features.redis_pipe import Pipe
from features.redis_store import RedisLink, RedisRowStore
from features.row_reader import POSITION, POSITION_NAMES, AsyncRowReader, RowPosition
from features.store import USERS
from infra.embedded import LOOPBACK, EmbeddedRedis
from tests.proxy import LossyProxy
from tests.serving.harness import row_at

PING = b"*1\r\n$4\r\nPING\r\n"


def with_pipe(url: str, use: Callable[[Pipe], Awaitable[Any]], *, timeout_s: float = 5.0) -> Any:
    async def run() -> Any:
        pipe = Pipe(url, {}, timeout_s=timeout_s)
        try:
            return await use(pipe)
        finally:
            await pipe.close()

    return asyncio.run(run())


async def answered(pipe: Pipe) -> None:
    """Returns once Redis answers again."""
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(redis.RedisError):
                await pipe.call(PING)
                return
            await asyncio.sleep(0.005)


async def failed(pipe: Pipe) -> bool:
    """Whether a call fails for want of a connection."""
    try:
        await pipe.call(PING)
    except redis.ConnectionError:
        return True
    return False


@contextlib.asynccontextmanager
async def scripted(*replies: bytes) -> AsyncIterator[str]:
    """The address of a server that answers each thing it reads with the next reply."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for reply in replies:
            if not await reader.read(65_536):
                break
            writer.write(reply)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(talk, LOOPBACK, 0) as server:
        yield f"redis://{LOOPBACK}:{server.sockets[0].getsockname()[1]}"


def said_by(*replies: bytes) -> Exception:
    """What a call fails with where the server says this."""

    async def run() -> Exception:
        async with scripted(*replies) as url:
            pipe = Pipe(url, {}, timeout_s=5.0)
            with pytest.raises(redis.RedisError) as caught:
                await pipe.call(PING)
            await pipe.close()
            return caught.value

    return asyncio.run(run())


def test_concurrent_calls_get_their_own_answers_over_one_connection(redis_url: str) -> None:
    async def use(pipe: Pipe) -> tuple[list[bytes], int]:
        echoes = [b"*2\r\n$4\r\nECHO\r\n$3\r\n%03d\r\n" % k for k in range(500)]
        return await asyncio.gather(*map(pipe.call, echoes)), pipe.connections_made

    answers, connections = with_pipe(redis_url, use)
    assert answers == [b"%03d" % k for k in range(500)]
    assert connections == 1


def test_password_and_database_are_those_of_the_url(redis_server: EmbeddedRedis) -> None:
    with redis.Redis.from_url(redis_server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">s3cret", "~*", "+@all")
        admin.config_set("requirepass", "s3cret")

    async def where(pipe: Pipe) -> Any:
        return await pipe.call(b"*2\r\n$6\r\nCLIENT\r\n$4\r\nLIST\r\n")

    address = redis_server.url.removeprefix("redis://").split("/")[0]
    assert b"db=3 " in with_pipe(f"redis://reader:s3cret@{address}/3", where)
    assert b"user=default" in with_pipe(f"redis://:s3cret@{address}", where)
    with pytest.raises(redis.AuthenticationError):
        with_pipe(f"redis://reader:wrong@{address}", where)
    with pytest.raises(redis.AuthenticationError):
        with_pipe(f"redis://{address}", where)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (b"-LOADING Redis is loading\r\n", redis.BusyLoadingError),
        (b"-READONLY You can't write\r\n", redis.ReadOnlyError),
        (b"-MISCONF errors writing to disk\r\n", redis.ResponseError),
        (b"nonsense\r\n", redis.InvalidResponse),
    ],
)
def test_refusals_and_nonsense_are_errors_of_redis(reply: bytes, kind: Any) -> None:
    assert isinstance(said_by(reply), kind)


def test_server_that_says_more_than_was_asked_is_asked_over_another_connection() -> None:
    async def run() -> int:
        async with scripted(b"+PONG\r\n+and more\r\n") as url:
            pipe = Pipe(url, {}, timeout_s=5.0)
            assert [await pipe.call(PING) for _ in range(3)] == [b"PONG"] * 3
            await pipe.close()
            return pipe.connections_made

    assert asyncio.run(run()) == 3


def test_time_that_a_command_waits_for_the_loop_is_not_taken_from_redis() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for pause_s in (0.0, 0.6):
            await reader.read(65_536)
            await asyncio.sleep(pause_s)
            writer.write(b"+PONG\r\n")
        await reader.read()
        writer.close()

    async def run() -> list[Any]:
        async with await asyncio.start_server(talk, LOOPBACK, 0) as server:
            port = server.sockets[0].getsockname()[1]
            pipe = Pipe(f"redis://{LOOPBACK}:{port}", {}, timeout_s=1.0)
            first = await pipe.call(PING)
            second = pipe.call(PING)
            time.sleep(0.8)  # the loop has something else to do
            answers = [first, await second]
            await pipe.close()
            return answers

    assert asyncio.run(run()) == [b"PONG", b"PONG"]


def test_connection_that_falls_silent_is_given_up_for_another(redis_server: EmbeddedRedis) -> None:
    with LossyProxy(redis_server.port) as proxy:

        async def use(pipe: Pipe) -> int:
            assert await pipe.call(PING) == b"PONG"
            assert proxy.fall_silent() == 1
            answers = await asyncio.gather(
                *(pipe.call(PING) for _ in range(5)), return_exceptions=True
            )
            assert {type(answer) for answer in answers} == {redis.TimeoutError}
            await answered(pipe)
            return pipe.connections_made

        assert with_pipe(f"redis://{LOOPBACK}:{proxy.port}", use, timeout_s=0.1) == 2


def test_server_that_dies_fails_what_waits_and_is_found_again(redis_server: EmbeddedRedis) -> None:
    async def use(pipe: Pipe) -> None:
        await pipe.call(PING)
        await asyncio.to_thread(redis_server.kill)
        while not await failed(pipe):
            pass
        with pytest.raises(redis.ConnectionError):  # nobody listens; then: not tried again yet
            await pipe.call(PING)
        await asyncio.to_thread(redis_server.start)
        await answered(pipe)

    with_pipe(redis_server.url, use)


def test_call_that_nobody_waits_for_takes_nobody_elses_answer(redis_url: str) -> None:
    async def use(pipe: Pipe) -> Any:
        await pipe.call(PING)
        lost = pipe.call(b"*2\r\n$4\r\nECHO\r\n$4\r\nlost\r\n")
        kept = pipe.call(b"*2\r\n$4\r\nECHO\r\n$4\r\nkept\r\n")
        lost.cancel()
        return await kept

    assert with_pipe(redis_url, use) == b"kept"


def test_position_is_what_the_whole_row_says(redis_url: str) -> None:
    config, row = RedisConfig(redis_url), row_at("ann", offset=12, partition=3, logged_at_ms=99)
    link = RedisLink(config)
    RedisRowStore(link, USERS, config).write(row)
    link.close()

    async def read() -> tuple[Any, ...]:
        reader = AsyncRowReader(config, USERS, timeout_s=5.0)
        ids = (int(row["id"][0]), 1)
        found = [(await reader.read(id_), await reader.read_position(id_)) for id_ in ids]
        await reader.close()
        return tuple(found)

    (whole, position), absent = asyncio.run(read())
    assert whole.tobytes() == row.tobytes()
    assert whole.flags.writeable
    assert position == RowPosition(3, 12, 99)
    assert absent == (None, None)


def test_position_lies_at_the_beginning_of_the_record() -> None:
    row = row_at("ann", offset=2**40, partition=7, logged_at_ms=2**41)
    said = POSITION.unpack(row.tobytes()[: POSITION.size])
    assert said == tuple(int(row[name][0]) for name in POSITION_NAMES)
    assert np.dtype(row.dtype).itemsize > POSITION.size
