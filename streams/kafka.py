"""The flows' own Kafka source and sink.

The source takes whatever has arrived as one batch and never waits for more; it resumes from the
group's committed offsets, which ordinary Kafka tools can read. The sink reports every failure.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from threading import Event
from typing import Any

import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.log import Headers, LogConfig, LogError, LogWriter, OffsetGoneError, partitions_of
from streams import metrics
from streams.failures import reported
from streams.log_watch import LogWatch, Place, interaction_time
from streams.progress import Progress

MAX_BATCH = 6_000
MAX_WRITE_BYTES = 2_000_000  # a dead letter holds a whole refused record and more
LINGER_MS = 5  # of what nobody waits for: news for the mirrors; spares the broker small requests
IDLE_POLL_S = 0.01  # the wait ends with the first record
SHARED_POLL_S = 0.001  # nothing ends the wait when another worker sends this one something
ALWAYS = datetime(2000, 1, 1, tzinfo=UTC)  # a time to wake up that is always past

log = structlog.get_logger(__name__)

Records = list[Message]


@dataclass(frozen=True, slots=True)
class OutRecord:
    """A record to be written."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = ()
    partition: int = -1


class KafkaSource(FixedPartitionedSource[Records, None]):
    """Batches of records of one topic, from the offsets that `group` committed.

    The partitions are dealt out over `n_readers` readers, one in the process of each worker, each
    with a single consumer: several would cost a millisecond each when idle.

    An epoch's offsets are committed once the epoch after it has ended, since by then every sink has
    taken what came before, and `settle` has waited for the store. With several workers it is one
    epoch more: by then each reader has settled, in its own process, what the sinks there had taken.
    """

    def __init__(
        self,
        config: LogConfig,
        topic: str,
        group: str,
        *,
        n_readers: int = 1,
        reader: int = 0,
        stop: Event,
        settle: Callable[[], None] = lambda: None,
        may_read: Callable[[], bool] = lambda: True,
        at_end: list[Callable[[], None]] | None = None,
        progress: Progress | None = None,
        is_watched: bool = False,
    ) -> None:
        self._config = config
        self._topic = topic
        self._group = group
        self._n_readers = n_readers
        self._reader = reader
        self._stop = stop
        self._settle = settle
        self._may_read = may_read
        self._at_end = at_end
        self._progress = progress
        self._is_watched = is_watched

    def list_parts(self) -> list[str]:
        """The reader of this process: Bytewax gives a part to a worker that lists it."""
        return [str(self._reader)]

    @reported
    def build_part(
        self,
        step_id: str,  # noqa: ARG002 (Bytewax names it)
        for_part: str,
        resume_state: None,  # noqa: ARG002 (offsets live in Kafka)
    ) -> "KafkaReader":
        """Opens one reader over its share of the partitions."""
        partitions = partitions_of(self._config, self._topic)
        mine = [p for p in partitions if p % self._n_readers == int(for_part)]
        return KafkaReader(
            self._config,
            self._topic,
            self._group,
            mine,
            self._stop,
            self._settle,
            is_alone=self._n_readers == 1,
            may_read=self._may_read,
            at_end=self._at_end,
            progress=self._progress,
            is_watched=self._is_watched,
        )


class KafkaReader(StatefulSourcePartition[Records, None]):
    """One consumer over some partitions. Raises OffsetGoneError when one to resume from is gone."""

    def __init__(
        self,
        config: LogConfig,
        topic: str,
        group: str,
        partitions: Sequence[int],
        stop: Event,
        settle: Callable[[], None],
        *,
        is_alone: bool = True,
        may_read: Callable[[], bool] = lambda: True,
        at_end: list[Callable[[], None]] | None = None,
        progress: Progress | None = None,
        is_watched: bool = False,
    ) -> None:
        self._topic = topic
        self._stop = stop
        self._settle = settle
        self._may_read = may_read
        self._at_end = at_end
        self._idle_poll_s = IDLE_POLL_S if is_alone else SHARED_POLL_S
        self._group = group
        self._consumer = Consumer(
            {
                **config.consumer(group),
                "on_commit": note_commit,
                "queued.max.messages.kbytes": 32_768,
            }
        )
        self._next = _starting_offsets(self._consumer, topic, partitions)
        self._consumer.assign([TopicPartition(topic, p, at) for p, at in self._next.items()])
        # Offsets at the ends of the epochs before, oldest first.
        self._ended: deque[dict[int, int]] = deque(maxlen=1 if is_alone else 2)
        self._was_told_to_stop = False
        self._progress = progress
        if progress is not None:
            progress.begin(self._next)
        self._looked = metrics.AGES.source("applied", group)
        self._watch = self._watching(config) if is_watched else None

    def _watching(self, config: LogConfig) -> LogWatch:
        watch = LogWatch(config, self._group, self._applied, {self._topic: interaction_time})
        watch.start()
        return watch

    def _applied(self) -> Mapping[Place, int]:
        ends = self._next if self._progress is None else self._progress.applied
        return {(self._topic, p): at for p, at in ends.items()}

    @reported
    def next_batch(self) -> list[Records]:
        """Everything that has arrived, as one item; waits a little for the first record only."""
        if self._stop.is_set():
            self._was_told_to_stop = True
            raise StopIteration
        if not self._may_read():
            time.sleep(self._idle_poll_s)  # until other workers have caught up
            return []
        self._looked.heard()
        first = self._consumer.poll(0)
        if first is None:
            self._settle()  # nothing has come meanwhile: a good time to wait for the store
            first = self._consumer.poll(self._idle_poll_s)
        if first is None:
            return []
        records = [first, *self._consumer.consume(MAX_BATCH - 1, 0)]
        records = [record for record in records if self._is_data(record)]
        for record in records:
            self._next[record.partition()] = record.offset() + 1
        if not records:
            return []
        if self._progress is not None:
            self._progress.read(self._next)
        return [records]

    def next_awake(self) -> datetime:
        """At once: waiting is done in `poll`, where a record ends it."""
        return ALWAYS

    @reported
    def snapshot(self) -> None:
        """At the end of an epoch, commits what an epoch before had read: it is in the store."""
        self._settle()
        is_over = self._was_told_to_stop  # the last commit says it all, once it may
        if len(self._ended) == self._ended.maxlen and not is_over:
            oldest = self._ended[0]
            offsets = [TopicPartition(self._topic, p, at) for p, at in oldest.items()]
            if offsets:
                self._consumer.commit(offsets=offsets, asynchronous=True)
        self._ended.append(dict(self._next))

    def close(self) -> None:
        """Commits the rest when told to stop, once the flow has ended: then sinks have everything.

        Bytewax closes its sources before the last sink is done, and after a crash too; what a sink
        refused must not be committed. So the last commit is left to whoever runs the flow, who
        calls what is in `at_end`; without one it is made at once.
        """
        if self._watch is not None:
            self._watch.stop()
        metrics.AGES.forget("applied", self._group)
        if not self._was_told_to_stop:
            self._consumer.close()
        elif self._at_end is None:
            self._finish()
        else:
            self._at_end.append(self._finish)

    def _finish(self) -> None:
        self._commit_rest()
        self._consumer.close()

    def _commit_rest(self) -> None:
        self._settle()
        offsets = [TopicPartition(self._topic, p, at) for p, at in self._next.items()]
        try:
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            log.warning("last_commit_failed", topic=self._topic, error=str(error))

    def _is_data(self, record: Message) -> bool:
        error = record.error()
        if error is None:
            return True
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise OffsetGoneError(
                f"{self._topic}: the offset at which {self._group} was to go on is not in the log "
                f"({error.str()}): events are lost to these rows; `headrace rebuild` has all rows "
                "made anew from what the log still holds"
            )
        if error.fatal() or not error.retriable():
            log.warning("consumer_error", topic=self._topic, error=error.str())
        return False


def _starting_offsets(consumer: Consumer, topic: str, partitions: Sequence[int]) -> dict[int, int]:
    """Where each partition goes on: the committed offset, else its beginning."""
    wanted = [TopicPartition(topic, p) for p in partitions]
    starts = {}
    for committed in consumer.committed(wanted, timeout=30):
        if committed.error is not None:
            raise LogError(f"{topic}/{committed.partition}: {committed.error.str()}")
        low, _ = consumer.get_watermark_offsets(TopicPartition(topic, committed.partition), 30)
        starts[committed.partition] = committed.offset if committed.offset >= 0 else max(low, 0)
    return starts


def note_commit(error: KafkaError | None, _: list[TopicPartition]) -> None:
    """Counts a commit that the broker refused."""
    if error is not None:
        metrics.COMMIT_FAILURES.inc()
        log.warning("commit_failed", error=error.str())


class KafkaSink(DynamicSink[OutRecord]):
    """Writes records; with `durable` it returns only when the log has them.

    A failed delivery raises LogError, which stops the flow before offsets behind it are committed.
    """

    def __init__(self, config: LogConfig, *, durable: bool) -> None:
        self._config = config
        self._durable = durable

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "KafkaSinkPartition":  # noqa: ARG002
        """Opens one writer for this worker."""
        linger_ms = 0 if self._durable else LINGER_MS
        options = {"message.max.bytes": MAX_WRITE_BYTES, "linger.ms": linger_ms}
        writer = LogWriter(self._config, **options)
        return KafkaSinkPartition(writer, durable=self._durable)


class KafkaSinkPartition(StatelessSinkPartition[OutRecord]):
    """One worker's writer."""

    def __init__(self, writer: LogWriter, *, durable: bool) -> None:
        self._writer = writer
        self._durable = durable

    @reported
    def write_batch(self, items: list[OutRecord]) -> None:
        """Appends every record, and waits for the log when durable."""
        for record in items:
            self._writer.append(
                record.topic,
                record.key,
                record.value,
                headers=record.headers,
                partition=record.partition,
            )
        if self._durable:
            with metrics.FLUSH_SECONDS.labels("log").time():
                self._writer.flush()
        elif self._writer.first_failure is not None:
            raise LogError(self._writer.first_failure)

    def close(self) -> None:
        """Waits for the last records."""
        self._writer.flush()


class CallSink(DynamicSink[Any]):
    """Hands each batch of items to a function built for the worker; `finish` follows the last."""

    def __init__(
        self,
        build: Callable[[], Callable[[list[Any]], None]],
        finish: Callable[[], None] = lambda: None,
    ) -> None:
        self._build = build
        self._finish = finish

    def build(self, step_id: str, worker_index: int, worker_count: int) -> "CallSinkPartition":  # noqa: ARG002
        """Builds the worker's function."""
        return CallSinkPartition(self._build(), self._finish)


class CallSinkPartition(StatelessSinkPartition[Any]):
    """One worker's function."""

    def __init__(self, write: Callable[[list[Any]], None], finish: Callable[[], None]) -> None:
        self._write = write
        self._finish = finish

    @reported
    def write_batch(self, items: list[Any]) -> None:
        """Calls the function."""
        self._write(items)

    def close(self) -> None:
        """Waits for the last of them, before any other worker can see that the flow has ended."""
        self._finish()
