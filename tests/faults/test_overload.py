"""More than can be answered, and connections that only cost: whoever behaves is still answered.

The recommender sleeps for as long as an answer takes, so that what a server can do depends on that
alone, and not on the machine.
"""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import grpc
import pytest
from headrace.v1 import recommender_pb2
from headrace.v1.recommender_pb2_grpc import RecommendationServiceStub

from serving.client import Client
from serving.guard.guard import Guard
from serving.guard.interceptor import SILENT_CALLS
from serving.settings import ServingSettings
from tests.serving.harness import FakeRecommender, Parts, Running, eventually, running

TAKES_S = 0.03  # so that 33 calls a second can be answered
DEADLINE_S = 2.0


class SlowRecommender(FakeRecommender):
    """Takes its time without taking the processor."""

    def _work(self) -> None:
        time.sleep(self.takes_s)


@dataclass
class Outcome:
    """How one call ended."""

    code: str
    took_s: float
    has_hint: bool


async def call(stub: Any) -> Outcome:
    began_s = time.monotonic()
    code, trailing = "OK", ()
    try:
        await stub.Recommend(recommender_pb2.RecommendRequest(user_id="ann"), timeout=DEADLINE_S)
    except grpc.aio.AioRpcError as error:
        code, trailing = error.code().name, tuple(error.trailing_metadata() or ())
    hints = [value for name, value in trailing if name == "grpc-retry-pushback-ms"]
    return Outcome(code, time.monotonic() - began_s, bool(hints))


async def in_turn(target: str, n_clients: int, seconds: float) -> float:
    """Answers a second that clients get who each wait for one before they ask for the next."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = RecommendationServiceStub(channel)  # type: ignore[no-untyped-call]
        ends_s, answered = time.monotonic() + seconds, 0

        async def ask() -> None:
            nonlocal answered
            while time.monotonic() < ends_s:
                answered += (await call(stub)).code == "OK"

        await asyncio.gather(*(ask() for _ in range(n_clients)))
        return answered / seconds


async def at_a_rate(target: str, rate: float, seconds: float) -> list[Outcome]:
    """Outcomes of calls that come whether others have been answered or not."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub: Any = RecommendationServiceStub(channel)  # type: ignore[no-untyped-call]
        began_s, calls = time.monotonic(), []
        for k in range(int(rate * seconds)):
            await asyncio.sleep(max(began_s + k / rate - time.monotonic(), 0))
            calls.append(asyncio.create_task(call(stub)))
        return await asyncio.gather(*calls)


@pytest.mark.long  # a machine that is busy with other tests changes what can be answered
@pytest.mark.parametrize("transport", ["grpc", "lean"])
def test_three_times_what_can_be_answered_leaves_four_fifths_of_the_answers(
    transport: Literal["grpc", "lean"],
) -> None:
    settings = ServingSettings(port=0, delay_target_ms=150, delay_limit_ms=400, transport=transport)
    guard = Guard()
    recommender = SlowRecommender(takes_s=TAKES_S)
    with running(Parts(settings=settings, recommender=recommender, guard=guard)) as server:
        with Client(server.target, timeout_s=10) as client:
            assert client.recommend("ann").items  # what the first call alone takes is over
        peak = asyncio.run(in_turn(server.target, 2, 2.0))
        eventually(lambda: guard.load.level == 0)
        seconds = 4.0
        outcomes = asyncio.run(at_a_rate(server.target, 3 * peak, seconds))
        by_code = Counter(outcome.code for outcome in outcomes)
        assert by_code["OK"] / seconds >= 0.8 * peak, by_code
        refused = [outcome for outcome in outcomes if outcome.code == "RESOURCE_EXHAUSTED"]
        assert len(refused) > len(outcomes) / 4, by_code
        assert all(outcome.has_hint for outcome in refused)
        assert sorted(outcome.took_s for outcome in refused)[len(refused) // 2] < DEADLINE_S / 2
        eventually(lambda: guard.load.level == 0)
        assert guard.running == 0


def test_answers_become_cheaper_before_any_is_refused() -> None:
    settings = ServingSettings(port=0, delay_target_ms=20, delay_limit_ms=10_000)
    guard, seen = Guard(), set()
    recommender = SlowRecommender(takes_s=TAKES_S)
    parts = Parts(settings=settings, recommender=recommender, guard=guard)
    parts.record = lambda _: seen.add(guard.load.level)
    with running(parts) as server:
        with Client(server.target, timeout_s=10) as client:
            assert client.recommend("ann").items
        outcomes = asyncio.run(at_a_rate(server.target, 60, 1.5))
        assert {outcome.code for outcome in outcomes} <= {"OK", "DEADLINE_EXCEEDED"}
        assert {1, 2} <= seen
        eventually(lambda: guard.load.level == 0)


@contextmanager
def healthy(server: Running) -> Iterator[list[float]]:
    """A client that behaves, in the background; every call of it must be answered."""
    took_s: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        with Client(server.target, timeout_s=10) as client:
            while not ended.is_set():
                began_s = time.monotonic()
                assert client.recommend("ann").items
                took_s.append(time.monotonic() - began_s)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            eventually(lambda: bool(took_s) or asking.done())
            yield took_s
        finally:
            before = len(took_s)
            eventually(lambda: len(took_s) > before + 20 or asking.done())
            ended.set()
            asking.result(30)


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
PING = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"headrace"


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has hung up; what it has said until then is thrown away."""
    connection.settimeout(0.01)
    try:
        while connection.recv(65_536):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def connected(server: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


@pytest.fixture(scope="module", params=["grpc", "lean"])
def besieged(request: pytest.FixtureRequest) -> Iterator[tuple[Running, Guard]]:
    guard = Guard(max_concurrent=64)
    settings = ServingSettings(
        port=0,
        max_concurrent=64,
        stream_idle_s=0.5,
        connection_idle_s=1,
        max_connections=64,
        transport=request.param,
    )
    with running(Parts(settings=settings, guard=guard)) as server:
        yield server, guard


def test_a_connection_that_pings_without_end_is_closed(besieged: tuple[Running, Guard]) -> None:
    server, _ = besieged
    with healthy(server), connected(server) as connection:
        connection.sendall(PREFACE)

        def is_closed_on() -> bool:
            try:
                connection.sendall(PING * 10)
            except OSError:
                return True
            return is_closed(connection)

        eventually(is_closed_on)


def test_connections_without_calls_are_closed(besieged: tuple[Running, Guard]) -> None:
    server, _ = besieged
    with healthy(server), ExitStack() as stack:
        idle = [stack.enter_context(connected(server)) for _ in range(20)]
        for connection in idle:
            connection.sendall(PREFACE)
        eventually(lambda: all(is_closed(connection) for connection in idle))


def test_no_more_connections_are_taken_than_may(besieged: tuple[Running, Guard]) -> None:
    server, _ = besieged
    with healthy(server), ExitStack() as stack:
        many = [stack.enter_context(connected(server)) for _ in range(200)]
        eventually(lambda: sum(is_closed(connection) for connection in many) >= 200 - 64)


def test_calls_that_send_nothing_take_no_place_from_those_that_do(
    besieged: tuple[Running, Guard],
) -> None:
    server, guard = besieged
    silence = threading.Event()

    def nothing() -> Iterator[bytes]:
        silence.wait(60)
        yield from ()

    methods = ["RecommendationService/Recommend", "IngestService/TrackMany"]
    with server.channel() as channel, healthy(server):
        calls: list[Any] = [
            channel.stream_unary(f"/headrace.v1.{method}").future(nothing())
            for method in methods
            for _ in range(80)
        ]
        eventually(lambda: sum(call.done() for call in calls) >= len(calls) - SILENT_CALLS)
        for call in calls:
            call.cancel()
        silence.set()
    eventually(lambda: guard.running == 0)
