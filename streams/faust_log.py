"""Faust over the log's own client: every process reads whole topics, from where it is told to.

Faust brings aiokafka, which here can read neither what servers compress (lz4) nor what learners do
(zstd), and knows nothing of the librdkafka properties by which a site reaches its log. So Faust is
given a transport that reads with the same client as everything else; the one of its own for this
client loses headers. It assigns partitions itself: no consumer group, hence no rebalance, in which
Faust has stopped reading without a word, and nothing is committed. It never writes.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from faust.app.base import BootStrategy
from faust.transport.drivers import confluent
from faust.transport.producer import Producer
from faust.types import TP, ConsumerMessage

from features.log import LogConfig, LogError, partitions_of

MAX_BATCH: Final = 1_000
POLL_S: Final = 0.1  # the wait ends with the first record; other work of the thread waits so long

Starts = Callable[[str, list[int]], dict[int, int]]  # where to begin to read each partition


class ReadOnly(BootStrategy):  # type: ignore[misc]
    """Starts neither a producer nor Faust's web server, which would show what it is not asked."""

    enable_kafka_producer = False
    enable_web = False


class LogTransport(confluent.Transport):  # type: ignore[misc]
    """What an app is given as its `transport` and `producer_transport`."""

    Producer = Producer  # that of no driver: nothing is ever sent by it

    def __init__(self, app: Any, config: LogConfig, starts: Starts) -> None:
        super().__init__(app.conf.broker_consumer, app)
        self.config = config
        self.starts = starts

    def create_consumer(self, callback: Any, **options: Any) -> "LogConsumer":
        """Faust calls it once."""
        return LogConsumer(self, callback=callback, **options)


class LogConsumer(confluent.Consumer):  # type: ignore[misc]
    """Faust's consumer: it commits nothing, and begins where the thread assigned."""

    def _new_consumer_thread(self) -> "LogThread":
        return LogThread(self, loop=self.loop, beacon=self.beacon)

    def _new_topicpartition(self, topic: str, partition: int) -> TP:
        return TP(topic, partition)

    def _to_message(self, tp: TP, record: Message) -> ConsumerMessage:
        key, value = record.key(), record.value()
        kind, at_ms = record.timestamp()
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record.offset(),
            at_ms / 1_000,
            kind,
            record.headers() or [],
            key,
            value,
            None,  # checksum
            0 if key is None else len(key),
            0 if value is None else len(value),
            tp,
            generation_id=self.app.consumer_generation_id,  # streams pass over those of another
        )

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Nothing is committed; where to begin was said when partitions were assigned."""
        return {}

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:  # noqa: ARG002
        return True

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's own look for stalls is left out: `streams.ops_agents.Progress` asks the log."""


class LogThread(confluent.ConfluentConsumerThread):  # type: ignore[misc]
    """The thread that the client belongs to."""

    def __init__(self, consumer: LogConsumer, **options: Any) -> None:
        super().__init__(consumer, **options)
        self._log: LogTransport = consumer.transport
        self._client: Consumer | None = None
        self._assigned: frozenset[TP] = frozenset()
        self._paused: frozenset[TP] = frozenset()

    async def on_start(self) -> None:
        """Opens the client."""
        options = {
            **self._log.config.consumer(self.app.conf.id),
            "auto.offset.reset": "earliest",  # what retention took while we looked
            "fetch.wait.max.ms": 500,  # nobody waits for a view; spare the broker requests
        }
        self._client = Consumer(options)

    async def on_thread_stop(self) -> None:
        """Closes it."""
        await super().on_thread_stop()
        if self._client is not None:
            self._client.close()

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Assigns every partition of the topics, and tells Faust so."""
        await self.call_thread(self._assign, sorted(set(topics)))

    async def _assign(self, topics: list[str]) -> None:
        places = []
        for topic in topics:
            starts = self._log.starts(topic, partitions_of(self._log.config, topic))
            places += [TopicPartition(topic, p, at) for p, at in starts.items()]
        self._ready().assign(places)
        self._assigned = frozenset(TP(place.topic, place.partition) for place in places)
        self.app.on_rebalance_start()
        # Later: Faust waits, in what this calls, for `subscribe` to have returned.
        self.add_future(self.on_partitions_assigned(set(self._assigned), 0))

    async def getmany(
        self, active_partitions: set[TP] | None, timeout: float
    ) -> dict[TP, list[Message]]:
        """Records that have come, by partition; waits for the first one only."""
        found: dict[TP, list[Message]] = await self.call_thread(
            self._fetch, active_partitions, min(timeout, POLL_S)
        )
        return found

    async def _fetch(self, active: set[TP] | None, timeout_s: float) -> dict[TP, list[Message]]:
        client = self._ready()
        self._pause(self._assigned - (active or set()))
        first = client.poll(timeout_s)
        records: dict[TP, list[Message]] = defaultdict(list)
        for record in [] if first is None else [first, *client.consume(MAX_BATCH - 1, 0)]:
            if _is_data(record):
                records[TP(record.topic(), record.partition())].append(record)
        return records

    def _pause(self, wanted: frozenset[TP]) -> None:
        """Leaves partitions alone whose agent has enough to do."""
        client = self._ready()
        if resumed := self._paused - wanted:
            client.resume([TopicPartition(*tp) for tp in resumed])
        if paused := wanted - self._paused:
            client.pause([TopicPartition(*tp) for tp in paused])
        self._paused = wanted

    def _ready(self) -> Consumer:
        if self._client is None:
            raise LogError("the thread of the log's client has not been started")
        return self._client

    def assignment(self) -> set[TP]:
        """Partitions that are read."""
        return set(self._assigned)

    def highwater(self, tp: TP) -> int:
        """Offset behind the last record of a partition, as the client last heard."""
        _, high = self._ready().get_watermark_offsets(TopicPartition(*tp), cached=True)
        return int(high)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """See LogConsumer."""
        return {}

    async def commit(self, tps: Mapping[TP, int]) -> bool:  # noqa: ARG002
        """Commits nothing."""
        return True

    def close(self) -> None:
        """Done at the end of the thread."""

    def verify_recovery_event_path(self, now: float, tp: TP) -> None:
        """There is nothing to recover."""


def _is_data(record: Message) -> bool:
    error = record.error()
    if error is None:
        return True
    if error.fatal() or error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise LogError(f"{record.topic()}/{record.partition()}: {error.str()}")
    time.sleep(POLL_S)  # the broker is away: the client goes on by itself
    return False
