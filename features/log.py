"""The log's door: writing records that are never lost silently, and reading them by position.

Everything that speaks Kafka goes through here: streams, serving and offline share these settings.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from features.position import Position

PROTOBUF_TYPE: Final = b"application/x-protobuf"
JSON_TYPE: Final = b"application/json"
CONTENT_TYPE: Final = "content-type"
QUEUE_FULL_POLL_S: Final = 0.05

Headers = Sequence[tuple[str, bytes]]
Delivered = Callable[[Position | None, str | None], None]  # where it lies, or why it does not


class LogError(Exception):
    """The log refused or lost a record; the message says which topic and why."""


class OffsetGoneError(LogError):
    """The log no longer has the event to go on with; going on elsewhere would skip some."""

    exit_status = 3  # of the process: starting it again changes nothing


@dataclass(frozen=True, slots=True)
class LogConfig:
    """How to reach the log. `options` are librdkafka properties (SASL, TLS), passed through."""

    bootstrap: str
    options: Mapping[str, str] = field(default_factory=dict)

    def common(self) -> dict[str, str | int | float | bool]:
        """What every client needs; errors go to callbacks and exceptions, not to standard error."""
        return {
            "bootstrap.servers": self.bootstrap,
            "log_level": 2,
            "socket.nagle.disable": True,
            **self.options,
        }

    def producer(self) -> dict[str, str | int | float | bool]:
        """Idempotent, acknowledged by all, keys placed as Java's producers place them."""
        return {
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 0,
            "partitioner": "murmur2_random",
            "message.max.bytes": 1_000_000,
            "queue.buffering.max.messages": 100_000,
            "queue.buffering.max.kbytes": 65_536,
            "delivery.timeout.ms": 30_000,
            **self.common(),
        }

    def consumer(self, group: str) -> dict[str, str | int | float | bool]:
        """Partitions by assignment, offsets committed by hand, a lost offset is an error."""
        return {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": False,
            "auto.offset.reset": "error",
            "fetch.wait.max.ms": 5,
            "fetch.error.backoff.ms": 5,
            "queued.max.messages.kbytes": 16_384,
            "session.timeout.ms": 6_000,
            **self.common(),
        }


class LogWriter:
    """Writes records; a full queue waits, a failure is reported to the caller's `delivered`.

    Thread-safe. `failures` counts records the log did not take; the first reason is kept.
    """

    def __init__(self, config: LogConfig, **overrides: str | int | float | bool) -> None:
        self._producer = Producer({**config.producer(), **overrides})
        self._lock = threading.Lock()
        self.failures = 0
        self.first_failure: str | None = None

    def append(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        *,
        headers: Headers = (),
        timestamp_ms: int = 0,
        partition: int = -1,
        delivered: Delivered | None = None,
    ) -> None:
        """Queues one record; waits while the queue is full. Raises LogError if it can never fit."""

        def on_delivery(error: KafkaError | None, message: Message) -> None:
            self._note(topic, error, message, delivered)

        while True:
            try:
                self._producer.produce(
                    topic,
                    value=value,
                    key=key,
                    partition=partition,
                    headers=list(headers),
                    timestamp=timestamp_ms,
                    on_delivery=on_delivery,
                )
            except BufferError:
                self._producer.poll(QUEUE_FULL_POLL_S)
            except KafkaException as error:
                raise LogError(f"{topic} refused a record: {error.args[0].str()}") from error
            else:
                self._producer.poll(0)
                return

    def _note(
        self, topic: str, error: KafkaError | None, message: Message, delivered: Delivered | None
    ) -> None:
        reason = None
        position = None
        if error is not None:
            reason = f"{topic} did not take a record: {error.str()}"
            with self._lock:
                self.failures += 1
                self.first_failure = self.first_failure or reason
        else:
            position = Position(topic, message.partition(), message.offset())
        if delivered is not None:
            delivered(position, reason)

    def poll(self, timeout_s: float = 0.0) -> None:
        """Serves delivery reports for at most `timeout_s`."""
        self._producer.poll(timeout_s)

    def pending(self) -> int:
        """Records queued or on their way."""
        return len(self._producer)

    def flush(self, timeout_s: float = 30.0) -> None:
        """Waits until every record is delivered. Raises LogError for any that was not."""
        left = self._producer.flush(timeout_s)
        if left:
            raise LogError(f"{left} records were not delivered within {timeout_s:g} s")
        if self.first_failure is not None:
            raise LogError(
                f"{self.failures} records were not delivered; first: {self.first_failure}"
            )


def end_offsets(config: LogConfig, topic: str, partitions: Sequence[int]) -> dict[int, int]:
    """Offset behind the last record of each partition, right on every broker.

    ListOffsets alone is not: an embedded broker may answer with the base of the last batch. So the
    partition is read from there to its end.
    """
    return {p: last + 1 for p, last in _last_offsets(config, topic, partitions).items()}


def _last_offsets(config: LogConfig, topic: str, partitions: Sequence[int]) -> dict[int, int]:
    consumer = Consumer({**config.consumer("headrace-ends"), "enable.partition.eof": True})
    try:
        starts = {}
        for partition in partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            starts[partition] = max(low, high - 1)
        last = {p: start - 1 for p, start in starts.items()}
        consumer.assign([TopicPartition(topic, p, start) for p, start in starts.items()])
        left = set(partitions)
        while left:
            for message in _arrived(consumer):
                error = message.error()
                if error is None:
                    last[message.partition()] = message.offset()
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise LogError(f"{topic}/{message.partition()}: {error.str()}")
        return last
    finally:
        consumer.close()


def _arrived(consumer: Consumer) -> list[Message]:
    """What has arrived; waits for the first message alone, not for a full batch."""
    first = consumer.poll(1.0)
    return [] if first is None else [first, *consumer.consume(1_000, 0)]


def partitions_of(config: LogConfig, topic: str, timeout_s: float = 10.0) -> list[int]:
    """Partition numbers of a topic. Raises LogError when the topic does not exist."""
    consumer = Consumer(config.consumer("headrace-metadata"))
    try:
        metadata = consumer.list_topics(topic, timeout=timeout_s).topics.get(topic)
        if metadata is None or metadata.error is not None or not metadata.partitions:
            raise LogError(f"topic {topic} does not exist; `headrace topics create` makes it")
        return sorted(metadata.partitions)
    finally:
        consumer.close()


def read_to_end(config: LogConfig, topic: str, start: int = 0) -> Iterator[Message]:
    """Every record of a topic from its beginning to where it ends now; then stops.

    `start`: from this offset of each partition; from the beginning where the log has it no more.
    """
    consumer = Consumer(
        {
            **config.consumer("headrace-read"),
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        left = set(partitions_of(config, topic))
        consumer.assign([TopicPartition(topic, p, start) for p in sorted(left)])
        while left:
            for message in _arrived(consumer):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
                else:
                    raise LogError(f"{topic}/{message.partition()}: {error.str()}")
    finally:
        consumer.close()
