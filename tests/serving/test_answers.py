"""A request that comes again gets the answer that it had."""

import asyncio
import uuid
from collections import Counter

import pytest

from features.answer_store import RedisAnswers
from features.redis_config import RedisConfig
from serving.answers import Answers, Asked
from serving.errors import RepeatedRequestIdError


class Steady:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Maker:
    """Makes another answer each time, and counts."""

    def __init__(self) -> None:
        self.made = Counter()
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def prepare(self) -> str:
        self.made["prepared"] += 1
        await self.may_go.wait()
        return "viewer"

    def make(self, prepared: str) -> bytes:
        assert prepared == "viewer"
        self.made["made"] += 1
        return b"answer %d" % self.made["made"]

    def once(self, answers: Answers, asked: Asked):
        return answers.once(asked, self.prepare, self.make)


class SharedDict:
    """What two processes would share."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}

    async def look_up(self, key: bytes) -> bytes | None:
        return self.entries.get(key)

    def keep(self, key: bytes, value: bytes, keep_s: float) -> None:
        assert keep_s > 0
        self.entries.setdefault(key, value)


def asked(request_id: str = "r1", digest: int = 1, user: str = "ann") -> Asked:
    return Asked((user, ""), request_id, bytes([digest]) * 16)


def run(test):
    """Runs a coroutine function as a test."""
    return asyncio.run(test())


def test_same_request_gets_the_same_bytes_and_is_made_once():
    async def test():
        answers, maker = Answers(), Maker()
        first = await maker.once(answers, asked())
        assert await maker.once(answers, asked()) == first == b"answer 1"
        assert await maker.once(answers, asked(user="bob")) == b"answer 2"
        assert await maker.once(answers, asked("r2")) == b"answer 3"
        assert maker.made == {"prepared": 3, "made": 3}

    run(test)


def test_another_request_under_the_same_id_is_refused():
    async def test():
        answers, maker = Answers(), Maker()
        await maker.once(answers, asked())
        with pytest.raises(RepeatedRequestIdError, match=r"request_id must be new.*got 'r1'"):
            await maker.once(answers, asked(digest=2))

    run(test)


def test_requests_at_the_same_time_wait_for_the_first():
    async def test():
        answers, maker = Answers(), Maker()
        maker.may_go.clear()
        tasks = [asyncio.create_task(maker.once(answers, asked())) for _ in range(5)]
        await asyncio.sleep(0)
        maker.may_go.set()
        assert await asyncio.gather(*tasks) == [b"answer 1"] * 5
        assert maker.made == {"prepared": 1, "made": 1}

    run(test)


def test_a_cancelled_or_failed_first_leaves_the_answer_to_the_next():
    async def test():
        answers, maker = Answers(), Maker()
        maker.may_go.clear()
        first = asyncio.create_task(maker.once(answers, asked()))
        await asyncio.sleep(0)
        second = asyncio.create_task(maker.once(answers, asked()))
        await asyncio.sleep(0)
        first.cancel()
        maker.may_go.set()
        assert await second == b"answer 1"
        assert first.cancelled()

        async def broken() -> str:
            raise OSError("no row")

        with pytest.raises(OSError, match="no row"):
            await answers.once(asked("r2"), broken, maker.make)
        assert await maker.once(answers, asked("r2")) == b"answer 2"

    run(test)


def test_answers_are_forgotten_by_age_by_number_and_by_bytes():
    async def test():
        steady, maker = Steady(), Maker()
        answers = Answers(keep_s=60.0, max_answers=3, max_bytes=30, steady_s=steady)
        for k in range(5):
            await maker.once(answers, asked(f"r{k}"))
        assert await maker.once(answers, asked("r2")) == b"answer 3"
        assert await maker.once(answers, asked("r0")) == b"answer 6"
        steady.now_s += 61
        assert await maker.once(answers, asked("r0")) == b"answer 7"
        large = await answers.once(asked("large"), maker.prepare, lambda _: bytes(31))
        assert await answers.once(asked("large"), maker.prepare, lambda _: b"") != large

    run(test)


def test_processes_that_share_a_store_answer_alike():
    async def test():
        shared, maker = SharedDict(), Maker()
        here, there = Answers(shared=shared), Answers(shared=shared)
        first = await maker.once(here, asked())
        await asyncio.sleep(0)  # what is kept after the answer
        assert await maker.once(there, asked()) == first
        assert maker.made["made"] == 1
        with pytest.raises(RepeatedRequestIdError):
            await maker.once(Answers(shared=shared), asked(digest=2))

    run(test)


def test_servers_share_answers_in_redis_and_do_without_it(redis_url):
    async def test():
        config = RedisConfig(redis_url, uuid.uuid4().hex)
        stores = [RedisAnswers(config), RedisAnswers(config)]
        here, there = (Answers(shared=store) for store in stores)
        maker = Maker()
        first = await maker.once(here, asked())
        await asyncio.sleep(0)
        while await stores[1].look_up(asked().key) is None:
            await asyncio.sleep(0.001)
        assert await maker.once(there, asked()) == first
        with pytest.raises(RepeatedRequestIdError):
            await maker.once(Answers(shared=stores[1]), asked(digest=2))
        nowhere = RedisAnswers(RedisConfig("redis://127.0.0.1:1"))
        assert await maker.once(Answers(shared=nowhere), asked()) == b"answer 2"
        await asyncio.sleep(0)
        for store in (*stores, nowhere):
            await store.close()

    run(test)
