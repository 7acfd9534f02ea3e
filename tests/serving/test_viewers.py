"""Reading a viewer: the row, the wait, and a store that is away."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import pytest
import redis

from features.compiled import Rows
from features.position import Position
from features.redis_config import RedisConfig
from features.redis_store import RedisLink, RedisRowStore
from features.row_reader import AsyncRowReader
from features.store import USERS
from infra.embedded import EmbeddedRedis
from serving.slate import Query
from serving.viewers import ViewerReader
from tests.serving.harness import TOPIC, FakeRows, Parts, at, eventually, row_at, served

T = TypeVar("T")


def write(url: str, *rows: Rows) -> None:
    config = RedisConfig(url)
    link = RedisLink(config)
    for row in rows:
        RedisRowStore(link, USERS, config).write(row)
    link.close()


def with_redis(url: str, use: Callable[[ViewerReader], Awaitable[T]]) -> T:
    async def run() -> T:
        rows = AsyncRowReader(RedisConfig(url), USERS, timeout_s=1.0)
        try:
            return await use(ViewerReader(rows, TOPIC))
        finally:
            await rows.close()

    return asyncio.run(run())


def test_row_is_read_as_it_was_written(redis_url: str) -> None:
    row = row_at("ann", offset=12, partition=1)
    write(redis_url, row)
    viewer = with_redis(redis_url, lambda reader: reader.read(Query("ann")))
    assert viewer.row is not None
    assert viewer.row.tobytes() == row.tobytes()
    assert (viewer.degraded, viewer.waited_ms, viewer.after_included) == ((), 0, True)


def test_unknown_viewer_has_no_row_and_nothing_is_missing(redis_url: str) -> None:
    viewer = with_redis(redis_url, lambda reader: reader.read(Query("nobody")))
    assert (viewer.row, viewer.degraded) == (None, ())


def test_profile_has_a_row_of_its_own(redis_url: str) -> None:
    write(redis_url, row_at("ann", offset=12))
    viewer = with_redis(redis_url, lambda reader: reader.read(Query("ann", profile_id="kids")))
    assert viewer.row is None


def test_included_names_the_position_of_the_row() -> None:
    reader = ViewerReader(FakeRows(), TOPIC)
    rows = FakeRows()
    rows.put(row_at("ann", offset=12, partition=3))
    viewer = asyncio.run(ViewerReader(rows, TOPIC).read(Query("ann")))
    assert reader.included(viewer) == (Position(TOPIC, 3, 12),)
    assert reader.included(asyncio.run(reader.read(Query("bob")))) == ()


def test_row_that_is_written_later_is_awaited(redis_url: str) -> None:
    async def use(reader: ViewerReader) -> tuple[object, ...]:
        reading = asyncio.create_task(reader.read(Query("ann", after=at(12), wait_ms=1_000)))
        await asyncio.sleep(0.02)
        assert not reading.done()
        await asyncio.to_thread(write, redis_url, row_at("ann", offset=13))
        viewer = await reading
        return viewer.after_included, viewer.row is not None, viewer.waited_ms > 0

    assert with_redis(redis_url, use) == (True, True, True)


def test_limit_of_the_wait_is_the_smaller_of_what_was_asked_and_what_is_left() -> None:
    reader = ViewerReader(FakeRows(), TOPIC)

    async def waits(wait_ms: int, budget_s: float) -> int:
        query = Query("ann", after=at(12), wait_ms=wait_ms)
        viewer = await reader.read(query, budget_s)
        assert not viewer.after_included
        return viewer.waited_ms

    assert 20 <= asyncio.run(waits(20, 60.0)) < 900
    assert 20 <= asyncio.run(waits(1_000, 0.02)) < 900
    assert asyncio.run(waits(1_000, -1.0)) == 0


@dataclass
class Seconds:
    """A monotonic clock that stands still until a test moves it."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_store_that_failed_is_left_alone_and_then_tried_by_one() -> None:
    rows, seconds = FakeRows(failure=redis.ConnectionError("gone")), Seconds()
    reader = ViewerReader(rows, TOPIC, rest_s=0.25, monotonic_s=seconds)

    async def read() -> tuple[str, ...]:
        return (await reader.read(Query("ann"))).degraded

    assert asyncio.run(read()) == ("redis",)
    assert asyncio.run(read()) == ("redis",)
    assert rows.reads == 1
    tries = 1
    for rest_s in (0.03, 0.06, 0.12, 0.24, 0.25, 0.25):
        seconds.now_s += rest_s - 0.005
        assert asyncio.run(read()) == ("redis",)
        assert rows.reads == tries
        seconds.now_s += 0.01
        assert asyncio.run(read()) == ("redis",)
        tries += 1
        assert rows.reads == tries
    seconds.now_s += 0.26
    rows.failure = None
    assert asyncio.run(read()) == ()
    assert asyncio.run(read()) == ()
    assert rows.reads == tries + 2


def test_a_single_late_answer_costs_few_slates() -> None:
    rows, seconds = FakeRows(failure=redis.TimeoutError("late")), Seconds()
    reader = ViewerReader(rows, TOPIC, monotonic_s=seconds)
    assert asyncio.run(reader.read(Query("ann"))).degraded == ("redis",)
    rows.failure = None
    seconds.now_s += 0.04
    assert asyncio.run(reader.read(Query("ann"))).degraded == ()


def test_only_one_read_tries_a_store_that_hangs() -> None:
    seconds = Seconds()

    class Hangs(FakeRows):
        async def read(self, id_: int) -> Rows | None:
            if self.reads >= 1:
                self.reads += 1
                await asyncio.sleep(0.02)
            return await super().read(id_)

    rows = Hangs(failure=redis.TimeoutError("hangs"))
    reader = ViewerReader(rows, TOPIC, monotonic_s=seconds)

    async def read_many() -> list[tuple[str, ...]]:
        await reader.read(Query("ann"))
        seconds.now_s += 1
        viewers = await asyncio.gather(*(reader.read(Query("ann")) for _ in range(10)))
        return [viewer.degraded for viewer in viewers]

    assert asyncio.run(read_many()) == [("redis",)] * 10
    assert rows.reads == 3  # the first, and the one attempt counted on its way in and out


def test_failure_while_waiting_ends_the_wait_with_what_was_read() -> None:
    rows = FakeRows()
    rows.put(row_at("ann", offset=3))

    async def run() -> None:
        reader = ViewerReader(rows, TOPIC)
        reading = asyncio.create_task(reader.read(Query("ann", after=at(9), wait_ms=1_000)))
        while rows.reads < 3:
            await asyncio.sleep(0)
        rows.failure = redis.TimeoutError("stalls")
        viewer = await reading
        assert viewer.degraded == ("redis",)
        assert viewer.row is not None
        assert not viewer.after_included

    asyncio.run(run())


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_slates_go_on_without_redis_and_recover_by_themselves(
    redis_server: EmbeddedRedis, how: str
) -> None:
    write(redis_server.url, row_at("ann", offset=5))
    parts = Parts(rows=lambda: AsyncRowReader(RedisConfig(redis_server.url), USERS, timeout_s=0.2))
    with served(parts) as (_, client):
        assert client.recommend("ann").freshness.included == (at(5),)
        getattr(redis_server, how)()
        for _ in range(20):
            slate = client.recommend("ann", after=at(6))
            assert (slate.degraded, slate.freshness.after_included) == (("redis",), False)
            assert len(slate.items) == 3
        redis_server.start()
        write(redis_server.url, row_at("ann", offset=6))
        eventually(lambda: client.recommend("ann").degraded == ())
        assert client.recommend("ann").freshness.included == (at(6),)


def test_redis_that_stalls_costs_one_time_out_and_not_one_for_each_slate(
    redis_server: EmbeddedRedis,
) -> None:
    write(redis_server.url, row_at("ann", offset=5))
    parts = Parts(rows=lambda: AsyncRowReader(RedisConfig(redis_server.url), USERS, timeout_s=0.1))
    with redis.Redis.from_url(redis_server.url) as admin, served(parts) as (_, client):
        assert client.recommend("ann").degraded == ()
        admin.execute_command("CLIENT", "PAUSE", 5_000, "ALL")
        started_s = time.monotonic()
        answers = [client.recommend("ann").degraded for _ in range(50)]
        assert set(answers) == {("redis",)}
        assert time.monotonic() - started_s < 50 * 0.1
