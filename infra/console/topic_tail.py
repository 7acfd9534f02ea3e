"""The newest records of a topic with one partition, followed: dead letters, ops-events."""

import time
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from features.log import LogConfig, LogError

T = TypeVar("T")

REQUEST_S: Final = 2.0
READ_S: Final = 1.5
MAX_BATCH: Final = 200


class TopicTail(Generic[T]):
    """Keeps the last `keep` records as `take` makes them; for one thread alone."""

    def __init__(
        self,
        config: LogConfig,
        topic: str,
        keep: int,
        take: Callable[[Message], T | None],
    ) -> None:
        self._topic = topic
        self._take = take
        self._newest: deque[T] = deque(maxlen=keep)
        self._keep = keep
        self._next = 0  # offset to go on with
        self._told = -1  # the end that the broker told when it was last read to its end
        self._cluster = ""
        quick = {
            "socket.timeout.ms": 2_000, "reconnect.backoff.max.ms": 1_000, "log_level": 0,
            "enable.partition.eof": True, "auto.offset.reset": "earliest",
            "fetch.queue.backoff.ms": 10,
        }  # fmt: skip
        self._consumer = Consumer({**config.consumer("headrace-ops-tail"), **quick})

    def look(self) -> tuple[T, ...]:
        """The newest, oldest first. Raises KafkaException and LogError.

        Reads what has come since the last look, at most `keep` records of it.
        """
        metadata = self._consumer.list_topics(timeout=REQUEST_S)
        if self._topic not in metadata.topics:
            return ()
        place = TopicPartition(self._topic, 0)
        low, high = self._consumer.get_watermark_offsets(place, timeout=REQUEST_S)
        if metadata.cluster_id != self._cluster:  # an embedded broker begins a new log
            self._cluster, self._next, self._told = metadata.cluster_id, 0, -1
            self._newest.clear()
        if high != self._told:
            self._next = max(self._next, low, high - self._keep)
            self._consumer.assign([TopicPartition(self._topic, 0, self._next)])
            try:
                self._told = high if self._read_to_end() else -1
            finally:
                self._consumer.unassign()  # else it would ask for more all the time
        return tuple(self._newest)

    def close(self) -> None:
        """Closes the connection."""
        self._consumer.close()

    def _read_to_end(self) -> bool:
        """Takes what is there; whether the end was reached in time."""
        deadline_s = time.monotonic() + READ_S
        while time.monotonic() < deadline_s:
            for record in self._consumer.consume(MAX_BATCH, 0.05):
                error = record.error()
                if error is None:
                    self._next = int(record.offset() or 0) + 1
                    found = self._take(record)
                    if found is not None:
                        self._newest.append(found)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return True
                else:
                    raise LogError(f"{self._topic}: {error.str()}")
        return False
