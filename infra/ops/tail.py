"""`headrace tail`: the newest records of a topic, decoded, and those that follow."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from threading import Event
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from rich.markup import escape

from features.log import LogConfig, LogError, end_offsets, partitions_of
from infra.ops.records import Values, described

POLL_S: Final = 0.2
MAX_SHOWN: Final = 400  # characters of a value on a line for people


def newest(config: LogConfig, topic: str, last: int, prefix: str = "") -> list[Values]:
    """The newest `last` records of a topic, oldest first, in the order in which the log took them.

    Reads at most `last` records of each partition. Raises LogError.
    """
    ends = end_offsets(config, topic, partitions_of(config, topic))
    starts = {partition: max(end - last, 0) for partition, end in ends.items()}
    found = [described(record, prefix) for record in _between(config, topic, starts, ends)]
    found.sort(key=lambda record: (record["at_ms"], record["partition"], record["offset"]))
    return found[-last:]


def follow(config: LogConfig, topic: str, stop: Event, prefix: str = "") -> Iterator[Values]:
    """Records as they come, from now on, until `stop` is set. Raises LogError."""
    ends = end_offsets(config, topic, partitions_of(config, topic))
    consumer = _assigned(config, topic, ends)
    try:
        while not stop.is_set():
            record = consumer.poll(POLL_S)
            if record is not None and _is_record(record):
                yield described(record, prefix)
    finally:
        consumer.close()


def _between(
    config: LogConfig, topic: str, starts: dict[int, int], ends: dict[int, int]
) -> Iterator[Message]:
    left = {partition for partition, end in ends.items() if end > starts[partition]}
    consumer = _assigned(config, topic, {partition: starts[partition] for partition in left})
    try:
        while left:
            record = consumer.poll(POLL_S)
            if record is None or not _is_record(record):
                left -= _passed(consumer, topic, left, ends)
                continue
            partition, offset = int(record.partition() or 0), int(record.offset() or 0)
            if offset < ends[partition]:
                yield record
            if offset + 1 >= ends[partition]:
                left.discard(partition)
    finally:
        consumer.close()


def _passed(consumer: Consumer, topic: str, left: set[int], ends: dict[int, int]) -> set[int]:
    """Partitions read to their end although their last records are gone (compaction)."""
    places = consumer.position([TopicPartition(topic, partition) for partition in left])
    return {place.partition for place in places if place.offset >= ends[place.partition]}


def _assigned(config: LogConfig, topic: str, starts: dict[int, int]) -> Consumer:
    consumer = Consumer(
        {
            **config.consumer("headrace-tail"),
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    if starts:
        consumer.assign([TopicPartition(topic, p, at) for p, at in starts.items()])
    return consumer


def _is_record(record: Message) -> bool:
    """Whether this is a record; the end of a partition is not. Raises LogError for trouble."""
    error = record.error()
    if error is None:
        return True
    if error.code() == KafkaError._PARTITION_EOF:
        return False
    raise LogError(f"{record.topic()}: {error.str()}")


def line_of(record: Values, now_s: float | None = None) -> str:
    """A record as a line with colours for people."""
    at = datetime.fromtimestamp(record["at_ms"] / 1_000, UTC)
    age_s = (time.time() if now_s is None else now_s) - record["at_ms"] / 1_000
    where = f"{record['partition']}/{record['offset']}"
    head = f"[dim]{at:%H:%M:%S.%f}[/] [dim]({age_s:,.1f} s ago)[/] [cyan]{where}[/]"
    key = f"[bold]{escape(str(record['key']))}[/]"
    if "undecodable" in record:
        return f"{head} {key} [red]{escape(record['undecodable'])}[/] {record['bytes']}"
    text = _short(record["value"])
    return f"{head} {key} {escape(text)}"


def _short(value: Any) -> str:
    """JSON without what says nothing, cut at MAX_SHOWN."""
    if isinstance(value, dict):
        value = {name: v for name, v in value.items() if v not in (None, "", 0, 0.0, [], False)}
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."
