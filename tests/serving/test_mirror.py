"""The item mirror: loading, following, and whatever the broker does to it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient
from numpy.typing import NDArray

from features import item_row
from features.clock import StreamClock
from features.compiled import Rows
from features.events import EVENT
from features.global_rates import DEFAULT_PRIORS
from features.item_updates import MAX_ITEMS, ItemUpdate, encode_update
from features.log import LogConfig, LogWriter
from features.redis_config import RedisConfig
from features.redis_store import RedisLink, RedisRowStore
from features.store import ITEMS, InMemoryRowStore, RowStore
from features.vocabulary import EventType
from infra.embedded import EmbeddedBroker
from serving.mirror import ItemMirror, MirrorFollower
from tests.apache_kafka import ApacheKafka, why_not_here
from tests.clock import START_MS, FakeClock
from tests.serving.harness import (
    create_topic,
    eventually,
)

IDS = np.array([30, 10, 20], np.uint64)


def item_rows(ids: NDArray[np.uint64], plays: int = 3) -> Rows:
    """Rows of items that were played so many times."""
    rows = np.repeat(item_row.new_row(), len(ids))
    rows["id"] = ids
    event = np.zeros(1, EVENT)
    event["type"], event["at_ms"] = EventType.PLAY, START_MS
    for i in range(len(rows)):
        for offset in range(plays):
            event["offset"] = offset
            item_row.apply(rows[i], event[0])
    return rows


def expected(rows: Rows, now_ms: int = START_MS) -> NDArray[np.float32]:
    values = np.empty((len(rows), item_row.N_COLUMNS), np.float32)
    item_row.values_of(rows, np.arange(len(rows)), now_ms, DEFAULT_PRIORS, values)
    return values


def update_of(ids: NDArray[np.uint64], value: float, now_ms: int = START_MS) -> ItemUpdate:
    values = np.full((len(ids), item_row.N_COLUMNS), value, np.float32)
    return ItemUpdate(ids, values, now_ms)


def store_with(rows: Rows) -> InMemoryRowStore:
    store = InMemoryRowStore(ITEMS)
    store.write(rows)
    return store


class Publisher:
    """Writes item updates as the features flow does."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.config = LogConfig(bootstrap)
        self.topic = topic
        create_topic(self.config, topic)

        self._writer = LogWriter(self.config, **{"log_level": 0})

    def publish(self, value: bytes) -> None:
        self._writer.append(self.topic, b"0", value)
        self._writer.flush()

    def update(self, value: float, ids: NDArray[np.uint64] = IDS, now_ms: int = START_MS) -> None:
        self.publish(encode_update(update_of(ids, value, now_ms)))


@contextmanager
def following(
    publisher: Publisher, store: RowStore | None = None, clock: StreamClock | None = None
) -> Iterator[MirrorFollower]:
    follower = MirrorFollower(
        ItemMirror(IDS),
        store or InMemoryRowStore(ITEMS),
        publisher.config,
        publisher.topic,
        FakeClock(),
        clock.advance if clock else None,
    )
    follower.start()
    try:
        yield follower
    finally:
        follower.stop()


@pytest.fixture
def publisher(any_broker: str, topic_prefix: str) -> Publisher:
    return Publisher(any_broker, f"{topic_prefix}item-updates")


def test_mirror_begins_with_the_defaults_of_the_columns() -> None:
    mirror = ItemMirror(IDS)
    assert mirror.values.shape == (3, item_row.N_COLUMNS)
    assert (mirror.values == item_row.DEFAULTS).all()
    assert mirror.age_ms() == -1


def test_load_computes_columns_in_the_order_of_the_ids() -> None:
    rows = item_rows(IDS[1:])
    mirror = ItemMirror(IDS)
    assert mirror.load(store_with(rows), START_MS) == 2
    assert (mirror.values[0] == item_row.DEFAULTS).all()
    np.testing.assert_array_equal(mirror.values[1:], expected(rows))
    assert mirror.age_ms() == -1


def test_load_reads_more_items_than_one_batch_holds(redis_url: str) -> None:
    config = RedisConfig(redis_url)
    link = RedisLink(config)
    store = RedisRowStore(link, ITEMS, config)
    ids = np.arange(1, 9_001, dtype=np.uint64)
    rows = np.repeat(item_rows(ids[:1]), 3)
    rows["id"] = [1, 5_000, 9_000]
    store.write(rows)
    mirror = ItemMirror(ids)
    assert mirror.load(store, START_MS) == 3
    link.close()
    np.testing.assert_array_equal(mirror.values[[0, 4_999, 8_999]], expected(rows))
    assert (mirror.values[1:4_999] == item_row.DEFAULTS).all()


def test_update_overwrites_known_items_and_counts_the_others() -> None:
    mirror = ItemMirror(IDS)
    assert mirror.apply(update_of(np.array([20, 77, 30], np.uint64), 5.0)) == 1
    assert (mirror.values[[0, 2]] == 5.0).all()
    assert (mirror.values[1] == item_row.DEFAULTS).all()
    assert mirror.age_ms() >= 0


@pytest.mark.parametrize("ids", [[1, 1], [0, 1]])
def test_ids_must_be_usable(ids: list[int]) -> None:
    with pytest.raises(ValueError, match="distinct and not zero"):
        ItemMirror(np.array(ids, np.uint64))


def test_empty_catalogue_has_an_empty_mirror() -> None:
    mirror = ItemMirror(np.empty(0, np.uint64))
    assert mirror.load(InMemoryRowStore(ITEMS), START_MS) == 0
    assert mirror.apply(update_of(IDS, 1.0)) == 3


def test_reader_beside_the_writer_sees_only_values_that_were_written(
    rng: np.random.Generator,
) -> None:
    ids = np.arange(1, MAX_ITEMS + 1, dtype=np.uint64)
    mirror = ItemMirror(ids)
    mirror.values[:] = 0
    done = threading.Event()

    def write() -> None:
        for value in range(1, 200):
            mirror.apply(update_of(ids, value))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    slots = rng.integers(0, MAX_ITEMS, 500)
    newest = 0.0
    while not done.is_set():
        seen = mirror.values[slots]
        assert (seen == np.floor(seen)).all()
        assert seen.min() >= newest - 1
        newest = max(newest, float(seen.min()))
    writer.join()
    assert (mirror.values == 199).all()


def test_follower_applies_what_is_published_after_it_began(publisher: Publisher) -> None:
    publisher.update(1.0)
    rows = item_rows(IDS)
    with following(publisher, store_with(rows)) as follower:
        np.testing.assert_array_equal(follower.mirror.values, expected(rows))
        assert follower.mirror.age_ms() == -1
        publisher.update(2.0, np.array([10, 99], np.uint64))
        eventually(lambda: follower.counts.messages == 1)
        assert (follower.mirror.values[1] == 2.0).all()
        assert (follower.counts.items, follower.counts.unknown) == (1, 1)
        assert 0 <= follower.mirror.age_ms() < 20_000
    assert not follower.is_alive()


def test_update_between_the_noted_end_and_the_load_is_not_missed(publisher: Publisher) -> None:
    class PublishesWhileRead(InMemoryRowStore):
        def read(self, ids: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.bool_]]:
            publisher.update(4.0)
            return super().read(ids)

    with following(publisher, PublishesWhileRead(ITEMS)) as follower:
        eventually(lambda: follower.counts.messages == 1)
        assert (follower.mirror.values == 4.0).all()


def test_broken_message_is_counted_and_left_behind(publisher: Publisher) -> None:
    with following(publisher) as follower:
        publisher.publish(b"")
        publisher.publish(b"not an update of any kind, but long enough")
        publisher.publish(encode_update(update_of(IDS, 1.0))[:-1])
        publisher.update(3.0)
        eventually(lambda: follower.counts.messages == 1)
        assert follower.counts.broken == 3
        assert (follower.mirror.values == 3.0).all()


def test_stream_clock_follows_the_updates(publisher: Publisher) -> None:
    clock = StreamClock()
    with following(publisher, clock=clock):
        publisher.update(1.0, now_ms=START_MS + 9)
        eventually(lambda: clock.now_ms() == START_MS + 9)


def test_broker_that_comes_back_empty_makes_the_follower_begin_again(topic_prefix: str) -> None:
    with EmbeddedBroker() as broker:
        publisher = Publisher(broker.bootstrap, f"{topic_prefix}item-updates")
        for value in range(20):
            publisher.update(value)
        store = InMemoryRowStore(ITEMS)
        with following(publisher, store) as follower:
            publisher.update(5.0)
            eventually(lambda: follower.counts.messages == 1)
            broker.kill()
            assert (follower.mirror.values == 5.0).all()
            rows = item_rows(IDS)
            store.write(rows)
            broker.start()
            publisher = Publisher(broker.bootstrap, publisher.topic)
            eventually(lambda: follower.counts.reloads >= 1 and follower.mirror.values[0, 0] != 5.0)
            np.testing.assert_array_equal(follower.mirror.values, expected(rows))
            publisher.update(6.0)
            eventually(lambda: follower.counts.messages == 2)
            assert (follower.mirror.values == 6.0).all()


def test_follower_carries_on_where_it_was_after_a_broker_restart(topic_prefix: str) -> None:
    if reason := why_not_here():
        pytest.skip(reason)
    with ApacheKafka() as broker:
        publisher = Publisher(broker.bootstrap, f"{topic_prefix}item-updates")
        with following(publisher) as follower:
            publisher.update(1.0)
            eventually(lambda: follower.counts.messages == 1)
            broker.restart()
            publisher.update(2.0)
            eventually(lambda: follower.counts.messages == 2, 60)
            assert follower.counts.reloads == 0
            assert (follower.mirror.values == 2.0).all()


def test_place_that_the_log_has_forgotten_makes_the_follower_begin_again(
    apache_kafka: ApacheKafka, topic_prefix: str
) -> None:
    publisher = Publisher(apache_kafka.bootstrap, f"{topic_prefix}item-updates")
    with following(publisher) as follower:
        publisher.update(1.0)
        eventually(lambda: follower.counts.messages == 1)
        admin = AdminClient(dict(publisher.config.common()))
        admin.delete_topics([publisher.topic])[publisher.topic].result()
        eventually(lambda: publisher.topic not in admin.list_topics(timeout=5).topics)
        create_topic(publisher.config, publisher.topic)
        eventually(lambda: follower.counts.reloads >= 1, 60)
        publisher.update(2.0)
        eventually(lambda: bool((follower.mirror.values == 2.0).all()), 60)
