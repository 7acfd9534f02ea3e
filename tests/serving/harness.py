"""A real server on a port of its own, in a thread, with honest stand-ins for what is not tested."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import grpc
import numpy as np

from features import user_row
from features.clock import Clock
from features.compiled import Rows
from features.events import EVENT
from features.ids import id_hash, viewer_hash
from features.log import LogConfig
from features.position import Position
from features.row_reader import AsyncRowReader, RowPosition
from features.vocabulary import EventType
from infra.topics import Topic, ensure_topics
from serving.admin import AdminServicer
from serving.client import Client
from serving.guard.guard import Guard
from serving.repeats import Repeats
from serving.server import Server, serve
from serving.servicer import IngestServicer, RecommendationServicer
from serving.settings import ServingSettings
from serving.slate import (
    Decision,
    Explanation,
    Query,
    Slate,
    SlateItem,
    UnknownItemError,
    Viewer,
)
from serving.slate_cache import SlateCache
from serving.track import Tracker, track_writer
from serving.viewers import ReadsRow, ViewerReader
from tests.clock import START_MS, FakeClock

TOPIC = "interactions"
NOWHERE = LogConfig("127.0.0.1:1")
TITLES = {"tt1": "Heat", "tt2": "Ronin", "tt3": "Spy Game"}


@dataclass
class FakeRecommender:
    """Recommends the three titles there are; says what it was told of the viewer."""

    failure: Exception | None = None
    takes_s: float = 0.0
    viewers: list[Viewer] = field(default_factory=list)

    def recommend(self, query: Query, viewer: Viewer, now_ms: int) -> Slate:
        self.viewers.append(viewer)
        self._work()
        barred = {*map(id_hash, query.exclude_item_ids), *query.shown}
        items = [self._item(id_) for id_ in TITLES if id_hash(id_) not in barred]
        return Slate(
            tuple(items[: query.count]),
            bundle_version="b1",
            feature_version="f1",
            n_candidates=len(TITLES),
            degraded=() if now_ms else ("clock",),
            feature_names=("item_trend", "user_plays"),
            has_more=len(items) > query.count,
        )

    def similar_items(self, item_id: str, count: int) -> tuple[SlateItem, ...]:
        self._work()
        if item_id not in TITLES:
            raise UnknownItemError(item_id)
        return tuple(self._item(id_) for id_ in TITLES if id_ != item_id)[:count]

    def trending(self, query: Query, now_ms: int) -> tuple[SlateItem, ...]:  # noqa: ARG002
        self._work()
        titles = () if "Cooking" in query.genres else TITLES
        return tuple(self._item(id_) for id_ in titles)[: query.count]

    def continue_watching(
        self,
        viewer: Viewer,
        count: int,
        now_ms: int,  # noqa: ARG002
        query: Query | None = None,  # noqa: ARG002
    ) -> tuple[SlateItem, ...]:
        self._work()
        begun = [] if viewer.row is None else ["tt3", "tt1"]
        return tuple(replace(self._item(id_), progress=0.5) for id_ in begun)[:count]

    def explain(self, query: Query, viewer: Viewer, item_id: str, now_ms: int) -> Explanation:
        shown = [item.item_id for item in self.recommend(query, viewer, now_ms).items]
        if item_id not in TITLES:
            raise UnknownItemError(item_id)
        is_shown = item_id in shown
        return Explanation(
            self._item(item_id),
            shown=is_shown,
            slot=shown.index(item_id) if is_shown else 0,
            removed_by=("excluded",) if item_id in query.exclude_item_ids else (),
            sources=("trending",),
            rank=1,
            feature_names=("item_trend", "user_plays"),
            summary=f"{TITLES[item_id]} is {'' if is_shown else 'not '}shown",
        )

    def _work(self) -> None:
        if self.failure is not None:
            raise self.failure
        until = time.perf_counter() + self.takes_s
        while time.perf_counter() < until:
            pass

    def _item(self, item_id: str) -> SlateItem:
        return SlateItem(
            item_id,
            TITLES[item_id],
            score=0.5,
            source="trending",
            arm="popular",
            propensity=0.25,
            cause_item_id="tt9",
            cause_title="Sneakers",
            reason="because you watched Sneakers",
            features=np.array([1.0, 2.0], np.float32),
        )


@dataclass
class FakeRows:
    """Rows in a dict, read as a server reads them."""

    rows: dict[int, Rows] = field(default_factory=dict)
    failure: Exception | None = None
    reads: int = 0
    seen: set[int] = field(default_factory=set)  # ids that were asked for

    async def read(self, id_: int) -> Rows | None:
        self.reads += 1
        self.seen.add(id_)
        if self.failure is not None:
            raise self.failure
        return self.rows.get(id_)

    async def read_position(self, id_: int) -> RowPosition | None:
        row = await self.read(id_)
        if row is None or row["partition"][0] < 0:
            return None
        return RowPosition(*(int(row[name][0]) for name in RowPosition._fields))

    def put(self, row: Rows) -> None:
        self.rows[int(row["id"][0])] = row


def row_at(user_id: str, offset: int, partition: int = 0, logged_at_ms: int = START_MS) -> Rows:
    """`(1,)` row of a viewer whose last event is a play at this place of the log."""
    event = np.zeros(1, EVENT)
    event["item"], event["event"], event["type"] = 7, offset + 1, EventType.PLAY
    event["at_ms"] = event["logged_at_ms"] = logged_at_ms
    event["partition"], event["offset"] = partition, offset
    row = user_row.new_row()
    row["id"] = viewer_hash(user_id)
    user_row.apply(row[0], event[0])
    return row


def create_topic(config: LogConfig, name: str, partitions: int = 1) -> None:
    """Creates a topic where it is missing."""
    ensure_topics({"bootstrap.servers": config.bootstrap}, [Topic(name, partitions)])


def at(offset: int, partition: int = 0) -> Position:
    """A place in the log of interactions."""
    return Position(TOPIC, partition, offset)


@dataclass
class Parts:
    """What a server is made of; a test replaces what it is about."""

    settings: ServingSettings = field(
        default_factory=lambda: ServingSettings(  # a busy machine is no overload
            port=0, delay_target_ms=1_000, delay_limit_ms=10_000
        )
    )
    log: LogConfig = NOWHERE
    topic: str = TOPIC
    recommender: FakeRecommender = field(default_factory=FakeRecommender)
    rows: Callable[[], ReadsRow] = FakeRows  # made in the loop of the server
    clock: Clock = field(default_factory=FakeClock)
    record: Callable[[Decision], None] | None = None
    max_in_flight: int = 2_000
    cache: SlateCache | None = None
    admin: AdminServicer | None = None
    guard: Guard | None = None
    may_be_warm: threading.Event = field(default_factory=threading.Event)
    decisions: list[Decision] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may_be_warm.set()


class Running:
    """A server that runs in a thread."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._port: Future[int] = Future()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.port = self._port.result(30)

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def channel(self) -> grpc.Channel:
        return grpc.insecure_channel(self.target)

    def n_tasks(self) -> int:
        """Tasks in the loop of the server."""
        return len(asyncio.all_tasks(self._loop))

    def stop(self) -> None:
        """Begins to drain; returns at once."""
        self.parts.may_be_warm.set()
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if self._port.done():
                raise
            self._port.set_exception(error)

    async def _main(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await run_parts(self.parts, self._port.set_result, self._stop)


async def run_parts(parts: Parts, listening: Callable[[int], None], stop: asyncio.Event) -> None:
    """Puts a server together and runs it to its end."""
    settings = parts.settings
    tracker = Tracker(
        track_writer(parts.log, settings.track_timeout_ms),
        parts.topic,
        parts.clock,
        max_in_flight=parts.max_in_flight,
        timeout_s=settings.track_timeout_ms / 1_000,
    )
    tracker.start()
    rows = parts.rows()
    viewers = ViewerReader(rows, parts.topic)
    record = parts.record or parts.decisions.append
    repeats = None
    if parts.cache is not None:
        repeats = Repeats(
            parts.cache, viewers, record, lambda: 1_500, parts.clock, parts.clock, parts.topic
        )
    server = Server(
        settings,
        IngestServicer(tracker, stream_idle_s=settings.stream_idle_s),
        RecommendationServicer(
            parts.recommender,
            viewers,
            record,
            lambda: 1_500,
            parts.clock,
            parts.clock,
            topic=parts.topic,
            default_wait_ms=settings.default_wait_ms,
            repeats=repeats,
        ),
        parts.admin,
        parts.guard,
    )

    async def warm() -> None:
        await asyncio.to_thread(parts.may_be_warm.wait)

    try:
        await serve(server, warm=warm, listening=listening, stop=stop)
    finally:
        await tracker.close()
        if isinstance(rows, AsyncRowReader):
            await rows.close()


class TalkativeRows(FakeRows):
    """Says when somebody waits for a row."""

    async def read(self, id_: int) -> Rows | None:
        if self.reads == 3:
            print("waiting", flush=True)  # noqa: T201
        return await super().read(id_)


def run_until_signal() -> None:
    """A server as a process of its own, which says its port."""

    def say(port: int) -> None:
        print("port", port, flush=True)  # noqa: T201

    asyncio.run(run_parts(Parts(rows=TalkativeRows), say, asyncio.Event()))


@contextmanager
def running(parts: Parts | None = None) -> Iterator[Running]:
    """A server for the length of a test."""
    server = Running(parts or Parts())
    try:
        yield server
    finally:
        server.stop()
        server.join()


@contextmanager
def served(parts: Parts | None = None) -> Iterator[tuple[Running, Client]]:
    """A server and a client of it."""
    with running(parts) as server, Client(server.target, timeout_s=10.0) as client:
        yield server, client


def eventually(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    """Returns once a condition holds; fails when it does not in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "the condition did not come true"
        time.sleep(0.005)
