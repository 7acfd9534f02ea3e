"""Two topics with equally many partitions, read as one log in the order of append time.

A record is handed on once the other topic's partition is known to hold nothing older: its next
record is here and is newer, or the partition has been read to its end. What the log held at the
start is merged strictly. Of what arrives now, a record waits for its counterpart at most as long
as a poll takes, unless the other topic is known to have more.

The group's committed offsets, which ordinary Kafka tools can read, say up to where everything that
follows from the records lies in a third topic. Beside each stands a note: where to begin reading
to know again what was known then. What lies between the two is handed on as quiet.
"""

import json
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Final, Self

import structlog
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from features.clock import Clock, WallClock
from features.log import LogConfig, LogError, OffsetGoneError, end_offsets
from streams import metrics
from streams.failures import reported
from streams.kafka import ALWAYS, note_commit
from streams.log_watch import EventTime, LogWatch

IDLE = timedelta(milliseconds=10)  # between two looks while nothing comes
MAX_BATCH = 2_000
MAX_QUEUED = 10_000  # records of a partition that wait for the other topic: then it is paused
RESUME_AT = 2_000
HOLD_S = 0.05  # a record waits this long for an older one of a topic that seems to be at its end
MAX_HOLD_S = 2.0  # and this long where the topic is known to have more, and nothing comes
ALLOWANCE_MS = 1_000  # by how much the clocks of broker and process may differ
TELL_EVERY_MS = 1_000  # that time has passed, where nothing else has happened
PROOF_EVERY_S = 1.0  # how often a quiet partition is asked for its end
METADATA_TIMEOUT_S = 30

NEVER_MS: Final = -1
ALL_OF_IT: Final = 1 << 62  # later than any record

log = structlog.get_logger(__name__)

Place = tuple[str, int]  # a topic and a partition of it


@dataclass(frozen=True, slots=True)
class Note:
    """What stands beside a committed offset; the group's own words, as JSON."""

    start: int  # where to read from to know again what was known
    until_ms: int  # nothing older was still to come
    written: int  # in the topic that is written to: what is not committed lies behind this offset

    def text(self) -> str:
        """As it is committed."""
        return json.dumps({"from": self.start, "until_ms": self.until_ms, "written": self.written})

    @classmethod
    def read(cls, text: str | None) -> Self | None:
        """The note in a commit's metadata; None where there is none, or somebody else's.

        >>> Note.read(Note(3, 17, 5).text())
        Note(start=3, until_ms=17, written=5)
        >>> Note.read("") is None
        True
        """
        try:
            found = json.loads(text or "")
            return cls(int(found["from"]), int(found["until_ms"]), int(found["written"]))
        except (ValueError, KeyError, TypeError):
            return None


@dataclass(frozen=True, slots=True)
class MergedBatch:
    """Records of one partition of both topics, each in its order, older than all to come."""

    partition: int
    first: Sequence[Message]  # of the first topic
    second: Sequence[Message]
    until_ms: int  # nothing that the log received before this is still to come
    is_quiet: bool  # what follows from them has been written


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a partition has been handed on."""

    offsets: tuple[int, int]
    until_ms: int
    latest_ms: int  # time of the newest record among them


@dataclass(slots=True)
class Side:
    """One topic's share of a partition."""

    quiet_end: int  # records before it are quiet
    read: int  # offset behind the last record that has arrived
    released: int  # offset behind the last record that was handed on
    strict_end: int = 0  # up to here the log held records at the start ...
    strict_ms: int = NEVER_MS  # ... and nothing else that was older than this
    proven_ms: int = NEVER_MS  # nothing older is still to arrive
    waiting: deque[tuple[int, float, Message]] = field(default_factory=deque)
    is_paused: bool = False

    def known_ms(self) -> int:
        """Records older than this have all arrived."""
        return (
            self.proven_ms if self.read < self.strict_end else max(self.proven_ms, self.strict_ms)
        )

    def until_ms(self) -> int:
        """Records older than this have all been handed on."""
        return self.waiting[0][0] if self.waiting else self.known_ms()

    def is_quiet_done(self) -> bool:
        """Whether all quiet records have been handed on."""
        return self.released >= self.quiet_end


class PartitionMerge:
    """The merge of one partition; told of records and of what is known, asked for batches.

    Impressions and interactions, say: of equally old records the first topic's come first.
    """

    def __init__(self, partition: int, sides: tuple[Side, Side], quiet_until_ms: int) -> None:
        self.partition = partition
        self.sides = sides
        self.latest_ms = NEVER_MS
        self.first_topic_ms = NEVER_MS  # time of the newest record of the first topic
        self._quiet_until_ms = quiet_until_ms
        self._told_ms = quiet_until_ms  # until when, as the last batch said that is not quiet
        self.is_quiet = not all(side.is_quiet_done() for side in sides)  # quiet ones are to come

    @property
    def progress(self) -> Progress:
        """How far it has been handed on."""
        first, second = self.sides
        return Progress((first.released, second.released), self._told_ms, self.latest_ms)

    def add(self, side: int, record: Message, now_s: float) -> None:
        """A record of the first (0) or second (1) topic has arrived."""
        mine = self.sides[side]
        at_ms = record.timestamp()[1]
        mine.waiting.append((at_ms, now_s, record))
        mine.read = (record.offset() or 0) + 1

    def take(self, now_s: float, has_more: Callable[[int], bool]) -> MergedBatch | None:
        """What can be handed on now; None for nothing, and nothing new is known of the time.

        `has_more(side)`: the log is known to hold records that have not arrived.
        """
        if self.is_quiet:
            return self._take_quiet()
        first, second = self.sides
        taken: tuple[list[Message], list[Message]] = ([], [])
        while (side := self._next_side(now_s, has_more)) is not None:
            taken[side].append(self._release(side))
        until_ms = max(self._told_ms, min(first.until_ms(), second.until_ms()))
        if not taken[0] and not taken[1] and until_ms < self._told_ms + TELL_EVERY_MS:
            return None
        self._told_ms = until_ms
        return MergedBatch(self.partition, *taken, until_ms, is_quiet=False)

    def _take_quiet(self) -> MergedBatch | None:
        """Quiet records in their order: strictly, since all of them are in the log.

        A last batch lets the time pass that had passed.
        """
        if all(side.is_quiet_done() for side in self.sides):
            self.is_quiet = False
            return MergedBatch(self.partition, (), (), self._quiet_until_ms, is_quiet=True)
        taken: tuple[list[Message], list[Message]] = ([], [])
        while True:
            heads = [self._quiet_head_ms(side) for side in (0, 1)]
            if None in heads or min(heads) == ALL_OF_IT:  # type: ignore[type-var]
                break
            side = 0 if heads[0] <= heads[1] else 1  # type: ignore[operator]
            taken[side].append(self._release(side))
        if not taken[0] and not taken[1]:
            return None
        until_ms = min(self.latest_ms, self._quiet_until_ms)
        return MergedBatch(self.partition, *taken, until_ms, is_quiet=True)

    def _quiet_head_ms(self, side: int) -> int | None:
        """Time of the next quiet record; ALL_OF_IT after the last, None while it is on its way."""
        mine = self.sides[side]
        if mine.is_quiet_done():
            return ALL_OF_IT
        return mine.waiting[0][0] if mine.waiting else None

    def _next_side(self, now_s: float, has_more: Callable[[int], bool]) -> int | None:
        """Whose record comes next, None while that cannot be told."""
        first, second = (side.waiting for side in self.sides)
        if first and second:
            return 0 if first[0][0] <= second[0][0] else 1
        if not first and not second:
            return None
        side = 0 if first else 1
        at_ms, came_s, _ = self.sides[side].waiting[0]
        other = self.sides[1 - side]
        if other.known_ms() > at_ms:
            return side
        if other.read < other.strict_end:
            return None
        patience_s = MAX_HOLD_S if has_more(1 - side) else HOLD_S
        return side if now_s - came_s >= patience_s else None

    def _release(self, side: int) -> Message:
        mine = self.sides[side]
        at_ms, _, record = mine.waiting.popleft()
        mine.released = (record.offset() or 0) + 1
        mine.proven_ms = max(mine.proven_ms, at_ms)
        self.latest_ms = max(self.latest_ms, at_ms)
        if side == 0:
            self.first_topic_ms = max(self.first_topic_ms, at_ms)
        return record


class Checkpoints:
    """How far a partition was at some moments of the past: where to begin reading to know again.

    About 32 of them; before the first it is where this process began.
    """

    def __init__(self, starts: tuple[int, int], memory_ms: int) -> None:
        self._past = deque([Progress(starts, NEVER_MS, NEVER_MS)])
        self._memory_ms = memory_ms

    def add(self, progress: Progress) -> None:
        """Remembers how far it is."""
        past = self._past
        if progress.latest_ms >= past[-1].latest_ms + self._memory_ms // 32:
            past.append(progress)

    def before(self, progress: Progress) -> tuple[int, int]:
        """Offsets before everything that bears on what follows; `progress` never goes back."""
        oldest_ms = progress.until_ms - self._memory_ms
        while len(self._past) > 1 and self._past[1].latest_ms < oldest_ms:
            self._past.popleft()
        return self._past[0].offsets


@dataclass(frozen=True, slots=True)
class Start:
    """Where a partition goes on, as the group has committed it."""

    offsets: tuple[int, int]  # to read from
    quiet_ends: tuple[int, int]
    until_ms: int
    written: int


patiently = retry(
    retry=retry_if_exception_type(KafkaException),  # a broker that has just started
    stop=stop_after_delay(METADATA_TIMEOUT_S),
    wait=wait_fixed(0.2),
    reraise=True,
)


@patiently
def read_starts(
    config: LogConfig, group: str, topics: tuple[str, str], partitions: Sequence[int]
) -> dict[int, Start]:
    """Where each partition goes on.

    Without both notes (nobody has committed, somebody has moved the group by hand, or the broker
    keeps no notes, as the embedded one) it is the beginning of the log, and of what was written.
    """
    consumer = Consumer(config.consumer(group))
    try:
        return {p: _start(consumer, topics, p) for p in partitions}
    finally:
        consumer.close()


def _start(consumer: Consumer, topics: tuple[str, str], partition: int) -> Start:
    places = [TopicPartition(topic, partition) for topic in topics]
    lows = tuple(max(consumer.get_watermark_offsets(p, METADATA_TIMEOUT_S)[0], 0) for p in places)
    found = consumer.committed(places, timeout=METADATA_TIMEOUT_S)
    for place in found:
        if place.error is not None:
            raise LogError(f"{place.topic}/{partition}: {place.error.str()}")
    notes = [Note.read(place.metadata) if place.offset >= 0 else None for place in found]
    if notes[0] is None or notes[1] is None:
        return Start((lows[0], lows[1]), (0, 0), NEVER_MS, 0)
    for place, low in zip(found, lows, strict=True):
        if place.offset < low:
            log.error("records_lost", topic=place.topic, partition=partition, first=place.offset)
    return Start(
        (max(notes[0].start, lows[0]), max(notes[1].start, lows[1])),
        (found[0].offset, found[1].offset),
        notes[0].until_ms,
        min(notes[0].written, notes[1].written),
    )


@dataclass(frozen=True, slots=True)
class MergeParts:
    """What the source is given."""

    log: LogConfig
    topics: tuple[str, str]
    group: str
    starts: Mapping[int, Start]  # by partition
    memory_ms: int  # how far back records bear on what follows from new ones
    written: Callable[[], int]  # offset behind all that followed from what was handed on
    stop: Event
    clock: Clock = field(default_factory=WallClock)
    at_end: list[Callable[[], None]] | None = None
    event_times: Mapping[str, EventTime] = field(default_factory=dict)  # by topic
    is_watched: bool = False  # whether lag is measured, by a thread


class MergedSource(FixedPartitionedSource[MergedBatch, None]):
    """Batches of both topics, from what `starts` says."""

    def __init__(self, parts: MergeParts) -> None:
        self._parts = parts

    def list_parts(self) -> list[str]:
        """One reader: a partition's state is in one place."""
        return ["0"]

    @reported
    def build_part(
        self,
        step_id: str,  # noqa: ARG002 (Bytewax names it)
        for_part: str,  # noqa: ARG002
        resume_state: None,  # noqa: ARG002 (offsets live in Kafka)
    ) -> "MergedReader":
        """Opens the reader."""
        return MergedReader(self._parts)


class MergedReader(StatefulSourcePartition[MergedBatch, None]):
    """One consumer over the partitions of both topics.

    An epoch's offsets are committed once the epoch after it has ended: by then whatever followed
    from its records lies in the topic that is written to.
    """

    def __init__(self, parts: MergeParts) -> None:
        self._parts = parts
        self._sides = {topic: side for side, topic in enumerate(parts.topics)}
        self._merges = _merges(parts)
        self._checkpoints = {
            p: Checkpoints(start.offsets, parts.memory_ms) for p, start in parts.starts.items()
        }
        self._ended: dict[int, tuple[Progress, int]] = {}  # at the end of the epoch before
        self._committed: dict[int, tuple[Progress, int]] = {}
        self._next_proof_s = 0.0
        self._proof_at = 0
        self._was_told_to_stop = False
        self._awake = ALWAYS
        self._consumer = Consumer({**parts.log.consumer(parts.group), "on_commit": note_commit})
        self._consumer.assign(
            [
                TopicPartition(topic, p, merge.sides[side].read)
                for p, merge in self._merges.items()
                for topic, side in self._sides.items()
            ]
        )
        self._looked = metrics.AGES.source("applied", parts.group)
        self._watch = self._watching() if parts.is_watched else None

    def _watching(self) -> LogWatch:
        parts = self._parts
        watch = LogWatch(parts.log, parts.group, self._released, parts.event_times)
        watch.start()
        return watch

    def _released(self) -> Mapping[Place, int]:
        return {(topic, p): side.released for topic, p, side in self._all_sides()}

    @reported
    def next_batch(self) -> list[MergedBatch]:
        """What can be handed on; never waits, since other sources may share the thread."""
        if self._parts.stop.is_set():
            self._was_told_to_stop = True
            raise StopIteration
        self._looked.heard()
        first = self._consumer.poll(0)
        self._awake = ALWAYS if first is not None else datetime.now(UTC) + IDLE
        if first is not None:
            self._sort([first, *self._consumer.consume(MAX_BATCH - 1, 0)])
        self._prove()
        now_s = time.monotonic()
        taken = (merge.take(now_s, self._has_more(p)) for p, merge in self._merges.items())
        batches = [batch for batch in taken if batch is not None]
        self._bound_queues()
        return batches

    def next_awake(self) -> datetime:
        """At once while records come, else in a moment."""
        return self._awake

    @reported
    def snapshot(self) -> None:
        """At the end of an epoch, commits what an epoch before had handed on."""
        self._commit(self._ended, asynchronous=True)
        written = self._parts.written()
        self._ended = {p: (m.progress, written) for p, m in self._merges.items() if not m.is_quiet}
        for partition, (progress, _) in self._ended.items():
            self._checkpoints[partition].add(progress)

    def close(self) -> None:
        """Commits the rest when told to stop, once the flow has ended: then the log has it all."""
        if self._watch is not None:
            self._watch.stop()
        metrics.AGES.forget("applied", self._parts.group)
        if not self._was_told_to_stop:
            self._consumer.close()
        elif self._parts.at_end is None:
            self._finish()
        else:
            self._parts.at_end.append(self._finish)

    def _finish(self) -> None:
        written = self._parts.written()
        rest = {p: (m.progress, written) for p, m in self._merges.items() if not m.is_quiet}
        try:
            self._commit(rest, asynchronous=False)
        except KafkaException as error:
            log.warning("last_commit_failed", topics=self._parts.topics, error=str(error))
        self._consumer.close()

    def _commit(self, ends: Mapping[int, tuple[Progress, int]], *, asynchronous: bool) -> None:
        news = {p: end for p, end in ends.items() if self._committed.get(p) != end}
        offsets = []
        for partition, (progress, written) in news.items():
            starts = self._checkpoints[partition].before(progress)
            for side, topic in enumerate(self._parts.topics):
                note = Note(starts[side], progress.until_ms, written).text()
                at = progress.offsets[side]
                offsets.append(TopicPartition(topic, partition, at, note))
        if offsets:
            self._consumer.commit(offsets=offsets, asynchronous=asynchronous)
            self._committed.update(news)

    def _sort(self, records: Sequence[Message]) -> None:
        now_s = time.monotonic()
        for record in records:
            if self._is_data(record):
                side = self._sides[record.topic() or ""]
                self._merges[record.partition() or 0].add(side, record, now_s)

    def _is_data(self, record: Message) -> bool:
        error = record.error()
        if error is None:
            return True
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise OffsetGoneError(
                f"{record.topic()}/{record.partition()}: the record at which {self._parts.group} "
                f"was to go on is not in the log ({error.str()}): outcomes are lost; another "
                "HEADRACE_ATTRIBUTION__GROUP goes on with what there is, without writing twice"
            )
        if error.fatal() or not error.retriable():
            log.warning("consumer_error", topic=record.topic(), error=error.str())
        return False

    def _has_more(self, partition: int) -> Callable[[int], bool]:
        """Whether the broker has told of records of a topic that have not arrived."""

        def ask(side: int) -> bool:
            place = TopicPartition(self._parts.topics[side], partition)
            _, high = self._consumer.get_watermark_offsets(place, cached=True)
            return bool(high > self._merges[partition].sides[side].read)

        return ask

    def _bound_queues(self) -> None:
        """Pauses what runs ahead of its counterpart; goes on with what does so no more."""
        for topic, partition, side in self._all_sides():
            place = TopicPartition(topic, partition)
            if len(side.waiting) > MAX_QUEUED and not side.is_paused:
                self._consumer.pause([place])
                side.is_paused = True
            elif side.is_paused and len(side.waiting) < RESUME_AT:
                self._consumer.resume([place])
                side.is_paused = False

    def _prove(self) -> None:
        """Asks for the end of one partition that has been quiet, where slates may wait for it."""
        now_s = time.monotonic()
        if now_s < self._next_proof_s:
            return
        places = list(self._all_sides())
        self._next_proof_s = now_s + PROOF_EVERY_S / len(places)
        self._proof_at = (self._proof_at + 1) % len(places)
        topic, partition, side = places[self._proof_at]
        merge = self._merges[partition]
        awaited_ms = merge.first_topic_ms + self._parts.memory_ms
        proof_ms = self._parts.clock.now_ms() - ALLOWANCE_MS
        is_recent = side.known_ms() > min(awaited_ms, proof_ms - 1e3 * PROOF_EVERY_S)
        if merge.is_quiet or side.waiting or is_recent:
            return
        try:
            _, high = self._consumer.get_watermark_offsets(TopicPartition(topic, partition), 5)
        except KafkaException as error:
            log.warning("end_not_known", topic=topic, partition=partition, error=str(error))
            return  # without a proof time does not pass; another will be asked for
        if side.read >= max(high, side.strict_end):
            side.proven_ms = max(side.proven_ms, proof_ms)

    def _all_sides(self) -> Iterator[tuple[str, int, Side]]:
        for partition, merge in self._merges.items():
            for topic, side in zip(self._parts.topics, merge.sides, strict=True):
                yield topic, partition, side


@patiently
def _merges(parts: MergeParts) -> dict[int, PartitionMerge]:
    """The merge of each partition, where it starts; up to what the log holds now it is strict."""
    strict_ms = parts.clock.now_ms() - ALLOWANCE_MS
    ends = [end_offsets(parts.log, topic, list(parts.starts)) for topic in parts.topics]
    merges = {}
    for partition, start in parts.starts.items():
        for side, topic in enumerate(parts.topics):
            if ends[side][partition] < start.quiet_ends[side]:
                raise OffsetGoneError(
                    f"{topic}/{partition} ends at {ends[side][partition]}, before the offset "
                    f"{start.quiet_ends[side]} that {parts.group} has committed: it is another "
                    "log; another HEADRACE_ATTRIBUTION__GROUP begins anew"
                )
        first, second = (
            Side(
                quiet_end=start.quiet_ends[side],
                read=start.offsets[side],
                released=start.offsets[side],
                strict_end=ends[side][partition],
                strict_ms=strict_ms,
            )
            for side in (0, 1)
        )
        merges[partition] = PartitionMerge(partition, (first, second), start.until_ms)
    return merges
