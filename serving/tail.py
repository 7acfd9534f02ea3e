"""Follows the end of a topic on a thread of its own, through restarts of the broker."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.log import LogConfig, LogError, end_offsets, partitions_of
from serving import metrics

CONSUME_BATCH = 100
CONSUME_S = 0.1
FETCH_WAIT_MS = 25  # of a broker that has nothing new: it need not be asked all the time
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 2.0
METADATA_TIMEOUT_S = 2.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Start:
    """From where to follow: the log it was, and the end of each partition."""

    cluster_id: str | None
    offsets: dict[int, int]


class Tail:
    """Hands on what is appended to a topic after a whole reading of what it is the tail of.

    `begin` reads the whole; the ends of the partitions are noted before it does, so that what falls
    between the two is taken afterwards. While the broker is away nothing happens. Where what was
    missed cannot be known (the log has forgotten this place, or another log answers at its address)
    ends are noted and `begin` is called anew. `take` gets messages without errors, in order; after
    trouble it may get some of them again.
    """

    def __init__(
        self,
        config: LogConfig,
        topic: str,
        name: str,
        begin: Callable[[], None],
        take: Callable[[list[Message]], None],
    ) -> None:
        self.reloads = 0  # times it began again, because it could not know what it had missed
        self._config = config
        self._topic = topic
        self._name = name
        self._source = metrics.AGES.source(name)
        self._begin_reading = begin
        self._take_all = take
        self._stopping = threading.Event()
        self._connection_lost = threading.Event()
        self._start: _Start | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins in this thread, then follows in another; raises as `begin`."""
        self.begin()
        self.follow()

    def begin(self) -> None:
        """Notes where the log ends, then reads the whole.

        Raises LogError or KafkaException where the topic cannot be read, and what reading raises.
        """
        self._start = self._begin()

    def follow(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; it takes as long as one look at the log."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def is_alive(self) -> bool:
        """Whether the topic is being followed."""
        return self._thread.is_alive()

    def is_stopping(self) -> bool:
        """Whether `stop` was called: `take` need not wait for anything any more."""
        return self._stopping.is_set()

    def _begin(self) -> _Start:
        """Notes where the log ends, then reads the whole."""
        partitions = partitions_of(self._config, self._topic)
        cluster_id = self._cluster_id()
        offsets = end_offsets(self._config, self._topic, partitions)
        self._begin_reading()
        return _Start(cluster_id, offsets)

    def _run(self) -> None:
        """Follows, and begins again after trouble; nothing but `stop` ends it."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                self._start = self._start or self._begin_again()
                self._follow(self._start)
            except (KafkaException, LogError, redis.RedisError, OSError) as error:
                log.warning(f"{self._name}_interrupted", reason=str(error), next_try_s=pause_s)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
            else:
                pause_s = FIRST_PAUSE_S

    def _begin_again(self) -> _Start:
        start = self._begin()
        self.reloads += 1
        return start

    def _follow(self, start: _Start) -> None:
        """Hands on messages until told to stop, or until this log is no longer the one it was."""
        consumer = self._consumer(start)
        try:
            while not self._stopping.is_set():
                self._take(start, _arrived(consumer))
                if not self._connection_lost.is_set():
                    self._source.heard()
                if self._connection_lost.is_set() and not self._is_same_log(consumer, start):
                    self._start = None
                if self._start is None:
                    return
        finally:
            consumer.close()

    def _consumer(self, start: _Start) -> Consumer:
        consumer = Consumer(
            {
                **self._config.consumer(f"headrace-{self._name}"),
                "error_cb": self._note_trouble,
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "log_level": 0,  # errors come to the callback
            }
        )
        consumer.assign([TopicPartition(self._topic, p, at) for p, at in start.offsets.items()])
        return consumer

    def _note_trouble(self, error: KafkaError) -> None:
        if not self._connection_lost.is_set():
            log.warning(f"{self._name}_broker_away", reason=error.str())
        self._connection_lost.set()

    def _is_same_log(self, consumer: Consumer, start: _Start) -> bool:
        """Whether the log that answers is the one that was followed; true while none answers.

        A broker in memory comes back empty, and leaves a consumer waiting at a place that the new
        log has not reached: only its cluster id tells.
        """
        try:
            metadata = consumer.list_topics(timeout=METADATA_TIMEOUT_S)
        except KafkaException:
            return True
        self._connection_lost.clear()
        return bool(metadata.cluster_id == start.cluster_id)

    def _take(self, start: _Start, messages: list[Message]) -> None:
        """Hands on what is sound, and remembers the place behind it."""
        sound = []
        for message in messages:
            error = message.error()
            if error is None:
                sound.append(message)
            else:
                self._take_error(error)
        if sound:
            self._take_all(sound)
        for message in sound:
            start.offsets[message.partition()] = message.offset() + 1

    def _take_error(self, error: KafkaError) -> None:
        """A place that the log no longer has means that something was missed."""
        lost = (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE)
        if error.code() in lost:
            log.warning(f"{self._name}_place_lost", reason=error.str())
            self._start = None
        else:
            self._note_trouble(error)

    def _cluster_id(self) -> str | None:
        """The name of the log that answers; asked without naming a topic, which might create it."""
        consumer = Consumer({**self._config.consumer("headrace-metadata"), "log_level": 0})
        try:
            metadata: Any = consumer.list_topics(timeout=METADATA_TIMEOUT_S)
            return None if metadata.cluster_id is None else str(metadata.cluster_id)
        finally:
            consumer.close()


def _arrived(consumer: Consumer) -> list[Message]:
    """What has arrived; waits for the first message alone, not for a full batch."""
    first = consumer.poll(CONSUME_S)
    return [] if first is None else [first, *consumer.consume(CONSUME_BATCH, 0)]
