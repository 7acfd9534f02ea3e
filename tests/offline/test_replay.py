"""Replay: every record reaches the log in order, at its pace, or is counted as failed."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from confluent_kafka import Message

from features.codec import decode_catalog_item, decode_interaction
from features.events import CatalogItem, Interaction
from features.log import CONTENT_TYPE, LogConfig, LogWriter, read_to_end
from features.vocabulary import EventType
from infra.topics import Topic, ensure_topics
from offline.replay import OutgoingRecord, Pace, publish_catalogue, replay, send

N_PARTITIONS = 3
START_MS = 1_362_062_307_000


@dataclass
class FakeTimer:
    """Time that passes only by waiting."""

    time_s: float = 1_000.0

    def now_s(self) -> float:
        return self.time_s

    def wait(self, duration_s: float) -> None:
        self.time_s += duration_s


@pytest.fixture
def topic(broker: str, topic_prefix: str) -> str:
    """A topic of the test's own."""
    name = f"{topic_prefix}interactions"
    ensure_topics({"bootstrap.servers": broker}, [Topic(name, N_PARTITIONS)])
    return name


@pytest.fixture
def writer(broker: str) -> LogWriter:
    return LogWriter(LogConfig(broker))


@pytest.fixture
def cut_off_writer() -> LogWriter:
    """A writer whose broker is not there, and that gives up soon."""
    config = LogConfig("127.0.0.1:1", {"log_level": "0"})
    return LogWriter(config, **{"delivery.timeout.ms": 300, "request.timeout.ms": 300})


def interactions(n: int, n_users: int = 5, step_ms: int = 1_000) -> list[Interaction]:
    return [
        Interaction(
            f"e{number}",
            f"user{number % n_users}",
            f"tt{number}",
            EventType.CLICK,
            START_MS + number * step_ms,
        )
        for number in range(n)
    ]


def records_in(broker: str, topic: str) -> list[Message]:
    return list(read_to_end(LogConfig(broker), topic))


def test_every_interaction_lies_in_the_log_as_it_was(
    broker: str, topic: str, writer: LogWriter
) -> None:
    sent = interactions(2_500)
    result = replay(sent, writer, topic)
    assert (result.sent, result.delivered, result.failed) == (2_500, 2_500, 0)
    assert result.succeeded
    assert result.first_failure is None
    received = [decode_interaction(message.value()) for message in records_in(broker, topic)]
    assert sorted(received, key=lambda i: i.occurred_at_ms) == sent


def test_the_events_of_a_user_keep_their_order_in_one_partition(
    broker: str, topic: str, writer: LogWriter
) -> None:
    replay(interactions(600), writer, topic)
    times: dict[bytes, list[int]] = {}
    places: dict[bytes, set[int]] = {}
    for message in records_in(broker, topic):
        event = decode_interaction(message.value())
        assert message.key() == event.user_id.encode()
        times.setdefault(message.key(), []).append(event.occurred_at_ms)
        places.setdefault(message.key(), set()).add(message.partition())
    assert len(times) == 5
    assert all(user_times == sorted(user_times) for user_times in times.values())
    assert all(len(partitions) == 1 for partitions in places.values())


@pytest.mark.parametrize(("as_json", "kind"), [(False, b"x-protobuf"), (True, b"json")])
def test_records_say_what_they_are(
    broker: str, topic: str, writer: LogWriter, as_json: bool, kind: bytes
) -> None:
    (event,) = interactions(1)
    replay([event], writer, topic, as_json=as_json)
    (message,) = records_in(broker, topic)
    assert message.headers() == [(CONTENT_TYPE, b"application/" + kind)]
    assert (message.value()[:1] == b"{") == as_json
    assert decode_interaction(message.value()) == event


def test_old_events_are_logged_as_of_now(broker: str, topic: str, writer: LogWriter) -> None:
    replay(interactions(1), writer, topic)
    (message,) = records_in(broker, topic)
    assert message.timestamp()[1] > START_MS + 365 * 86_400_000


def test_a_catalogue_is_published_by_item(broker: str, topic: str, writer: LogWriter) -> None:
    items = [CatalogItem(f"tt{n}", title=f"Title {n}", genres=("Drama",)) for n in range(50)]
    result = publish_catalogue(items, writer, topic)
    assert (result.sent, result.delivered) == (50, 50)
    found = {m.key(): decode_catalog_item(m.value()) for m in records_in(broker, topic)}
    assert found == {item.item_id.encode(): item for item in items}


def test_a_rate_spaces_events_evenly(topic: str, writer: LogWriter) -> None:
    timer = FakeTimer()
    result = replay(interactions(21), writer, topic, rate=10.0, timer=timer)
    assert result.seconds == pytest.approx(2.0)
    assert result.events_per_s == pytest.approx(10.5)


def test_a_speed_follows_the_times_of_the_data(topic: str, writer: LogWriter) -> None:
    timer = FakeTimer()
    result = replay(interactions(11, step_ms=60_000), writer, topic, speed=100.0, timer=timer)
    assert result.seconds == pytest.approx(6.0)


def test_a_sender_that_fell_behind_catches_up(topic: str, writer: LogWriter) -> None:
    timer = FakeTimer()

    def slow_start() -> Iterator[Interaction]:
        for number, event in enumerate(interactions(11)):
            timer.time_s += 0.5 if number == 0 else 0.0
            yield event

    result = replay(slow_start(), writer, topic, rate=10.0, timer=timer)
    assert result.seconds == pytest.approx(1.0)


def test_nothing_is_waited_for_without_a_pace(topic: str, writer: LogWriter) -> None:
    timer = FakeTimer()
    assert replay(interactions(100), writer, topic, timer=timer).seconds == 0.0


@pytest.mark.parametrize(
    ("rate", "speed"),
    [(0.0, None), (-1.0, None), (None, float("inf")), (float("nan"), None), (1.0, 1.0)],
)
def test_a_pace_that_is_none_is_refused(rate: float | None, speed: float | None) -> None:
    with pytest.raises(ValueError, match="replay"):
        Pace(rate, speed)


def test_progress_is_told_up_to_the_last_record(topic: str, writer: LogWriter) -> None:
    told: list[int] = []
    replay(interactions(2_500), writer, topic, progress=told.append)
    assert told == [1_000, 2_000, 2_500]


def test_a_paced_replay_tells_progress_while_it_waits(topic: str, writer: LogWriter) -> None:
    told: list[int] = []
    replay(interactions(4), writer, topic, rate=10.0, timer=FakeTimer(), progress=told.append)
    assert told == sorted(told)
    assert {1, 2, 3, 4} <= set(told)


def test_a_full_queue_waits_and_loses_nothing(broker: str, topic: str) -> None:
    narrow = LogWriter(LogConfig(broker), **{"queue.buffering.max.messages": 10})
    result = replay(interactions(1_000), narrow, topic)
    assert (result.delivered, result.failed) == (1_000, 0)
    assert len(records_in(broker, topic)) == 1_000


def test_what_no_broker_takes_is_counted_as_failed(cut_off_writer: LogWriter) -> None:
    result = replay(interactions(20), cut_off_writer, "interactions")
    assert (result.sent, result.delivered, result.failed) == (20, 0, 20)
    assert not result.succeeded
    assert result.first_failure is not None
    assert "did not take a record" in result.first_failure


def test_a_record_that_can_never_fit_fails_alone(
    broker: str, topic: str, writer: LogWriter
) -> None:
    records = [OutgoingRecord(b"k", b"v" * size) for size in (10, 2_000_000, 20)]
    result = send(records, writer, topic)
    assert (result.sent, result.delivered, result.failed) == (3, 2, 1)
    assert result.first_failure is not None
    assert "refused a record" in result.first_failure
    assert [len(message.value()) for message in records_in(broker, topic)] == [10, 20]


def test_a_source_that_breaks_leaves_what_it_gave_in_the_log(
    broker: str, topic: str, writer: LogWriter
) -> None:
    def breaking() -> Iterator[Interaction]:
        yield from interactions(100)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        replay(breaking(), writer, topic)
    assert len(records_in(broker, topic)) == 100
    assert writer.pending() == 0


def test_an_empty_source_is_no_failure(topic: str, writer: LogWriter) -> None:
    result = replay([], writer, topic)
    assert (result.sent, result.succeeded) == (0, True)
