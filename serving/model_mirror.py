"""The learned state in use: the newest sound version of the topic `models`, swapped by reference.

A thread beside the server reads versions as they are published, checks each in full, makes of it
whatever answers need, and only then puts it in the place of the one before. A request that has
taken `current` once works with one version from its beginning to its end.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import structlog
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from features.clock import Clock
from features.learning_codec import decode_snapshot
from features.log import LogConfig, LogError, partitions_of
from features.model_snapshot import (
    Arrays,
    ChecksumError,
    ModelSnapshot,
    SnapshotError,
    require_finite,
)
from features.model_versions import LEARNED, SERVED, key_of
from features.registry import feature_version
from serving import metrics

TAIL: Final = 64  # records from the end in which the newest version is looked for first
CONSUME_BATCH: Final = 16
POLL_S: Final = 0.1  # ends with the first record
FETCH_WAIT_MS: Final = 10
FIRST_PAUSE_S, LAST_PAUSE_S = 0.1, 2.0
METADATA_TIMEOUT_S: Final = 10.0
NEVER: Final = -1.0
PARTITION: Final = 0

log = structlog.get_logger(__name__)

Reader = Callable[[Arrays], Any]  # what answers need of one part's arrays; raises SnapshotError


@dataclass(frozen=True, slots=True)
class LearnedState:
    """A version as answers use it; nothing in it ever changes."""

    sequence: int
    created_at_ms: int
    restored_from: int
    arrays: Arrays  # all of them, not writable
    parts: Mapping[str, Any]  # what the reader of each part made of its arrays


class _RefusedError(Exception):
    """A version not to be used, with the reason as metrics name it."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class ModelMirror:
    """`current` is the newest sound version, None until there is one.

    `readers` name the parts that a version must hold, and how each is made of its arrays, without
    the part's name in front. Subscribers are told of each version after it is in use, on the
    mirror's own thread: what takes time is to be done there.
    """

    def __init__(
        self, config: LogConfig, topic: str, readers: Mapping[str, Reader], clock: Clock
    ) -> None:
        self.current: LearnedState | None = None
        self._config = config
        self._topic = topic
        self._readers = dict(readers)
        self._source = metrics.AGES.source("models")
        self._clock = clock
        self._subscribers: list[Callable[[LearnedState], None]] = []
        self._is_new_log = False  # the log that answers is not the one that `current` is of
        self._cluster_id: str | None = None
        self._stopping = threading.Event()
        self._connection_lost = threading.Event()
        self._is_at_end = False
        self._consumer: Consumer | None = None
        self._thread = threading.Thread(target=self._run, name="models", daemon=True)

    def subscribe(self, callback: Callable[[LearnedState], None]) -> None:
        """Has `callback` told of each version from now on, and of the one in use at once."""
        self._subscribers.append(callback)
        if self.current is not None:
            callback(self.current)

    def start(self) -> None:
        """Takes the newest version into use, then follows in another thread.

        Raises LogError or KafkaException where the topic cannot be read.
        """
        metrics.MODEL_SEQUENCE.set_function(lambda: self.current.sequence if self.current else 0)
        metrics.MODEL_AGE.set_function(self.age_s)
        metrics.MODEL_FOLLOWER.set_function(self._is_following)
        self._consumer = self._begin()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; it takes as long as one look at the log."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def is_alive(self) -> bool:
        """Whether versions are being followed."""
        return self._thread.is_alive()

    def age_s(self) -> float:
        """Seconds since the version in use was made; -1: there is none."""
        if self.current is None:
            return NEVER
        return max(self._clock.now_ms() - self.current.created_at_ms, 0) / 1_000

    def _is_following(self) -> float:
        return float(self.is_alive() and not self._connection_lost.is_set())

    def take(self, value: bytes) -> bool:
        """Takes the encoded version into use if it is sound and newer; whether it was.

        One that is refused is counted by its reason and logged; the one in use stays.
        """
        try:
            state = self._checked(value)
        except _RefusedError as refused:
            metrics.MODEL_REFUSED.labels(refused.reason).inc()
            log.error("version_refused", why=refused.reason, reason=str(refused))
            return False
        if state is None:
            return False
        self.current = state
        self._is_new_log = False
        metrics.MODEL_SWAPS.inc()
        metrics.MODEL_DELAY.observe(self.age_s())
        for callback in self._subscribers:
            self._tell(callback, state)
        return True

    def _tell(self, callback: Callable[[LearnedState], None], state: LearnedState) -> None:
        try:
            callback(state)
        except Exception as error:  # whatever it is, the next version must find somebody here
            metrics.MODEL_REFUSED.labels("subscriber").inc()
            log.exception("subscriber_failed", sequence=state.sequence, error=repr(error))

    def _checked(self, value: bytes) -> LearnedState | None:
        """The version, None where it is the one in use. Raises _RefusedError."""
        try:
            snapshot = decode_snapshot(value)
        except ChecksumError as error:
            raise _RefusedError("checksum", str(error)) from error
        except SnapshotError as error:
            raise _RefusedError("undecodable", str(error)) from error
        in_use = self.current
        if in_use is not None and not self._is_new_log:
            if snapshot.sequence == in_use.sequence:
                return None
            if snapshot.sequence < in_use.sequence:
                text = f"sequence must be above {in_use.sequence}; got {snapshot.sequence}"
                raise _RefusedError("older", text)
        self._refuse_unfit(snapshot)
        return LearnedState(
            snapshot.sequence,
            snapshot.created_at_ms,
            snapshot.restored_from,
            snapshot.arrays,
            MappingProxyType(self._read_parts(snapshot)),
        )

    def _refuse_unfit(self, snapshot: ModelSnapshot) -> None:
        if snapshot.name != LEARNED:
            raise _RefusedError("name", f"name must be {LEARNED!r}; got {snapshot.name!r}")
        if snapshot.feature_version != feature_version():
            text = f"feature_version must be {feature_version()}; got {snapshot.feature_version}"
            raise _RefusedError("feature_version", text)
        try:
            require_finite(snapshot.arrays)
        except SnapshotError as error:
            raise _RefusedError("not_finite", str(error)) from error

    def _read_parts(self, snapshot: ModelSnapshot) -> dict[str, Any]:
        for values in snapshot.arrays.values():
            values.flags.writeable = False
        parts = {}
        for name, read in self._readers.items():
            prefix = f"{name}/"
            own = {
                array.removeprefix(prefix): values
                for array, values in snapshot.arrays.items()
                if array.startswith(prefix)
            }
            try:
                parts[name] = read(own)
            except (SnapshotError, ValueError, TypeError, KeyError, IndexError) as error:
                raise _RefusedError("shape", f"{name}: {error}") from error
        return parts

    def _begin(self) -> Consumer:
        """A consumer behind the end of the topic, the newest sound version before it in use."""
        if partitions_of(self._config, self._topic) != [PARTITION]:
            raise LogError(f"{self._topic} must have 1 partition")
        self._connection_lost.clear()
        consumer = self._open()
        try:
            cluster_id = consumer.list_topics(timeout=METADATA_TIMEOUT_S).cluster_id
            self._is_new_log = self._cluster_id not in (None, cluster_id)
            self._cluster_id = cluster_id
            low, high = consumer.get_watermark_offsets(
                TopicPartition(self._topic, PARTITION), METADATA_TIMEOUT_S
            )
            tail = max(low, high - TAIL)
            self._take_newest(self._read_from(consumer, tail))
            if tail > low and (self.current is None or self._is_new_log):
                self._take_newest(self._read_from(consumer, low))
        except BaseException:
            consumer.close()
            raise
        sequence = self.current.sequence if self.current else None
        log.info("models_followed", topic=self._topic, sequence=sequence)
        return consumer

    def _read_from(self, consumer: Consumer, start: int) -> dict[str, list[bytes]]:
        """Encoded versions by key from an offset to the end, in order."""
        consumer.assign([TopicPartition(self._topic, PARTITION, start)])
        found: dict[str, list[bytes]] = {}
        self._is_at_end = False
        while not self._is_at_end:
            if self._stopping.is_set():
                return {}
            for message in _arrived(consumer):
                value = self._value_of(message)
                if value:
                    found.setdefault(key_of(message), []).append(value)
        return found

    def _take_newest(self, found: Mapping[str, list[bytes]]) -> None:
        """Takes the newest sound version of each key; an older one is not held against anybody."""
        for key in SERVED:
            for value in reversed(found.get(key, [])):
                if not self._is_newer(value) or self.take(value):
                    break

    def _is_newer(self, value: bytes) -> bool:
        if self.current is None or self._is_new_log:
            return True
        try:
            return decode_snapshot(value).sequence > self.current.sequence
        except SnapshotError:
            return True  # `take` says what is wrong with it

    def _open(self) -> Consumer:
        return Consumer(
            {
                **self._config.consumer("headrace-models"),
                "enable.partition.eof": True,
                "error_cb": self._note_trouble,
                "fetch.wait.max.ms": FETCH_WAIT_MS,
                "log_level": 0,  # errors come to the callback
            }
        )

    def _run(self) -> None:
        """Follows, and begins again after trouble; nothing but `stop` ends it."""
        pause_s = FIRST_PAUSE_S
        while not self._stopping.is_set():
            try:
                self._consumer = self._consumer or self._begin()
                self._follow(self._consumer)
                pause_s = FIRST_PAUSE_S
            except (KafkaException, LogError, OSError) as error:
                self._close()
                self._connection_lost.set()
                log.warning("models_interrupted", reason=str(error), next_try_s=pause_s)
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
        self._close()

    def _close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = None

    def _follow(self, consumer: Consumer) -> None:
        """Takes versions until told to stop. Raises LogError where this log is no longer it."""
        while not self._stopping.is_set():
            for message in _arrived(consumer):
                value = self._value_of(message)
                if value and key_of(message) in SERVED:
                    self.take(value)
            if self._connection_lost.is_set():
                self._require_same_log(consumer)
            else:
                self._source.heard()

    def _require_same_log(self, consumer: Consumer) -> None:
        """Raises LogError where another log answers, or one that came back without its records."""
        try:
            cluster_id = consumer.list_topics(timeout=1.0).cluster_id
        except KafkaException:
            return  # none answers: the version in use stays
        if cluster_id != self._cluster_id:
            raise LogError("another log answers")
        self._connection_lost.clear()

    def _value_of(self, message: Message) -> bytes | None:
        """The value of a record. Raises LogError where records may have been missed."""
        error = message.error()
        if error is None:
            return bytes(message.value() or b"")
        if error.code() == KafkaError._PARTITION_EOF:
            self._is_at_end = True
        elif error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            raise LogError(f"{self._topic}: its place is lost ({error.str()})")
        else:
            self._note_trouble(error)
        return None

    def _note_trouble(self, error: KafkaError) -> None:
        if not self._connection_lost.is_set():
            log.warning("models_broker_away", reason=error.str())
        self._connection_lost.set()


def _arrived(consumer: Consumer) -> list[Message]:
    """What has arrived; waits for the first message alone, not for a full batch."""
    first = consumer.poll(POLL_S)
    return [] if first is None else [first, *consumer.consume(CONSUME_BATCH - 1, 0)]
