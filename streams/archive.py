"""The log -> the lake: every record once, in Parquet files by day.

    records of all topics -> buffers by partition -> files

A file is written under another name, made durable and renamed; its name states its partition and
offsets. A restart goes on behind the last whole file of each partition, whatever offsets the group
has committed: those are committed behind the files, for tools that watch lag. So no crash leaves a
record out of the lake or puts it in twice. Memory is bounded: a partition is written out when its
file is full, all of them when a fixed number of bytes waits, or after some time.
"""

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import Enum
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from threading import Event
from typing import Any

import bytewax.operators as op
import pyarrow as pa
import structlog
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from features import lake
from features.codec import WireError, decode_impression, decode_interaction
from features.events import Impression, Interaction
from features.lake import LakeError, LogIdentity
from features.log import CONTENT_TYPE, JSON_TYPE, LogConfig, LogError, partitions_of
from streams import metrics
from streams.kafka import ALWAYS, CallSink, Records
from streams.log_watch import LogWatch, Place, impression_time, interaction_time, outcome_time

MAX_BATCH = 2_000
WAIT_S = 0.1  # for a batch to fill: nobody waits for the lake
MAX_WAITING_BYTES = 64 << 20
AT_ONCE = 1_000  # records that are Python objects at one time
BYTES_A_RECORD = 1_000  # of memory, beside its value: objects, headers, columns
METADATA_TIMEOUT_S = 30
DAY_MS = 86_400_000
LOCK_FILE = ".lock"
NOT_INCLUDED = -1  # the viewer was unknown: nothing of the log was in the decision

# Wide enough for whatever the wire can hold: a record that fits no column would stop the archive.
INTERACTION_COLUMNS = (
    *lake.RAW,
    ("event_id", pa.string()),
    ("user_id", pa.string()),
    ("profile_id", pa.string()),
    ("item_id", pa.string()),
    ("session_id", pa.string()),
    ("type", pa.string()),
    ("occurred_at_ms", pa.int64()),
    ("request_id", pa.string()),
    ("slot", pa.int64()),
    ("watch_position_s", pa.float32()),
    ("watch_duration_s", pa.float32()),
    ("rating", pa.float32()),
    ("device", pa.string()),
    ("page", pa.string()),
    ("region", pa.string()),
)
IMPRESSION_COLUMNS = (
    *lake.PLACE,
    ("undecodable", pa.binary()),  # the value of a record that is no impression; else null
    ("event_timestamp", pa.timestamp("ms", "UTC")),  # when it was served, as Feast wants it
    ("request_id", pa.string()),
    ("user_id", pa.string()),
    ("profile_id", pa.string()),
    ("session_id", pa.string()),
    ("served_at_ms", pa.int64()),
    ("included_partition", pa.int32()),  # of the viewer's last included event; -1: unknown viewer
    ("included_offset", pa.int64()),
    ("bundle_version", pa.string()),
    ("feature_version", pa.string()),
    ("degraded", pa.list_(pa.string())),
    ("n_candidates", pa.int64()),
    ("device", pa.string()),
    ("page", pa.string()),
    ("region", pa.string()),
    ("slot", pa.int32()),  # place in the slate, from 0; null: the slate was empty
    ("item_id", pa.string()),
    ("source", pa.string()),
    ("arm", pa.string()),
    ("propensity", pa.float64()),
    ("score", pa.float64()),
    ("cause_item_id", pa.string()),
    ("features", pa.list_(pa.float32())),
)

EVENT_TIMES = {
    lake.INTERACTIONS: interaction_time,
    lake.IMPRESSIONS: impression_time,
    lake.OUTCOMES: outcome_time,
}
DECODED = tuple(name for name, _ in INTERACTION_COLUMNS[len(lake.RAW) :])
UNKNOWN = (None,) * len(DECODED)  # of a record that is no event
values_of = attrgetter(*DECODED)

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class ArchiveParts:
    """What the flow is given."""

    log: LogConfig
    topics: Mapping[str, str]  # topic of each table of the lake
    group: str
    folder: Path
    flush_s: float = 60.0  # a record waits this long at most
    rows_per_file: int = 100_000
    accept_gap: bool = False  # whether to go on where the log no longer has the next record
    stop: Event = field(default_factory=Event)
    is_watched: bool = False  # whether lag is measured, by a thread


@contextmanager
def archive_flow(parts: ArchiveParts) -> Iterator[tuple[Dataflow, "LakeWriter"]]:
    """The dataflow and its writer, over a lake that is this process's alone.

    Call the writer's `flush` when the flow has ended well. Raises LakeError when another archive
    writes to the lake, or when it holds another log, and LogError when a topic is missing.
    """
    partitions = {
        table: len(partitions_of(parts.log, topic)) for table, topic in parts.topics.items()
    }
    identity = LogIdentity(_cluster_id(parts.log), dict(parts.topics), partitions)
    with _alone(parts.folder):
        lake.claim(parts.folder, identity)
        writer = LakeWriter(
            parts.folder,
            {topic: table for table, topic in parts.topics.items()},
            flush_s=parts.flush_s,
            rows_per_file=parts.rows_per_file,
        )
        places = [(parts.topics[table], p) for table, n in partitions.items() for p in range(n)]
        flow = Dataflow("archive")
        source = LogSource(parts, places, writer)
        records = op.input("read_log", flow, source)
        op.output("write_files", records, CallSink(lambda: writer.take))
        yield flow, writer


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keeps other archives out of a lake. The lock ends with the process, however it ends."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("w")
    except OSError as error:
        raise LakeError(f"{folder} cannot be written: {error}") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LakeError(f"another archive writes to {folder}; two would disagree") from error
        yield


def _cluster_id(config: LogConfig) -> str:
    consumer = Consumer(config.consumer("headrace-metadata"))
    try:
        return str(consumer.list_topics(timeout=METADATA_TIMEOUT_S).cluster_id or "")
    finally:
        consumer.close()


class LakeWriter:
    """Records in memory by partition, and their files. One thread.

    `durable` has, for each partition, the offset behind the last record that lies in a file.
    """

    def __init__(
        self,
        folder: Path,
        tables: Mapping[str, str],
        *,
        flush_s: float,
        rows_per_file: int,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._tables = tables
        self._flush_s = flush_s
        self._rows_per_file = rows_per_file
        self._monotonic_s = monotonic_s
        self._waiting: dict[Place, list[Message]] = {}
        self._waiting_bytes = 0
        self._oldest_s: float | None = None  # when the first record that waits came
        self.durable: dict[Place, int] = {
            (topic, partition): offset
            for topic, table in tables.items()
            for partition, offset in lake.next_offsets(folder, table).items()
        }

    def take(self, batches: list[Records]) -> None:
        """Takes records, in the order of each partition. Raises LakeError when it cannot write."""
        for record in (record for batch in batches for record in batch):
            place = (record.topic() or "", record.partition() or 0)
            waiting = self._waiting.setdefault(place, [])
            waiting.append(record)
            self._waiting_bytes += BYTES_A_RECORD + len(record)
            if self._oldest_s is None:
                self._oldest_s = self._monotonic_s()
            if len(waiting) >= self._rows_per_file:
                self._write(place)
        if self._waiting_bytes >= MAX_WAITING_BYTES:
            self.flush()
        self.flush_if_due()
        self._observe()

    def flush_if_due(self) -> None:
        """Writes everything when the oldest record has waited long enough. Raises LakeError."""
        if self._oldest_s is not None and self._monotonic_s() - self._oldest_s >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Writes everything that waits. Raises LakeError."""
        for place in sorted(self._waiting):
            self._write(place)
        self._oldest_s = None
        self._observe()

    def _observe(self) -> None:
        metrics.ARCHIVE_WAITING.set(sum(map(len, self._waiting.values())))

    def _write(self, place: Place) -> None:
        """Writes one partition's records, a file for each run of records of one day."""
        records = self._waiting.pop(place)
        table = self._tables[place[0]]
        for day, run in groupby(records, lambda record: record.timestamp()[1] // DAY_MS):
            taken = list(run)
            folder = self._folder / table / f"day={_date(day)}"
            first, last = taken[0].offset(), taken[-1].offset()
            path = lake.write_file(folder, place[1], first, last, rows_of(table, taken))
            self.durable[place] = last + 1
            metrics.ARCHIVED.labels(table).inc(len(taken))
            log.debug("file_written", path=str(path), records=len(taken))
        self._waiting_bytes -= sum(BYTES_A_RECORD + len(record) for record in records)


def _date(day: int) -> str:
    return datetime.fromtimestamp(day * DAY_MS / 1_000, UTC).date().isoformat()


def rows_of(table: str, records: Records) -> Any:
    """Records as an Arrow table: as they were, and decoded where that helps to read them.

    A thousand at a time: as Python objects a slate takes twenty times its bytes.
    """
    starts = range(0, len(records), AT_ONCE)
    return pa.concat_tables(_rows_of(table, records[at : at + AT_ONCE]) for at in starts)


def _rows_of(table: str, records: Records) -> Any:
    if table == lake.IMPRESSIONS:
        rows = [row for record in records for row in _slot_rows(record)]
        return pa.Table.from_pylist(rows, pa.schema(IMPRESSION_COLUMNS))
    columns = lake.raw_columns(records)
    if table != lake.INTERACTIONS:
        return pa.table(columns, pa.schema(lake.RAW))
    events = [_interaction_of(record) for record in records]
    decoded = [UNKNOWN if event is None else values_of(event) for event in events]
    columns |= zip(DECODED, map(list, zip(*decoded, strict=True)), strict=True)
    for name in ("type", "device", "page"):
        columns[name] = [_word(value) for value in columns[name]]
    return pa.table(columns, pa.schema(INTERACTION_COLUMNS))


def _interaction_of(record: Message) -> Interaction | None:
    """The event of a record, None where it is none."""
    value = record.value()
    if not value:
        return None
    try:
        as_json = (CONTENT_TYPE, JSON_TYPE) in (record.headers() or ())
        return decode_interaction(value, as_json=as_json)
    except WireError:
        return None


def _word(member: Enum | int | None) -> str | None:
    """A member of an enumeration by its name; a number that is none of them as digits."""
    if member is None:
        return None
    return member.name.lower() if isinstance(member, Enum) else str(member)


def _slot_rows(record: Message) -> Iterator[dict[str, Any]]:
    """A row for each slot of an impression; one without a slot for an empty slate or no slate."""
    (partition, offset, logged_at_ms) = record.partition(), record.offset(), record.timestamp()[1]
    place = {"partition": partition, "offset": offset, "logged_at_ms": logged_at_ms}
    try:
        impression = decode_impression(record.value() or b"")
    except WireError:
        yield {**place, "undecodable": record.value()}
        return
    slate = {**place, **_slate_columns(impression)}
    if not impression.slots:
        yield slate
    for number, slot in enumerate(impression.slots):
        yield {**slate, "slot": number, **asdict(slot)}


def _slate_columns(impression: Impression) -> dict[str, Any]:
    """What all slots of an impression have in common."""
    included = impression.included[0] if impression.included else None
    columns = {
        name: getattr(impression, name)
        for name, _ in IMPRESSION_COLUMNS
        if hasattr(impression, name)
    }
    return {
        **columns,
        "device": _word(impression.device),
        "page": _word(impression.page),
        "event_timestamp": impression.served_at_ms,
        "included_partition": NOT_INCLUDED if included is None else included.partition,
        "included_offset": NOT_INCLUDED if included is None else included.offset,
    }


class LogSource(FixedPartitionedSource[Records, None]):
    """Batches of records of several topics, from behind the last file of each partition."""

    def __init__(self, parts: ArchiveParts, places: Sequence[Place], writer: LakeWriter) -> None:
        self._parts = parts
        self._places = places
        self._writer = writer

    def list_parts(self) -> list[str]:
        """One reader: the lake has one writer."""
        return ["0"]

    def build_part(
        self,
        step_id: str,  # noqa: ARG002 (Bytewax names it)
        for_part: str,  # noqa: ARG002
        resume_state: None,  # noqa: ARG002 (the files say where to go on)
    ) -> "LogReader":
        """Opens the reader."""
        return LogReader(self._parts, self._places, self._writer)


class LogReader(StatefulSourcePartition[Records, None]):
    """One consumer over all partitions. Raises LogError where the next record is gone."""

    def __init__(self, parts: ArchiveParts, places: Sequence[Place], writer: LakeWriter) -> None:
        self._stop = parts.stop
        self._writer = writer
        patient = {"fetch.wait.max.ms": 500, "fetch.error.backoff.ms": 100}
        self._consumer = Consumer({**parts.log.consumer(parts.group), **patient})
        self._committed: dict[Place, int] = {}
        starts = [
            TopicPartition(topic, partition, self._start((topic, partition), parts.accept_gap))
            for topic, partition in places
        ]
        self._consumer.assign(starts)
        self._starts = {(start.topic, start.partition): start.offset for start in starts}
        self._group = parts.group
        self._looked = metrics.AGES.source("applied", parts.group)
        self._watch = self._watching(parts) if parts.is_watched else None

    def _watching(self, parts: ArchiveParts) -> LogWatch:
        times = {
            parts.topics.get(table, ""): event_time for table, event_time in EVENT_TIMES.items()
        }
        watch = LogWatch(parts.log, parts.group, self._archived, times)
        watch.start()
        return watch

    def _archived(self) -> Mapping[Place, int]:
        return {**self._starts, **self._writer.durable}

    def _start(self, place: Place, accept_gap: bool) -> int:
        """Where a partition goes on: behind its last file, else where the log begins."""
        low, _ = self._consumer.get_watermark_offsets(TopicPartition(*place), METADATA_TIMEOUT_S)
        wanted = self._writer.durable.get(place)
        if wanted is None or wanted >= low:
            return max(low, 0) if wanted is None else wanted
        gap = f"{place[0]}/{place[1]}: offsets {wanted} to {low - 1} were never archived"
        if not accept_gap:
            raise LogError(
                f"{gap} and are no longer in the log; HEADRACE_ARCHIVE__ACCEPT_GAP=true goes on "
                "without them"
            )
        log.error("archive_gap", reason=gap)
        return int(low)

    def next_batch(self) -> list[Records]:
        """What arrives within a tenth of a second, as one item."""
        if self._stop.is_set():
            raise StopIteration
        self._looked.heard()
        records = [r for r in self._consumer.consume(MAX_BATCH, WAIT_S) if self._is_data(r)]
        if not records:
            self._writer.flush_if_due()
        return [records] if records else []

    def next_awake(self) -> datetime:
        """At once: waiting is done in `consume`."""
        return ALWAYS

    def snapshot(self) -> None:
        """At the end of an epoch, tells Kafka's tools what lies in files by now."""
        news = {p: at for p, at in self._writer.durable.items() if self._committed.get(p) != at}
        if news:
            offsets = [TopicPartition(*place, at) for place, at in news.items()]
            self._consumer.commit(offsets=offsets, asynchronous=True)
            self._committed.update(news)

    def close(self) -> None:
        """Closes the consumer."""
        if self._watch is not None:
            self._watch.stop()
        metrics.AGES.forget("applied", self._group)
        self._consumer.close()

    def _is_data(self, record: Message) -> bool:
        error = record.error()
        if error is None:
            return True
        if error.code() == KafkaError._AUTO_OFFSET_RESET:
            raise LogError(
                f"{record.topic()}/{record.partition()}: the next record to archive is no longer "
                f"in the log ({error.str()}); HEADRACE_ARCHIVE__ACCEPT_GAP=true goes on without it"
            )
        log.warning("consumer_error", topic=record.topic(), error=error.str())
        return False
