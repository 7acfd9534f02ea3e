"""Follows the topic `catalog` beside a flow, for what events need to know of their titles."""

import time

import structlog
from confluent_kafka import Consumer, TopicPartition

from features.codec import WireError, decode_catalog_item
from features.log import LogConfig, end_offsets, partitions_of, read_to_end
from features.titles import TitleFacts

LOOK_EVERY_S = 0.2
MAX_BATCH = 5_000

log = structlog.get_logger(__name__)


class TitleFollower:
    """Reads the whole catalogue at first, then takes in changes when asked to `refresh`."""

    def __init__(self, config: LogConfig, topic: str) -> None:
        self.titles = TitleFacts()
        partitions = partitions_of(config, topic)
        ends = end_offsets(config, topic, partitions)
        for record in read_to_end(config, topic):
            self._take(record.value())
        options = {"fetch.wait.max.ms": 500}  # nobody waits for a title; spare the broker requests
        self._consumer = Consumer({**config.consumer("headrace-titles"), **options})
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
                self._take(record.value())

    def _take(self, value: bytes | None) -> None:
        if not value:
            return  # a tombstone: the facts of a removed title stay with its past events
        try:
            self.titles.put(decode_catalog_item(value))
        except WireError as error:
            log.warning("bad_catalog_record", reason=str(error))
