"""`headrace topics plan|apply`: the topics as they are against what Headrace wants."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    ResourceType,
)
from rich.table import Table

from infra import topics
from infra.settings import KafkaSettings
from infra.topics import Topic, TopicError, ensure_topics

TIMEOUT_S: Final = 10.0
CREATE, PARTITIONS = "create", "partitions"


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is not as it should be."""

    topic: str
    what: str  # CREATE, PARTITIONS, or the name of a setting
    found: str
    wanted: str

    @property
    def can_be_made(self) -> bool:
        """Whether `apply` makes it: another number of partitions would be another log."""
        return self.what != PARTITIONS


def plan_of(kafka: KafkaSettings) -> list[Change]:
    """What differs, by topic. A broker that does not tell settings is asked for topics alone.

    Raises TopicError where it does not answer.
    """
    admin = AdminClient(dict(kafka.log_config().common()))
    try:
        there = admin.list_topics(timeout=TIMEOUT_S).topics
    except KafkaException as error:
        raise TopicError(f"the broker does not answer: {error.args[0].str()}") from error
    changes = []
    for topic in topics.topics(kafka.prefix, kafka.partitions):
        if topic.name not in there:
            changes.append(Change(topic.name, CREATE, "missing", f"{topic.partitions} partitions"))
            continue
        n_found = len(there[topic.name].partitions)
        if n_found != topic.partitions:
            changes.append(Change(topic.name, PARTITIONS, str(n_found), str(topic.partitions)))
        changes += _settings_of(admin, topic)
    return changes


def _settings_of(admin: AdminClient, topic: Topic) -> list[Change]:
    """Settings that differ, of those that the broker tells."""
    resource = ConfigResource(ResourceType.TOPIC, topic.name)
    try:
        found = admin.describe_configs([resource], request_timeout=TIMEOUT_S)[resource].result()
    except KafkaException:
        return []
    if not any(_is_own(entry) for entry in found.values()):
        return []  # an embedded broker tells none
    return [
        Change(topic.name, name, str(found[name].value), wanted)
        for name, wanted in topic.config().items()
        if name in found and str(found[name].value) != wanted
    ]


def _is_own(entry: ConfigEntry) -> bool:
    return bool(entry.source == ConfigSource.DYNAMIC_TOPIC_CONFIG.value)


def apply(kafka: KafkaSettings, changes: Sequence[Change]) -> list[Change]:
    """Makes the changes; those that cannot be made come back. Raises TopicError."""
    left = [change for change in changes if not change.can_be_made]
    config = kafka.log_config().common()
    missing = {change.topic for change in changes if change.what == CREATE}
    wanted = [t for t in topics.topics(kafka.prefix, kafka.partitions) if t.name in missing]
    if wanted:
        ensure_topics({name: str(value) for name, value in config.items()}, wanted)
    altered = [c for c in changes if c.can_be_made and c.what != CREATE]
    if altered:
        _alter(AdminClient(dict(config)), altered)
    return left


def _alter(admin: AdminClient, changes: Sequence[Change]) -> None:
    entries: dict[str, list[ConfigEntry]] = {}
    for change in changes:
        entries.setdefault(change.topic, []).append(
            ConfigEntry(change.what, change.wanted, incremental_operation=AlterConfigOpType.SET)
        )
    resources = [
        ConfigResource(ResourceType.TOPIC, name, incremental_configs=of)
        for name, of in entries.items()
    ]
    for resource, done in admin.incremental_alter_configs(resources).items():
        try:
            done.result()
        except KafkaException as error:
            raise TopicError(f"{resource.name}: {error.args[0].str()}") from error


def as_dicts(changes: Sequence[Change]) -> list[dict[str, str]]:
    """For scripts."""
    return [asdict(change) for change in changes]


def table_of(changes: Sequence[Change]) -> Table:
    """For people."""
    table = Table("topic", "what", "is", "should be", "")
    for change in changes:
        note = "" if change.can_be_made else "[red]cannot be changed: positions are by partition[/]"
        table.add_row(change.topic, change.what, change.found, change.wanted, note)
    return table
