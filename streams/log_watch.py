"""How far a flow is behind the log, measured each second by a thread and a consumer of its own.

The flow's thread may wait for Redis as long as it likes: lag goes on being measured. Where the
broker does not answer the numbers stand still, and the age of the source `log_end` tells so.

A measurement asks each partition for the record to be applied next: the answer holds it, and so how
old it is, and the end of the log, both as of one moment. It costs a request a second.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.codec import WireError, decode_impression, decode_interaction
from features.learning_codec import decode_learning_record
from features.log import CONTENT_TYPE, JSON_TYPE, LogConfig
from features.outcomes import Outcome
from streams import metrics

EVERY_S: Final = 1.0
ANSWER_S: Final = 0.9  # all partitions have answered by then, or the end of the log is not known
POLL_S: Final = 0.05
JOIN_S: Final = 5.0

Place = tuple[str, int]  # a topic and a partition of it
EventTime = Callable[[Message], int]  # in milliseconds; 0: the record does not tell

log = structlog.get_logger(__name__)


def interaction_time(record: Message) -> int:
    """When an interaction happened, by its own word."""
    try:
        as_json = (CONTENT_TYPE, JSON_TYPE) in (record.headers() or ())
        return decode_interaction(record.value() or b"", as_json=as_json).occurred_at_ms
    except WireError:
        return 0


def impression_time(record: Message) -> int:
    """When a slate was served."""
    try:
        return decode_impression(record.value() or b"").served_at_ms
    except WireError:
        return 0


def outcome_time(record: Message) -> int:
    """When an outcome was decided."""
    try:
        found = decode_learning_record(record.value() or b"")
    except WireError:
        return 0
    return found.decided_at_ms if isinstance(found, Outcome) else 0


class LogWatch:
    """Measures from `start` to `stop`. `applied` says, to any thread, the next offset to apply."""

    def __init__(
        self,
        config: LogConfig,
        flow: str,
        applied: Callable[[], Mapping[Place, int]],
        event_times: Mapping[str, EventTime] | None = None,
        every_s: float = EVERY_S,
    ) -> None:
        """`event_times`: by topic; records of others happened when the log received them."""
        self._config = config
        self._flow = flow
        self._applied = applied
        self._event_times = event_times or {}
        self._every_s = every_s
        self._log_end = metrics.AGES.source("log_end", flow)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-watch", daemon=True)

    def start(self) -> None:
        """Begins to measure, in a thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it; nobody waits for this log any more."""
        self._over.set()
        self._thread.join(JOIN_S)
        metrics.AGES.forget("log_end", self._flow)

    def _run(self) -> None:
        consumer = Consumer(
            {
                **self._config.consumer("headrace-watch"),
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",  # what retention took is not to be applied
                "fetch.message.max.bytes": 1_024,  # one batch of the log, whatever its size
                "queued.min.messages": 1,
                "fetch.queue.backoff.ms": 10,
            }
        )
        try:
            while not self._over.is_set():
                began_s = time.monotonic()
                self._measure_once(consumer)
                self._over.wait(max(began_s + self._every_s - time.monotonic(), 0.0))
        finally:
            consumer.close()

    def _measure_once(self, consumer: Consumer) -> None:
        try:
            if self._measure(consumer):
                self._log_end.heard()
        except KafkaException as error:
            log.warning("lag_not_measured", flow=self._flow, reason=str(error))

    def _measure(self, consumer: Consumer) -> bool:
        """One measurement; whether every partition has answered."""
        asked = dict(self._applied())
        consumer.assign([TopicPartition(*place, at) for place, at in asked.items()])
        found = self._first_records(consumer, len(asked))
        applied, now_ms = self._applied(), time.time() * 1e3
        for place, record in found.items():
            _, end = consumer.get_watermark_offsets(TopicPartition(*place), cached=True)
            self._tell(place, applied.get(place, asked[place]), end, record, now_ms)
        consumer.resume([TopicPartition(*place) for place in found])
        consumer.unassign()  # else it would read on
        return len(found) == len(asked)

    def _first_records(self, consumer: Consumer, n_places: int) -> dict[Place, Message | None]:
        """The next record of each partition that has answered; None where there is none."""
        found: dict[Place, Message | None] = {}
        until_s = time.monotonic() + ANSWER_S
        while len(found) < n_places and time.monotonic() < until_s and not self._over.is_set():
            record = consumer.poll(POLL_S)
            if record is None or record.topic() is None:
                continue
            place = (str(record.topic()), int(record.partition() or 0))
            error = record.error()
            if error is None:
                if found.setdefault(place, record) is record:
                    consumer.pause([TopicPartition(*place)])
            elif error.code() == KafkaError._PARTITION_EOF:
                found.setdefault(place, None)
        return found

    def _tell(
        self, place: Place, applied: int, end: int, record: Message | None, now_ms: float
    ) -> None:
        if end < 0:
            return
        lag = max(end - applied, 0)
        metrics.LOG_END.labels(*place).set(end)
        metrics.APPLIED.labels(*place).set(applied)
        metrics.LAG.labels(*place).set(lag)
        ingested_ms = 0 if record is None else record.timestamp()[1]
        happened_ms = 0 if record is None else self._happened_ms(place[0], record)
        for by, at_ms in (("ingestion", ingested_ms), ("event", happened_ms or ingested_ms)):
            age_s = max(now_ms - at_ms, 0.0) / 1e3 if lag and at_ms else 0.0
            metrics.LAG_SECONDS.labels(*place, by).set(age_s)

    def _happened_ms(self, topic: str, record: Message) -> int:
        event_time = self._event_times.get(topic)
        return 0 if event_time is None else max(event_time(record), 0)
