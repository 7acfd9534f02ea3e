"""The catalogue changes while the server answers."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager

import numpy as np
import pytest

from features import item_row
from features.clock import WallClock
from features.codec import encode_catalog_item
from features.events import CatalogItem
from features.ids import id_hash
from features.item_updates import ItemUpdate
from features.log import LogConfig, LogWriter
from infra.embedded import EmbeddedBroker
from serving.bundle import Bundle
from serving.catalogue import CatalogueTable
from serving.live_catalogue import LiveCatalogue, between_requests
from serving.mirror import ItemMirror
from serving.recommender import Recommender
from serving.slate import Query, Viewer
from tests.clock import START_MS
from tests.serving import engine
from tests.serving.harness import create_topic, eventually

HEAT = CatalogItem("tt1", "Heat", 1995, ("Crime",))
RONIN = CatalogItem("tt2", "Ronin", 1998, ("Action",))
EVERYTHING = 100


class Titles:
    """Writes titles to a topic as producers do."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.config, self.topic = LogConfig(bootstrap), topic
        create_topic(self.config, topic)
        self._writer = LogWriter(self.config, **{"log_level": 0})

    def put(self, *items: CatalogItem) -> None:
        for item in items:
            self._writer.append(self.topic, item.item_id.encode(), encode_catalog_item(item))
        self._writer.flush()

    def put_bytes(self, key: bytes, value: bytes | None) -> None:
        self._writer.append(self.topic, key, value)
        self._writer.flush()


class Serving:
    """A recommender over a catalogue that is followed."""

    def __init__(self, titles: Titles, room: int, bundle: Bundle | None = None) -> None:
        self.live = LiveCatalogue(titles.config, titles.topic, WallClock(), lambda _: room)
        table = self.live.read()
        self.mirror = ItemMirror.over(table.ids, table.slots)
        self.recommender = Recommender(table, self.mirror, bundle)
        self._one_at_a_time = threading.RLock()

    @property
    def table(self) -> CatalogueTable:
        return self.recommender.shelf.table

    def slate(self, **query: object) -> dict[str, str]:
        """Titles of a slate that has room for all, by id."""
        query = {"count": EVERYTHING, **query}
        with self._one_at_a_time:
            found = self.recommender.recommend(Query("ann", **query), Viewer(None), START_MS)
        return {item.item_id: item.title for item in found.items}

    def call(self, function: Callable[[], None]) -> "Future[None]":
        future: Future[None] = Future()
        with self._one_at_a_time:
            future.set_result(function())
        return future


@contextmanager
def serving(titles: Titles, room: int = 8, bundle: Bundle | None = None) -> Iterator[Serving]:
    server = Serving(titles, room, bundle)
    server.live.follow(server.recommender.shelf, server.call)
    try:
        yield server
    finally:
        server.live.stop()


@pytest.fixture
def titles(any_broker: str, topic_prefix: str) -> Titles:
    return Titles(any_broker, f"{topic_prefix}catalog")


def test_titles_are_shown_changed_and_gone_without_a_restart(titles: Titles) -> None:
    titles.put(HEAT)
    with serving(titles) as server:
        assert server.slate() == {"tt1": "Heat"}
        titles.put(RONIN)
        eventually(lambda: set(server.slate()) == {"tt1", "tt2"})
        titles.put(CatalogItem("tt2", "Ronin again", 1998, ("Crime",)))
        eventually(lambda: server.slate()["tt2"] == "Ronin again")
        assert set(server.slate(genres=("Crime",))) == {"tt1", "tt2"}
        titles.put(CatalogItem("tt1", removed=True))
        eventually(lambda: set(server.slate()) == {"tt2"})
        titles.put_bytes(b"tt2", None)
        eventually(lambda: not server.slate())
        titles.put(HEAT)
        eventually(lambda: set(server.slate()) == {"tt1"})
        assert server.live.counts.applied == 5
    assert not server.live.is_alive()


def test_a_title_is_in_use_long_before_a_second_has_passed(titles: Titles) -> None:
    with serving(titles) as server:
        took_s = []
        for k in range(3):
            began_s = time.monotonic()
            titles.put(CatalogItem(f"tt{k}"))
            eventually(lambda k=k: server.table.slot_of(f"tt{k}") is not None)
            took_s.append(time.monotonic() - began_s)
        assert min(took_s) < 1.0  # the quickest of three: others may have had to share the machine


def test_records_that_are_no_titles_are_counted_and_left_behind(titles: Titles) -> None:
    titles.put_bytes(b"x", b"\xff no title")
    with serving(titles) as server:
        titles.put_bytes(b"x", b"\xff nor is this")
        titles.put(HEAT)
        eventually(lambda: set(server.slate()) == {"tt1"})
        assert server.live.counts.broken == 2


def test_more_titles_than_there_is_room_for_get_a_bigger_table(titles: Titles) -> None:
    titles.put(HEAT)
    with serving(titles, room=2) as server:
        slot, small = server.table.slot_of("tt1"), server.table
        server.mirror.apply(update_of("tt1", 5.0))
        titles.put(*(CatalogItem(f"new{k}", genres=("Drama",)) for k in range(30)))
        eventually(lambda: len(server.slate()) == 31)
        assert server.table is not small
        assert server.live.counts.grown >= 1
        assert server.table.slot_of("tt1") == slot
        assert (server.mirror.values[slot] == 5.0).all()
        assert len(server.mirror.values) == len(server.table)
        server.mirror.apply(update_of("new29", 3.0))
        assert (server.mirror.values[server.table.slot_of("new29")] == 3.0).all()


def test_a_title_that_the_bundle_knows_comes_with_what_was_learnt(titles: Titles) -> None:
    bundle = Bundle.without_ranker(engine.models())
    titles.put(*(title for title in engine.catalogue() if title.item_id != "t0"))
    with serving(titles, bundle=bundle) as server:
        titles.put(engine.catalogue()[0])
        eventually(lambda: server.table.slot_of("t0") is not None)
        eventually(lambda: len(server.recommender.similar_items("t0", 5)) == 5)
        similar = server.recommender.similar_items("t0", 5)
        assert all(int(item.item_id[1:]) % 2 == 0 for item in similar)


def test_changes_happen_between_requests_in_the_event_loop(titles: Titles) -> None:
    server = Serving(titles, 8)
    where: list[int] = []

    async def serve() -> None:
        call = between_requests(asyncio.get_running_loop())

        def noted(function: Callable[[], None]) -> "Future[None]":
            return call(lambda: (where.append(threading.get_ident()), function())[1])

        server.live.follow(server.recommender.shelf, noted)
        titles.put(HEAT)
        while not server.slate():
            await asyncio.sleep(0.01)
        server.live.stop()  # in the loop itself: the follower must not wait for it

    asyncio.run(asyncio.wait_for(serve(), 30))
    assert set(where) == {threading.get_ident()}


def test_a_log_that_came_back_with_other_titles_is_read_anew(topic_prefix: str) -> None:
    with EmbeddedBroker() as broker:
        titles = Titles(broker.bootstrap, f"{topic_prefix}catalog")
        titles.put(HEAT, *(CatalogItem(f"old{k}") for k in range(5)))
        with serving(titles, room=20) as server:
            broker.kill()
            broker.start()
            titles = Titles(broker.bootstrap, titles.topic)
            titles.put(HEAT, RONIN)
            eventually(lambda: set(server.slate()) == {"tt1", "tt2"}, 60)


def update_of(item_id: str, value: float) -> ItemUpdate:
    values = np.full((1, item_row.N_COLUMNS), value, np.float32)
    return ItemUpdate(np.array([id_hash(item_id)], np.uint64), values, START_MS)
