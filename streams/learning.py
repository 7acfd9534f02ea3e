"""The log of learning -> versions of learned state.

    records of `outcomes` -> decoded batches -> learner -> versions in `models`

One writer, by a lease. A version is published as soon as something has changed, at most every
`publish_every_s`; it says of how many records it is a function. A restart goes on from the newest
good version, so no crash can lose an outcome or learn it twice. Offsets are committed behind
published versions, for tools that watch lag alone.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from threading import Event
from typing import Final

import bytewax.operators as op
import structlog
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.clock import Clock
from features.learning_codec import (
    LearningBatch,
    decode_learning_batch,
    decode_snapshot,
    encode_snapshot,
)
from features.log import LogConfig, LogError, LogWriter, end_offsets, partitions_of
from features.model_snapshot import ModelSnapshot, SnapshotError, require_finite
from features.model_versions import (
    LEARNED,
    VERSION_OPTIONS,
    StoredVersion,
    kept_headers,
    kept_key,
    kept_sequence,
    read_versions,
)
from features.outcomes import NO_ROLLBACK
from features.position import Position
from features.registry import feature_version
from online_models.base import Learns
from online_models.learner import KEEP_EVERY_MS, Learner, Version
from streams import metrics
from streams.arm_news import count_slots
from streams.failures import reported
from streams.kafka import ALWAYS, CallSink, Records
from streams.log_watch import LogWatch, outcome_time

MAX_BATCH: Final = 2_000  # so that a version is never long overdue
IDLE_POLL_S: Final = 0.01  # the wait ends with the first record
METADATA_TIMEOUT_S: Final = 30
PARTITION: Final = 0

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class LearningParts:
    """What the flow is given. `learners` makes the parts that learn, new ones at each call."""

    log: LogConfig
    outcomes: str
    models: str
    group: str
    learners: Callable[[], Mapping[str, Learns]]
    clock: Clock
    publish_every_s: float = 0.25
    keep_every_ms: int = KEEP_EVERY_MS
    accept_gap: bool = False  # whether to go on where the log no longer has the next record
    check: Callable[[], None] = lambda: None  # raises where this process may not write any more
    learnt: Callable[[Mapping[str, Learns]], None] = lambda _: None  # told after each batch
    stop: Event = field(default_factory=Event)
    monotonic_s: Callable[[], float] = time.monotonic
    is_watched: bool = False  # whether lag is measured, by a thread


def add_learning(flow: Dataflow, parts: LearningParts) -> "Publisher":
    """Adds the steps of learning; call the publisher's `finish` when the flow has ended well.

    Raises LogError where a topic is missing or has another number of partitions, or where the log
    no longer has the record to go on with.
    """
    partitions = partitions_of(parts.log, parts.outcomes)
    if partitions != [PARTITION]:
        raise LogError(
            f"{parts.outcomes} must have 1 partition, since there is one order to learn in; "
            f"it has {len(partitions)}"
        )
    publisher = resumed(parts)
    records = op.input("read_outcomes", flow, LearningSource(parts, publisher))
    batches = op.map("decode_outcomes", records, decode)
    op.output("learn_and_publish", batches, CallSink(lambda: publisher.take))
    return publisher


def decode(records: Records) -> LearningBatch:
    """A batch of records; what is none of learning is counted, and logged once a batch."""
    batch = decode_learning_batch(
        [record.value() or b"" for record in records], [record.offset() or 0 for record in records]
    )
    if batch.bad:
        metrics.LEARNING_BAD.inc(len(batch.bad))
        offset, reason = batch.bad[0]
        log.warning("bad_learning_record", offset=offset, reason=reason, in_batch=len(batch.bad))
    return batch


def resumed(parts: LearningParts) -> "Publisher":
    """A learner at the newest version that fits, and what publishes for it."""
    learner = Learner(parts.learners(), parts.keep_every_ms)
    stored = read_versions(parts.log, parts.models)
    resume(learner, stored)
    log.info("learner_resumed", sequence=learner.sequence, kept=len(learner.kept))
    keys = {sequence for key in stored if (sequence := kept_sequence(key)) is not None}
    return Publisher(parts, learner, keys)


def resume(learner: Learner, stored: Mapping[str, StoredVersion]) -> None:
    """Has a learner go on from the newest version that fits, with the versions kept as of it."""
    for snapshot, kept in _candidates(stored):
        try:
            learner.resume(_version(snapshot, kept), _kept_versions(stored, kept))
        except SnapshotError as error:
            log.error("version_left_out", sequence=snapshot.sequence, reason=str(error))
            continue
        return


def _candidates(
    stored: Mapping[str, StoredVersion],
) -> list[tuple[ModelSnapshot, tuple[int, ...]]]:
    """Good versions by a learner, newest first; last those of which a kept version is gone.

    Of the newest version all are there, see `Publisher`. Of a kept one that a crash has left alone,
    or that is older, some may never have been written or be tombstones by now.
    """
    found = []
    for key, version in stored.items():
        if version.kept is None:
            continue
        try:
            found.append((_sound(version), version.kept))
        except SnapshotError as error:
            log.error("version_left_out", key=key, reason=str(error))

    def rank(candidate: tuple[ModelSnapshot, tuple[int, ...]]) -> tuple[bool, int]:
        snapshot, kept = candidate
        return all(kept_key(sequence) in stored for sequence in kept), snapshot.sequence

    return sorted(found, key=rank, reverse=True)


def _sound(stored: StoredVersion) -> ModelSnapshot:
    snapshot = decode_snapshot(stored.value)
    if snapshot.feature_version != feature_version():
        raise SnapshotError(
            f"feature_version must be {feature_version()}; got {snapshot.feature_version}"
        )
    require_finite(snapshot.arrays)
    return snapshot


def _version(snapshot: ModelSnapshot, kept: tuple[int, ...] = ()) -> Version:
    return Version(snapshot.sequence, snapshot.arrays, snapshot.restored_from, kept)


def _kept_versions(stored: Mapping[str, StoredVersion], kept: tuple[int, ...]) -> list[Version]:
    """The versions that could be gone back to; one that is not there any more is left out."""
    found = []
    for sequence in kept:
        try:
            version = stored[kept_key(sequence)]
            found.append(_version(_sound(version), version.kept or ()))
        except (KeyError, SnapshotError) as error:
            log.error("kept_version_lost", sequence=sequence, reason=str(error))
    return found


class Publisher:
    """Has the learner learn and its versions published. One thread.

    Kept versions go to the log before the version that names them, and tombstones of those let go
    of come behind it: whichever of these a crash cuts off, the newest version finds what it names.
    """

    def __init__(self, parts: LearningParts, learner: Learner, stored: set[int]) -> None:
        self.learner = learner
        self.acknowledged = learner.sequence  # records that the newest version in the log includes
        self.at_end: list[Callable[[], None]] = []
        self._parts = parts
        self._stored = stored  # sequences of kept versions that have a record
        self._published = learner.sequence
        self._published_s = float("-inf")
        self._acknowledged_s: float | None = None
        self._oldest_ms: int | None = None  # decision of the oldest outcome not yet published
        self._writer = LogWriter(parts.log, **VERSION_OPTIONS)
        metrics.VERSION_AGE.set_function(self._age_s)
        metrics.VERSION_SEQUENCE.set_function(lambda: self.acknowledged)

    def take(self, batches: list[LearningBatch]) -> None:
        """Learns batches in their order; publishes when it is time. Raises LogError."""
        for batch in batches:
            before = replace(self.learner.counts)
            self.learner.learn(batch)
            now = self.learner.counts
            metrics.LEARNT.inc(now.outcomes - before.outcomes)
            metrics.ROLLBACKS.labels("followed").inc(now.rollbacks - before.rollbacks)
            refused = now.refused_rollbacks - before.refused_rollbacks
            metrics.ROLLBACKS.labels("refused").inc(refused)
            count_slots(batch.records)
            self._note_oldest(batch)
            self._parts.learnt(self.learner.parts)
            self.publish_if_due()

    def publish_if_due(self) -> None:
        """Publishes a version if there is a new one and the last is old enough. Raises LogError."""
        self._writer.poll(0)
        if self._writer.first_failure is not None:
            raise LogError(self._writer.first_failure)
        if self.learner.sequence == self._published:
            return
        now_s = self._parts.monotonic_s()
        if now_s - self._published_s >= self._parts.publish_every_s:
            self._published_s = now_s
            self._publish()

    def finish(self) -> None:
        """Publishes what is left and waits until the log has it. Raises LogError."""
        if self.learner.sequence != self._published:
            self._publish()
        self._writer.flush()
        for close in self.at_end:
            close()

    def _note_oldest(self, batch: LearningBatch) -> None:
        outcomes = batch.records[batch.records["rollback_to"] == NO_ROLLBACK]
        if len(outcomes):
            oldest_ms = int(outcomes["decided_at_ms"].min())
            self._oldest_ms = min(self._oldest_ms or oldest_ms, oldest_ms)

    def _publish(self) -> None:
        self._parts.check()
        version = self.learner.version()
        self._published = version.sequence
        try:
            require_finite(version.arrays)
        except SnapshotError as error:
            metrics.VERSIONS_REFUSED.inc()
            log.error("version_not_published", sequence=version.sequence, reason=str(error))
            return
        kept = self.learner.kept
        for sequence in sorted(kept.keys() - self._stored):
            self._append(kept_key(sequence), kept[sequence])
        told = partial(self._note_delivery, version.sequence, self._oldest_ms)
        self._oldest_ms = None
        size = self._append(LEARNED, version, told)
        for sequence in sorted(self._stored - kept.keys()):
            self._writer.append(self._parts.models, kept_key(sequence).encode(), None)
        self._stored = set(kept)
        metrics.VERSIONS.inc()
        metrics.VERSION_BYTES.set(size)
        metrics.VERSIONS_KEPT.set(len(kept))

    def _append(
        self,
        key: str,
        version: Version,
        delivered: Callable[[Position | None, str | None], None] | None = None,
    ) -> int:
        """Queues a version; its bytes."""
        value = encode_snapshot(
            ModelSnapshot(
                LEARNED,
                version.sequence,
                version.arrays,
                created_at_ms=self._parts.clock.now_ms(),
                restored_from=version.restored_from,
            )
        )
        headers = kept_headers(version.kept)
        self._writer.append(
            self._parts.models, key.encode(), value, headers=headers, delivered=delivered
        )
        return len(value)

    def _note_delivery(
        self, sequence: int, oldest_ms: int | None, position: Position | None, _reason: str | None
    ) -> None:
        if position is None:
            return  # the writer keeps the failure, which ends the flow
        self.acknowledged = sequence
        self._acknowledged_s = self._parts.monotonic_s()
        if oldest_ms is not None:
            delay_ms = self._parts.clock.now_ms() - oldest_ms
            metrics.LEARNING_DELAY.observe(max(delay_ms, 0) / 1_000)

    def _age_s(self) -> float:
        if self._acknowledged_s is None:
            return -1.0
        return self._parts.monotonic_s() - self._acknowledged_s


class LearningSource(FixedPartitionedSource[Records, None]):
    """Batches of the log of learning, from behind what the learner's state includes."""

    def __init__(self, parts: LearningParts, publisher: Publisher) -> None:
        self._parts = parts
        self._publisher = publisher

    def list_parts(self) -> list[str]:
        """One reader: there is one order."""
        return [str(PARTITION)]

    @reported
    def build_part(
        self,
        step_id: str,  # noqa: ARG002 (Bytewax names it)
        for_part: str,  # noqa: ARG002
        resume_state: None,  # noqa: ARG002 (the newest version says where to go on)
    ) -> "LearningReader":
        """Opens the reader."""
        return LearningReader(self._parts, self._publisher)


class LearningReader(StatefulSourcePartition[Records, None]):
    """One consumer. Raises LogError where the next record is gone."""

    def __init__(self, parts: LearningParts, publisher: Publisher) -> None:
        self._topic = parts.outcomes
        self._stop = parts.stop
        self._publisher = publisher
        self._committed = -1
        self._was_told_to_stop = False
        self._consumer = Consumer(parts.log.consumer(parts.group))
        start = self._start(parts)
        self._consumer.assign([TopicPartition(self._topic, PARTITION, start)])
        self._group = parts.group
        self._looked = metrics.AGES.source("applied", parts.group)
        self._watch = self._watching(parts) if parts.is_watched else None

    def _watching(self, parts: LearningParts) -> LogWatch:
        place, learner = (self._topic, PARTITION), self._publisher.learner
        watch = LogWatch(
            parts.log, parts.group, lambda: {place: learner.sequence}, {self._topic: outcome_time}
        )
        watch.start()
        return watch

    def _start(self, parts: LearningParts) -> int:
        """Where to go on: behind what is learnt, or where the log begins."""
        wanted = self._publisher.learner.sequence
        place = TopicPartition(self._topic, PARTITION)
        low, high = self._consumer.get_watermark_offsets(place, METADATA_TIMEOUT_S)
        if wanted > high:  # the embedded broker may tell less than there is
            end = end_offsets(parts.log, self._topic, [PARTITION])[PARTITION]
            if wanted > end:
                raise LogError(
                    f"{parts.models} has learned from {wanted} records of {self._topic}, which "
                    f"holds {end}: it is another log; delete the records of {parts.models}"
                )
        if wanted >= low:
            return wanted
        gap = f"{self._topic}: records {wanted} to {low - 1} are no longer in the log"
        if wanted and not parts.accept_gap:
            raise LogError(f"{gap}; HEADRACE_LEARNING__ACCEPT_GAP=true learns on without them")
        log.warning("learning_gap", reason=gap)
        return int(low)

    @reported
    def next_batch(self) -> list[Records]:
        """What has arrived, as one item; else has a version published that waits for its time."""
        if self._stop.is_set():
            self._was_told_to_stop = True
            raise StopIteration
        self._looked.heard()
        first = self._consumer.poll(0)
        if first is None:
            self._publisher.publish_if_due()
            first = self._consumer.poll(IDLE_POLL_S)
        if first is None:
            return []
        found = [first, *self._consumer.consume(MAX_BATCH - 1, 0)]
        records = [record for record in found if self._is_data(record)]
        return [records] if records else []

    def next_awake(self) -> datetime:
        """At once: waiting is done in `poll`, where a record ends it."""
        return ALWAYS

    @reported
    def snapshot(self) -> None:
        """At the end of an epoch, tells Kafka's tools what published versions include."""
        at = self._publisher.acknowledged
        if at > self._committed:
            self._committed = at
            self._consumer.commit(offsets=[self._place(at)], asynchronous=True)

    def close(self) -> None:
        """After a crash at once; else when the publisher has finished, with a last commit."""
        if self._watch is not None:
            self._watch.stop()
        metrics.AGES.forget("applied", self._group)
        if self._was_told_to_stop:
            self._publisher.at_end.append(self._finish)
        else:
            self._consumer.close()

    def _finish(self) -> None:
        try:
            offsets = [self._place(self._publisher.acknowledged)]
            self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            log.warning("last_commit_failed", topic=self._topic, error=str(error))
        self._consumer.close()

    def _place(self, offset: int) -> TopicPartition:
        return TopicPartition(self._topic, PARTITION, offset)

    def _is_data(self, record: Message) -> bool:
        error = record.error()
        if error is None:
            return True
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise LogError(f"{self._topic}: the next record is not in the log ({error.str()})")
        if error.fatal() or not error.retriable():
            log.warning("consumer_error", topic=self._topic, error=error.str())
        return False
