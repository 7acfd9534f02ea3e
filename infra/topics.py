"""The topics of Headrace: their names, their shapes, and the one place that creates them.

Nothing else creates a topic: a broker that does so by itself, as the embedded one does when a
producer names a topic it has not seen, chooses a number of partitions of its own, and
`check_partitions` then refuses it.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic, TopicMetadata

INTERACTIONS = "interactions"
IMPRESSIONS = "impressions"
CATALOG = "catalog"
OUTCOMES = "outcomes"
ITEM_UPDATES = "item-updates"
MODELS = "models"
DEAD_LETTERS = "dead-letters"
ERASURES = "erasures"
REDRIVES = "redrives"
RULES = "rules"
RULE_CHANGES = "rule-changes"
OPS_EVENTS = "ops-events"

DEFAULT_PARTITIONS = 4
BROKER_DEFAULT_REPLICATION = -1

_DAY_MS = 24 * 60 * 60 * 1000
_MIB = 1 << 20
_POLL_S = 0.02


class TopicError(RuntimeError):
    """A topic cannot be created, is not there in time, or is not what was asked for."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as Headrace wants it.

    `retention_ms` is how long a record stays; in a compacted topic, which keeps the newest record
    of every key for good, how long the removal of a key stays visible. The time that counts is
    the broker's, when it appended the record: event times of producers, years old in a replay or
    in the future by mistake, would empty a topic early or have whole batches refused.
    """

    name: str
    partitions: int
    cleanup: Literal["delete", "compact"] = "delete"
    retention_ms: int = 14 * _DAY_MS
    max_message_bytes: int = _MIB
    segment_bytes: int | None = None  # of a file of the log; only whole ones are compacted

    def config(self) -> dict[str, str]:
        """The topic's settings in the broker's words."""
        retention = "retention.ms" if self.cleanup == "delete" else "delete.retention.ms"
        return {
            "cleanup.policy": self.cleanup,
            retention: str(self.retention_ms),
            "max.message.bytes": str(self.max_message_bytes),
            "message.timestamp.type": "LogAppendTime",
            **({} if self.segment_bytes is None else {"segment.bytes": str(self.segment_bytes)}),
        }


def topics(prefix: str = "", partitions: int = DEFAULT_PARTITIONS) -> tuple[Topic, ...]:
    """All topics, `partitions` for `interactions` and `impressions` and one for the others.

    Outcomes are the log of learning: one partition, so that there is one order to learn in.

    A dead letter holds a whole refused record and its reason, so its limit is the larger one.
    Retention of what names a user stays under a month, which is what an erasure may take.

    >>> [topic.name for topic in topics(prefix="eu-")][:2]
    ['eu-interactions', 'eu-impressions']
    """
    return (
        Topic(prefix + INTERACTIONS, partitions),
        Topic(prefix + IMPRESSIONS, partitions),
        Topic(prefix + CATALOG, 1, "compact", 7 * _DAY_MS),
        Topic(prefix + OUTCOMES, 1),
        Topic(prefix + ITEM_UPDATES, 1, "delete", _DAY_MS, 8 * _MIB),
        Topic(prefix + MODELS, 1, "compact", 7 * _DAY_MS, 8 * _MIB, segment_bytes=64 * _MIB),
        Topic(prefix + DEAD_LETTERS, 1, "delete", 28 * _DAY_MS, 2 * _MIB),
        Topic(prefix + ERASURES, 1, "compact", 7 * _DAY_MS),
        Topic(prefix + REDRIVES, 1, "compact", 7 * _DAY_MS),
        Topic(prefix + RULES, 1, "compact", 7 * _DAY_MS),
        Topic(prefix + RULE_CHANGES, 1, "delete", 400 * _DAY_MS),
        Topic(prefix + OPS_EVENTS, 1, "delete", 28 * _DAY_MS),
    )


def ensure_topics(
    admin_config: Mapping[str, str],
    wanted: Sequence[Topic],
    *,
    replication_factor: int = BROKER_DEFAULT_REPLICATION,
    timeout_s: float = 30.0,
) -> None:
    """Create the topics that are missing and return when all have partitions with leaders.

    Running it again, or from several processes at once, changes nothing. Settings of topics that
    exist are left as their operator wants them. Raises TopicError, naming topic and reason.
    """
    deadline = time.monotonic() + timeout_s
    admin = AdminClient(dict(admin_config))
    found = _existing_topics(admin, timeout_s)
    _create(admin, [topic for topic in wanted if topic.name not in found], replication_factor)
    while missing := [topic.name for topic in wanted if not _is_led(found.get(topic.name))]:
        if time.monotonic() > deadline:
            raise TopicError(f"topic {missing[0]} has no leader after {timeout_s:g} s")
        time.sleep(_POLL_S)
        found = _existing_topics(admin, timeout_s)
    check_partitions(wanted, {name: len(topic.partitions) for name, topic in found.items()})


def check_partitions(wanted: Sequence[Topic], partitions_found: Mapping[str, int]) -> None:
    """Refuse topics whose number of partitions is not the one asked for.

    A user's events stay in order because a user stays in one partition, and rows remember
    positions by partition: another number is another log.

    >>> check_partitions([Topic("interactions", 4)], {"interactions": 8})
    Traceback (most recent call last):
    infra.topics.TopicError: topic interactions must have 4 partitions; got 8
    """
    for topic in wanted:
        found = partitions_found.get(topic.name, 0)
        if found != topic.partitions:
            raise TopicError(
                f"topic {topic.name} must have {topic.partitions} partitions; got {found}"
            )


def _existing_topics(admin: AdminClient, timeout_s: float) -> dict[str, TopicMetadata]:
    """What the broker has, by name; asked without names, because asking may create a topic."""
    try:
        found: dict[str, TopicMetadata] = admin.list_topics(timeout=timeout_s).topics
    except KafkaException as error:
        raise TopicError(f"the broker does not answer: {_reason(error)}") from error
    return found


def _create(admin: AdminClient, missing: Sequence[Topic], replication_factor: int) -> None:
    """Create topics; one that somebody else creates at the same time is fine."""
    if not missing:
        return
    requests = [
        NewTopic(topic.name, topic.partitions, replication_factor, config=topic.config())
        for topic in missing
    ]
    for name, created in admin.create_topics(requests).items():
        try:
            created.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicError(f"topic {name} cannot be created: {_reason(error)}") from error


def _is_led(topic: TopicMetadata | None) -> bool:
    """Whether every partition of a topic has a leader to write to and read from."""
    if topic is None or topic.error is not None or not topic.partitions:
        return False
    return all(partition.leader >= 0 for partition in topic.partitions.values())


def _reason(error: KafkaException) -> str:
    """What the broker or the client library said."""
    return str(error.args[0].str())
