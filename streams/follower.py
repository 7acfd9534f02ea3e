"""Follows a compacted topic beside a flow: everything at first, then what comes."""

import time
from collections.abc import Callable

from confluent_kafka import Consumer, Message, TopicPartition

from features.log import LogConfig, end_offsets, partitions_of, read_to_end

LOOK_EVERY_S = 0.2
MAX_BATCH = 5_000


class TopicFollower:
    """Reads a whole topic at first, then takes in changes when asked to `refresh`."""

    def __init__(self, config: LogConfig, topic: str, take: Callable[[Message], None]) -> None:
        self._take = take
        partitions = partitions_of(config, topic)
        ends = end_offsets(config, topic, partitions)
        for record in read_to_end(config, topic):
            take(record)
        options = {"fetch.wait.max.ms": 500}  # nobody waits for a change; spare the broker requests
        self._consumer = Consumer({**config.consumer("headrace-follow"), **options})
        self._consumer.assign([TopicPartition(topic, p, ends[p]) for p in partitions])
        self._looked_s = time.monotonic()

    def refresh(self) -> None:
        """Takes in what has changed; looks at most every 0.2 s and never waits."""
        now_s = time.monotonic()
        if now_s - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now_s
        for record in self._consumer.consume(MAX_BATCH, 0):
            if record.error() is None:
                self._take(record)

    def close(self) -> None:
        """Stops following."""
        self._consumer.close()
