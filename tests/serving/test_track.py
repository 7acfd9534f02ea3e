"""Track: an answer is a promise. Decisions: recorded where possible, never in the way."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, Message

from features.codec import decode_interaction
from features.events import Interaction
from features.log import CONTENT_TYPE, PROTOBUF_TYPE, LogConfig, LogError, LogWriter, read_to_end
from features.position import Position
from features.vocabulary import EventType
from infra.embedded import EmbeddedBroker
from serving.client import RequestError
from serving.settings import ServingSettings
from serving.slate import Decision, Query, Slate
from serving.track import (
    ImpressionRecorder,
    LogUnavailableError,
    SteadyWriter,
    TooManyInFlightError,
    Tracker,
    impression_writer,
    track_writer,
)
from serving.wire import encode_decision
from tests.clock import START_MS, FakeClock
from tests.serving.harness import (
    NOWHERE,
    Parts,
    create_topic,
    eventually,
    served,
)

CLICK = Interaction("e1", "ann", "tt1", EventType.CLICK, START_MS)
QUICK = ServingSettings(port=0, track_timeout_ms=500)


@pytest.fixture
def topic(any_broker: str, topic_prefix: str) -> str:
    name = f"{topic_prefix}interactions"
    create_topic(LogConfig(any_broker), name, partitions=4)
    return name


def parts_on(bootstrap: str, topic: str, settings: ServingSettings | None = None) -> Parts:
    return Parts(
        log=LogConfig(bootstrap), topic=topic, settings=settings or ServingSettings(port=0)
    )


def records(bootstrap: str, topic: str) -> list[Message]:
    return list(read_to_end(LogConfig(bootstrap), topic))


def record_at(bootstrap: str, position: Position) -> Message:
    (found,) = (
        record
        for record in records(bootstrap, position.topic)
        if (record.partition(), record.offset()) == (position.partition, position.offset)
    )
    return found


def test_acknowledged_event_lies_where_the_answer_says(any_broker: str, topic: str) -> None:
    with served(parts_on(any_broker, topic)) as (_, client):
        position = client.track(replace(CLICK, region="DE", slot=3))
    record = record_at(any_broker, position)
    assert record.key() == b"ann"
    assert record.headers() == [(CONTENT_TYPE, PROTOBUF_TYPE)]
    assert decode_interaction(record.value() or b"") == replace(CLICK, region="DE", slot=3)


def test_event_without_id_and_time_gets_both(any_broker: str, topic: str) -> None:
    with served(parts_on(any_broker, topic)) as (_, client):
        position = client.track(Interaction("", "ann", "tt1", EventType.CLICK))
    interaction = decode_interaction(record_at(any_broker, position).value() or b"")
    assert len(interaction.event_id) == 32
    assert interaction.occurred_at_ms == START_MS


def test_events_of_one_viewer_keep_their_order(any_broker: str, topic: str) -> None:
    with served(parts_on(any_broker, topic)) as (_, client):
        positions = [client.track(replace(CLICK, event_id=f"e{i}")) for i in range(20)]
    assert len({position.partition for position in positions}) == 1
    offsets = [position.offset for position in positions]
    assert offsets == sorted(set(offsets))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user_id": ""}, "interaction.user_id is required; got an empty string"),
        ({"item_id": ""}, "interaction.item_id is required; got an empty string"),
        ({"user_id": "x" * 129}, "interaction.user_id must be at most 128 bytes; got 129 bytes"),
        ({"type": EventType.UNSPECIFIED}, "interaction.type must be one of impression, click"),
        ({"type": 99}, "interaction.type must be one of impression, click"),
        ({"rating": 42.0}, "interaction.rating must be within 0..10; got 42.0"),
        ({"rating": float("nan")}, "interaction.rating must be within 0..10; got nan"),
        ({"watch_position_s": -1.0}, "interaction.watch_position_s must be within 0..1000000"),
        ({"device": 9}, "interaction.context.device must be within 0..4; got 9"),
        ({"slot": 10_001}, "interaction.slot must be within 0..10000; got 10001"),
        ({"region": "x" * 17}, "interaction.context.region must be at most 16 bytes"),
    ],
)
def test_bad_event_is_refused_and_not_written(fields: dict[str, Any], message: str) -> None:
    with served() as (_, client), pytest.raises(RequestError) as caught:
        client.track(replace(CLICK, **fields))
    assert caught.value.code == "INVALID_ARGUMENT"
    assert caught.value.message.startswith(message)


def test_track_many_says_what_was_accepted_and_what_was_not(any_broker: str, topic: str) -> None:
    events = [replace(CLICK, event_id=f"e{i}", user_id=f"u{i % 50}") for i in range(1_000)]
    for bad in range(0, 1_000, 5):
        events[bad] = replace(events[bad], item_id="")
    with served(parts_on(any_broker, topic)) as (_, client):
        answer = client.track_many(events)
    assert (answer.accepted, answer.refused) == (800, 200)
    assert list(answer.refusals) == list(range(0, 500, 5))
    assert answer.refusals[5] == "interaction.item_id is required; got an empty string"
    written = records(any_broker, topic)
    assert len(written) == 800
    highest: dict[int, int] = {}
    for record in written:
        highest[record.partition()] = max(highest.get(record.partition(), -1), record.offset())
    assert {p.partition: p.offset for p in answer.positions} == highest


def test_track_many_without_events_accepts_none() -> None:
    with served() as (_, client):
        answer = client.track_many([])
    assert (answer.accepted, answer.refused, answer.positions) == (0, 0, ())


def test_stream_larger_than_what_may_be_in_flight_waits_instead_of_failing(
    any_broker: str, topic: str
) -> None:
    parts = parts_on(any_broker, topic)
    parts.max_in_flight = 10
    with served(parts) as (_, client):
        answer = client.track_many(replace(CLICK, event_id=f"e{i}") for i in range(200))
    assert answer.accepted == 200


def test_log_that_is_away_is_unavailable_and_never_a_success() -> None:
    with served(Parts(settings=QUICK)) as (_, client):
        for call in (client.track, lambda event: client.track_many([event])):
            with pytest.raises(RequestError) as caught:
                call(CLICK)
            assert caught.value.code == "UNAVAILABLE"
            assert caught.value.message == "the log did not take the event; send it again"


def test_slates_do_not_mind_a_log_that_is_away() -> None:
    with served() as (_, client):
        assert client.recommend("ann").items


def test_events_are_taken_again_when_the_broker_is_back(topic_prefix: str) -> None:
    topic = f"{topic_prefix}interactions"
    with EmbeddedBroker() as broker:
        config = LogConfig(broker.bootstrap)
        create_topic(config, topic)
        with served(parts_on(broker.bootstrap, topic, QUICK)) as (_, client):
            client.track(CLICK)
            broker.kill()
            with pytest.raises(RequestError, match="UNAVAILABLE"):
                client.track(replace(CLICK, event_id="e2"))
            broker.start()
            create_topic(config, topic)
            eventually(lambda: _is_taken(client.track, replace(CLICK, event_id="e3")))
        ids = [decode_interaction(r.value() or b"").event_id for r in read_to_end(config, topic)]
        assert "e3" in ids


def _is_taken(track: Callable[[Interaction], Position], event: Interaction) -> bool:
    try:
        track(event)
    except RequestError as error:
        return error.code != "UNAVAILABLE"
    return True


class BreaksAtTheThird(LogWriter):
    """A producer that is told by the broker, at its third record, that nobody knows it."""

    appended = 0

    def append(self, topic: str, *args: Any, **named: Any) -> None:
        self.appended += 1
        fatal = KafkaException(KafkaError(KafkaError._FATAL, "unknown producer", fatal=True))
        if self.appended == 3:
            super().append(topic, *args, **named)
            raise fatal
        if self.appended > 3:
            raise LogError(f"{topic} refused a record: unknown producer") from fatal
        super().append(topic, *args, **named)


def test_producer_that_is_broken_for_good_is_replaced(any_broker: str, topic: str) -> None:
    writer = SteadyWriter(lambda: BreaksAtTheThird(LogConfig(any_broker)), "deliveries")

    async def run() -> None:
        tracker = Tracker(writer, topic, FakeClock(), max_in_flight=1)
        tracker.start()
        for i in range(20):
            event = replace(CLICK, event_id=f"e{i}")
            while not await is_taken(tracker, event):
                await asyncio.sleep(0.01)
        await tracker.close()

    async def is_taken(tracker: Tracker, event: Interaction) -> bool:
        try:
            await tracker.track(event)
        except LogUnavailableError:
            return False
        return True

    asyncio.run(run())
    ids = [decode_interaction(r.value() or b"").event_id for r in records(any_broker, topic)]
    assert ids == [f"e{i}" for i in range(20)]
    assert writer.replaced >= 6


async def away_tracker(max_in_flight: int, timeout_s: float) -> Tracker:
    writer = track_writer(NOWHERE, int(1_000 * timeout_s))
    tracker = Tracker(
        writer, "interactions", FakeClock(), max_in_flight=max_in_flight, timeout_s=timeout_s
    )
    tracker.start()
    return tracker


def test_more_events_than_may_be_in_flight_are_refused_at_once() -> None:
    async def run() -> None:
        tracker = await away_tracker(max_in_flight=3, timeout_s=0.5)
        waiting = [asyncio.create_task(tracker.track(CLICK)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyInFlightError, match="at most 3 events"):
            await tracker.track(CLICK)
        outcomes = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [LogUnavailableError] * 3
        with pytest.raises(LogUnavailableError):
            await track_once_there_is_room(tracker)
        await tracker.close()

    async def track_once_there_is_room(tracker: Tracker) -> None:
        while True:  # the log's own word on the three may come a moment after their time-outs
            try:
                await tracker.track(CLICK)
            except TooManyInFlightError:
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_deadline_of_the_call_ends_the_wait_for_the_log() -> None:
    async def run() -> None:
        tracker = await away_tracker(max_in_flight=3, timeout_s=1.0)
        with pytest.raises(LogUnavailableError):
            await asyncio.wait_for(tracker.track(CLICK, budget_s=0.01), 0.5)
        await tracker.close()

    asyncio.run(run())


def decision(user_id: str = "ann") -> Decision:
    return Decision(Query(user_id, request_id="r1"), Slate((), "b1", "f1", 0), START_MS)


def recorder_of(writer: SteadyWriter, topic: str, **limits: int) -> ImpressionRecorder:
    recorder = ImpressionRecorder(writer, topic, encode_decision, **limits)
    recorder.start()
    return recorder


def test_decisions_reach_the_log(any_broker: str, topic: str) -> None:
    recorder = recorder_of(impression_writer(LogConfig(any_broker)), topic)
    for i in range(50):
        recorder.record(decision(f"u{i}"))
    eventually(lambda: recorder.recorded == 50)
    recorder.close()
    written = records(any_broker, topic)
    assert {record.key() for record in written} == {b"u%d" % i for i in range(50)}
    assert written[0].headers() == [(CONTENT_TYPE, PROTOBUF_TYPE)]
    assert recorder.dropped == 0


@pytest.mark.parametrize("limits", [{"max_pending": 10}, {"max_pending_bytes": 10 * 37}])
def test_decisions_that_nobody_takes_are_dropped_and_counted(limits: dict[str, int]) -> None:
    assert len(encode_decision(decision())) <= 37
    recorder = recorder_of(impression_writer(NOWHERE, timeout_ms=300), "impressions", **limits)
    for _ in range(100):
        recorder.record(decision())
    assert recorder.dropped >= 80
    eventually(lambda: recorder.dropped == 100)
    recorder.close()
    assert recorder.recorded == 0


def test_decision_that_cannot_be_encoded_is_dropped_and_raises_nothing() -> None:
    def broken(_: Decision) -> bytes:
        raise ValueError("no such thing")

    recorder = ImpressionRecorder(impression_writer(NOWHERE, 300), "impressions", broken)
    recorder.record(decision())
    assert recorder.dropped == 1


def test_decision_larger_than_the_log_takes_is_dropped(any_broker: str, topic: str) -> None:
    recorder = ImpressionRecorder(
        impression_writer(LogConfig(any_broker)), topic, lambda _: os.urandom(2_000_000)
    )
    recorder.start()
    recorder.record(decision())
    eventually(lambda: recorder.dropped == 1)
    recorder.close()
