"""`headrace lag`: how far each flow is behind the log, by partition, in records and in seconds.

Two sources, told apart. What a running process says of itself is what it has *applied*. What its
group has *committed* is told by the broker, also where the process is gone; it trails what is
applied by an epoch or two.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaException, TopicPartition
from rich.table import Table

from features.log import LogConfig, LogError, end_offsets, partitions_of
from infra import topics
from infra.ops.scrape import Sample, samples_of
from infra.settings import Settings

READ_S: Final = 2.0
GONE: Final = -1
LAG: Final = "headrace_stream_lag"

Key = tuple[str, str, int]  # flow, topic, partition


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow: the group that commits for it, and what it reads."""

    name: str
    group: str
    topics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PartitionLag:
    """How far a flow is behind in one partition; GONE where nobody knows."""

    flow: str
    topic: str
    partition: int
    end: int  # offset behind the last record
    committed: int
    lag: int  # records: as applied by a process that runs, else as committed
    seconds: float  # since the log took the oldest record that is not committed; 0: none is left
    source: str  # applied or committed

    @property
    def is_unknown(self) -> bool:
        """Whether the group has never committed and no process tells."""
        return self.lag == GONE


def flows_of(settings: Settings) -> tuple[Flow, ...]:
    """The flows that commit offsets, as these settings name them."""
    prefix = settings.kafka.prefix
    flows = [
        Flow("features", settings.stream.group, (prefix + topics.INTERACTIONS,)),
        Flow(
            "attribution",
            settings.attribution.group,
            (prefix + topics.IMPRESSIONS, prefix + topics.INTERACTIONS),
        ),
        Flow("learning", settings.learning.group, (prefix + topics.OUTCOMES,)),
    ]
    if settings.archive.enabled:
        archived = (topics.INTERACTIONS, topics.IMPRESSIONS, topics.OUTCOMES, topics.CATALOG)
        flows.append(
            Flow("archive", settings.archive.group, tuple(prefix + name for name in archived))
        )
    return tuple(flows)


def lag_of(
    config: LogConfig,
    flows: Sequence[Flow],
    metrics: Mapping[str, str] | None = None,
    now_s: float | None = None,
) -> list[PartitionLag]:
    """Every partition of every flow. `metrics`: endpoints by process. Raises LogError."""
    ends = {name: _ends(config, name) for name in {t for flow in flows for t in flow.topics}}
    applied = _applied(metrics or {})
    now_s = time.time() if now_s is None else now_s
    found = []
    for flow in flows:
        for topic in flow.topics:
            committed = _committed(config, flow.group, topic, sorted(ends[topic]))
            ages = _ages_s(config, topic, committed, ends[topic], now_s)
            for partition, end in sorted(ends[topic].items()):
                found.append(
                    _of(flow.name, topic, partition, end, committed[partition],
                        ages.get(partition, 0.0), applied)
                )  # fmt: skip
    return found


def _of(
    flow: str,
    topic: str,
    partition: int,
    end: int,
    committed: int,
    age_s: float,
    applied: Mapping[Key, int],
) -> PartitionLag:
    lag = applied.get((flow, topic, partition))
    if lag is not None:
        seconds = age_s if lag else 0.0
        return PartitionLag(flow, topic, partition, end, committed, lag, seconds, "applied")
    if committed == GONE:
        return PartitionLag(flow, topic, partition, end, GONE, GONE, GONE, "committed")
    behind = max(end - committed, 0)
    return PartitionLag(flow, topic, partition, end, committed, behind, age_s, "committed")


def _ends(config: LogConfig, topic: str) -> dict[int, int]:
    return end_offsets(config, topic, partitions_of(config, topic))


def _committed(
    config: LogConfig, group: str, topic: str, partitions: Sequence[int]
) -> dict[int, int]:
    consumer = Consumer(config.consumer(group))
    try:
        places = consumer.committed([TopicPartition(topic, p) for p in partitions], timeout=10)
    except KafkaException as error:
        raise LogError(f"offsets of group {group} cannot be read: {error}") from error
    finally:
        consumer.close()
    return {p.partition: GONE if p.offset == OFFSET_INVALID else p.offset for p in places}


def _ages_s(
    config: LogConfig,
    topic: str,
    committed: Mapping[int, int],
    ends: Mapping[int, int],
    now_s: float,
) -> dict[int, float]:
    """Seconds since the log took the first record behind each committed offset, if there is one."""
    waiting = {p: at for p, at in committed.items() if GONE < at < ends[p]}
    if not waiting:
        return {}
    consumer = Consumer({**config.consumer("headrace-lag"), "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, p, at) for p, at in waiting.items()])
    ages: dict[int, float] = {}
    deadline_s = time.monotonic() + READ_S
    try:
        while len(ages) < len(waiting) and time.monotonic() < deadline_s:
            record = consumer.poll(0.1)
            if record is not None and record.error() is None:
                partition = int(record.partition() or 0)
                age_s = max(now_s - record.timestamp()[1] / 1_000, 0.0)
                ages.setdefault(partition, round(age_s, 3))
    finally:
        consumer.close()
    return ages


def _applied(metrics: Mapping[str, str]) -> dict[Key, int]:
    """What running processes say: lag by flow, topic and partition."""
    found: dict[Key, int] = {}
    for process, url in metrics.items():
        for sample in samples_of(url):
            if sample.name == LAG:
                found[key_of(process, sample)] = int(sample.value)
    return found


def key_of(process: str, sample: Sample) -> Key:
    """What a process's reading of a lag is about."""
    topic = sample.labels.get("topic", "")
    return flow_of(process, topic), topic, int(sample.labels.get("partition", GONE))


def flow_of(process: str, topic: str) -> str:
    """The flow that a process's lag is of; attribution may run in the learning process.

    >>> flow_of("learning", "interactions"), flow_of("features-0", "interactions")
    ('attribution', 'features')
    """
    name = process.rstrip("0123456789-")
    return "attribution" if name == "learning" and not topic.endswith(topics.OUTCOMES) else name


def as_dicts(found: Sequence[PartitionLag]) -> list[dict[str, Any]]:
    """For scripts."""
    return [asdict(lag) for lag in found]


def table_of(found: Sequence[PartitionLag], warn: int, page: int) -> Table:
    """For people: what is behind stands in red."""
    table = Table("flow", "topic", "partition", "end", "committed", "lag", "oldest", "by")
    for lag in sorted(found, key=lambda lag: -lag.lag):
        style = "red" if lag.lag >= page or lag.is_unknown else "yellow" if lag.lag >= warn else ""
        behind = "unknown" if lag.is_unknown else f"{lag.lag:,}"
        committed = "never" if lag.committed == GONE else f"{lag.committed:,}"
        seconds = "" if lag.is_unknown else f"{lag.seconds:,.1f} s"
        table.add_row(
            lag.flow, lag.topic, str(lag.partition), f"{lag.end:,}", committed, behind, seconds,
            lag.source, style=style,
        )  # fmt: skip
    return table
