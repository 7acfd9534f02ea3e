"""What the broker tells: where topics end, what groups have committed, what waits and since when.

One connection of each kind is kept, so a look costs some requests and no handshakes. Every request
has a short limit; the first that fails ends the look. Reading records is a courtesy: what has not
come in time is left out, and is no sign of a broker that is away.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from features.log import LogConfig, LogError
from infra.ops.lag import GONE, Flow

REQUEST_S: Final = 2.0
READ_S: Final = 0.5  # of records, in all; what has not come by then is left out

Place = tuple[str, int]  # topic and partition
Key = tuple[str, str, int]  # flow, topic and partition


@dataclass(frozen=True, slots=True)
class LogSeen:
    """What a look at the broker brought."""

    cluster_id: str
    topics: frozenset[str]
    ends: Mapping[Place, int]
    starts: Mapping[Place, int]
    committed: Mapping[Key, int]  # by flow, topic and partition; GONE: never
    waiting_s: Mapping[Key, float]  # age of the first record not committed


class LogSource:
    """Looks at the log; for one thread alone."""

    def __init__(self, config: LogConfig, flows: Sequence[Flow], topics: Iterable[str]) -> None:
        self._flows = flows
        self._topics = {*topics, *(topic for flow in flows for topic in flow.topics)}
        quick = {
            "socket.timeout.ms": 2_000, "reconnect.backoff.max.ms": 1_000, "log_level": 0,
            "enable.partition.eof": True, "auto.offset.reset": "earliest",
            "fetch.message.max.bytes": 65_536, "queued.min.messages": 1,  # few records are wanted
            "fetch.queue.backoff.ms": 10,
        }  # fmt: skip
        self._tail = Consumer({**config.consumer("headrace-ops"), **quick})
        self._admin = AdminClient({**config.common(), "socket.timeout.ms": 2_000, "log_level": 0})
        self._cluster = ""
        self._told: dict[Place, int] = {}  # ends as the broker told them last
        self._ends: dict[Place, int] = {}  # as they are
        self._first: dict[Key, tuple[int, float]] = {}  # committed offset, when its record came
        self._unread: set[Place] = set()  # not read to their ends in time
        self._groups = {
            flow.group: Consumer({**config.consumer(flow.group), **quick}) for flow in flows
        }

    def look(self) -> LogSeen:
        """Asks the broker. Raises KafkaException and LogError."""
        metadata = self._tail.list_topics(timeout=REQUEST_S)
        if not metadata.brokers:
            raise LogError("the broker names no broker")
        if metadata.cluster_id != self._cluster:  # an embedded broker begins a new log
            self._cluster = str(metadata.cluster_id)
            self._told, self._ends, self._first = {}, {}, {}
        places = [
            (name, partition)
            for name in sorted(self._topics & set(metadata.topics))
            for partition in sorted(metadata.topics[name].partitions)
        ]
        starts, ends = self._bounds(places)
        committed = self._committed(places)
        waiting_s = self._waiting_s(committed, ends)
        names = frozenset(metadata.topics)
        return LogSeen(str(metadata.cluster_id), names, ends, starts, committed, waiting_s)

    def close(self) -> None:
        """Closes all connections."""
        for consumer in (self._tail, *self._groups.values()):
            consumer.close()

    def _bounds(self, places: Sequence[Place]) -> tuple[dict[Place, int], dict[Place, int]]:
        """First offset of each partition, and the one behind the last, right on every broker.

        An embedded broker may tell the base of its last batch as the end, so a partition whose end
        has moved is read from there, as `features.log.end_offsets` does; but not for long, where it
        grows meanwhile.
        """
        starts = self._offsets(places, OffsetSpec.earliest())
        told = self._offsets(places, OffsetSpec.latest())
        ends = {place: max(end, self._ends.get(place, 0)) for place, end in told.items()}
        moved = {
            place: max(starts[place], end - 1)
            for place, end in told.items()
            if end > 0 and self._told.get(place) != end
        }
        for record in self._read(moved):
            place = _place(record)
            ends[place] = max(ends[place], int(record.offset() or 0) + 1)
        self._told = {place: end for place, end in told.items() if place not in self._unread}
        self._ends = ends
        return starts, ends

    def _offsets(self, places: Sequence[Place], spec: OffsetSpec) -> dict[Place, int]:
        """One request for all partitions. Raises KafkaException."""
        if not places:
            return {}
        asked = {TopicPartition(*place): spec for place in places}
        found = self._admin.list_offsets(asked, request_timeout=REQUEST_S)
        return {(of.topic, of.partition): int(it.result().offset) for of, it in found.items()}

    def _committed(self, places: Sequence[Place]) -> dict[Key, int]:
        found = {}
        for flow in self._flows:
            wanted = [TopicPartition(*place) for place in places if place[0] in flow.topics]
            if not wanted:
                continue
            for place in self._groups[flow.group].committed(wanted, timeout=REQUEST_S):
                if place.error is not None:
                    raise LogError(f"offsets of {flow.group} cannot be read: {place.error.str()}")
                offset = GONE if place.offset == OFFSET_INVALID else int(place.offset)
                found[flow.name, place.topic, place.partition] = offset
        return found

    def _waiting_s(
        self, committed: Mapping[Key, int], ends: Mapping[Place, int]
    ) -> dict[Key, float]:
        """Seconds since the log took the first record behind each committed offset, where known.

        A record is read once: while a commit stands still its age grows by the clock.
        """
        waiting = {
            key: at for key, at in committed.items() if GONE < at < ends.get((key[1], key[2]), 0)
        }
        self._first = {
            key: known for key, known in self._first.items() if waiting.get(key) == known[0]
        }
        for flow in self._flows:
            reads = {
                (key[1], key[2]): at
                for key, at in waiting.items()
                if key[0] == flow.name and key not in self._first
            }
            for record in self._read(reads, only_first=True):
                key = (flow.name, *_place(record))
                self._first.setdefault(key, (waiting[key], record.timestamp()[1] / 1_000))
        now_s = time.time()
        return {key: max(now_s - taken_s, 0.0) for key, (_, taken_s) in self._first.items()}

    def _read(self, reads: Mapping[Place, int], *, only_first: bool = False) -> Iterable[Message]:
        """Records from these places to the ends, or the first of each, within READ_S in all."""
        self._unread = set()
        if not reads:
            return
        self._tail.assign([TopicPartition(*place, at) for place, at in reads.items()])
        left = set(reads)
        deadline_s = time.monotonic() + READ_S
        try:
            while left and (wait_s := deadline_s - time.monotonic()) > 0:
                for record in self._tail.consume(1 if only_first else 500, min(wait_s, 0.05)):
                    error = record.error()
                    if error is None:
                        yield record
                        if only_first:
                            left.discard(_place(record))
                    elif error.code() == KafkaError._PARTITION_EOF:
                        left.discard(_place(record))
                    else:
                        raise LogError(f"{record.topic()}: {error.str()}")
        finally:
            self._tail.unassign()
            self._unread = left


def _place(record: Message) -> Place:
    return str(record.topic()), int(record.partition() or 0)
