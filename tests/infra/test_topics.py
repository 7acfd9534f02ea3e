"""Topics exist with the shape Headrace wants, or the start says which one does not and why."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from infra.embedded import LOOPBACK, free_port
from infra.topics import (
    CATALOG,
    DEAD_LETTERS,
    ERASURES,
    IMPRESSIONS,
    INTERACTIONS,
    ITEM_UPDATES,
    MODELS,
    OPS_EVENTS,
    OUTCOMES,
    REDRIVES,
    RULE_CHANGES,
    RULES,
    Topic,
    TopicError,
    check_partitions,
    ensure_topics,
    topics,
)
from tests.apache_kafka import ApacheKafka

MONTH_MS = 30 * 24 * 60 * 60 * 1000
YEAR_9999_MS = 253_370_764_800_000


def config(bootstrap: str) -> dict[str, str]:
    return {"bootstrap.servers": bootstrap}


def partitions(bootstrap: str, prefix: str) -> dict[str, int]:
    """What the broker has under a prefix: name without the prefix -> number of partitions."""
    found = AdminClient(config(bootstrap)).list_topics(timeout=10).topics
    return {
        name.removeprefix(prefix): len(topic.partitions)
        for name, topic in found.items()
        if name.startswith(prefix)
    }


def send(bootstrap: str, topic: str, **record: object) -> Message:
    """Produce one record; the message that the broker acknowledged."""
    acknowledged: list[Message] = []

    def keep(error: object, message: Message) -> None:
        assert error is None, error
        acknowledged.append(message)

    producer = Producer({**config(bootstrap), "enable.idempotence": True})
    producer.produce(topic, on_delivery=keep, **record)
    assert producer.flush(20) == 0
    return acknowledged[0]


def receive(bootstrap: str, topic: str, count: int) -> list[Message]:
    """The first records of partition 0."""
    consumer = Consumer({**config(bootstrap), "group.id": topic, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
    messages: list[Message] = []
    while len(messages) < count:
        message = consumer.poll(20)
        assert message is not None, f"only {len(messages)} of {count} records of {topic}"
        assert message.error() is None, message.error()
        messages.append(message)
    consumer.close()
    return messages


def test_topics_are_created_once_however_often_it_is_asked(
    any_broker: str, topic_prefix: str
) -> None:
    for _ in range(2):
        ensure_topics(config(any_broker), topics(topic_prefix))
    assert partitions(any_broker, topic_prefix) == {
        INTERACTIONS: 4,
        IMPRESSIONS: 4,
        OUTCOMES: 1,
        CATALOG: 1,
        ITEM_UPDATES: 1,
        MODELS: 1,
        DEAD_LETTERS: 1,
        ERASURES: 1,
        REDRIVES: 1,
        RULES: 1,
        RULE_CHANGES: 1,
        OPS_EVENTS: 1,
    }


def test_processes_that_start_together_may_all_create_the_topics(
    any_broker: str, topic_prefix: str
) -> None:
    wanted = topics(topic_prefix, partitions=2)
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(ensure_topics, config(any_broker), wanted) for _ in range(4)]
        for run in runs:
            run.result()
    assert partitions(any_broker, topic_prefix)[INTERACTIONS] == 2


def test_existing_topic_with_another_number_of_partitions_is_refused(
    any_broker: str, topic_prefix: str
) -> None:
    name = topic_prefix + INTERACTIONS
    ensure_topics(config(any_broker), [Topic(name, 2)])
    with pytest.raises(TopicError, match=f"topic {name} must have 4 partitions; got 2"):
        ensure_topics(config(any_broker), [Topic(name, 4)])


def test_record_comes_back_as_it_was_sent(any_broker: str, topic_prefix: str) -> None:
    topic = topic_prefix + INTERACTIONS
    ensure_topics(config(any_broker), [Topic(topic, 1)])
    headers = [("content-type", b"application/json")]
    sent = [
        send(any_broker, topic, key=b"user-1", value=b"{}", headers=headers),
        send(any_broker, topic, key=b"user-2", value=b"\x00\xff"),
    ]
    got = receive(any_broker, topic, 2)
    assert [message.offset() for message in sent] == [0, 1]
    assert [(m.offset(), m.key(), m.value()) for m in got] == [
        (0, b"user-1", b"{}"),
        (1, b"user-2", b"\x00\xff"),
    ]
    assert got[0].headers() == headers


@pytest.mark.parametrize("time_ms", [1, YEAR_9999_MS])
def test_record_of_any_event_time_is_accepted(
    any_broker: str, topic_prefix: str, time_ms: int
) -> None:
    topic = topic_prefix + INTERACTIONS
    ensure_topics(config(any_broker), [Topic(topic, 1)])
    assert send(any_broker, topic, value=b"event", timestamp=time_ms).offset() == 0


def test_kafka_takes_the_settings_of_a_topic(apache_kafka: ApacheKafka, topic_prefix: str) -> None:
    wanted = topics(topic_prefix)
    ensure_topics(config(apache_kafka.bootstrap), wanted)
    admin = AdminClient(config(apache_kafka.bootstrap))
    asked = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in wanted]
    for topic, answer in zip(wanted, admin.describe_configs(asked).values(), strict=True):
        found = answer.result(10)
        assert {name: found[name].value for name in topic.config()} == topic.config()


def test_kafka_uses_the_brokers_own_time_for_retention(
    apache_kafka: ApacheKafka, topic_prefix: str
) -> None:
    topic = topic_prefix + INTERACTIONS
    ensure_topics(config(apache_kafka.bootstrap), [Topic(topic, 1)])
    send(apache_kafka.bootstrap, topic, value=b"event of 1970", timestamp=1)
    _, appended_ms = receive(apache_kafka.bootstrap, topic, 1)[0].timestamp()
    assert appended_ms > 1_700_000_000_000


def test_topic_the_broker_cannot_create_is_named_with_the_reason(
    apache_kafka: ApacheKafka, topic_prefix: str
) -> None:
    name = topic_prefix + CATALOG
    with pytest.raises(TopicError, match=f"topic {name} cannot be created: .*3 time"):
        ensure_topics(config(apache_kafka.bootstrap), [Topic(name, 1)], replication_factor=3)
    assert partitions(apache_kafka.bootstrap, topic_prefix) == {}


def test_broker_that_does_not_answer_is_an_error_and_not_a_wait() -> None:
    nobody = f"{LOOPBACK}:{free_port()}"
    with pytest.raises(TopicError, match="the broker does not answer"):
        ensure_topics({**config(nobody), "log_level": "0"}, topics(), timeout_s=0.2)


def test_prefix_is_part_of_every_name() -> None:
    plain, prefixed = topics(), topics("eu-")
    assert [topic.name for topic in prefixed] == ["eu-" + topic.name for topic in plain]
    assert len({topic.name for topic in plain}) == len(plain)


def test_dead_letter_can_hold_the_largest_interaction_and_its_reason() -> None:
    limits = {topic.name: topic.max_message_bytes for topic in topics()}
    assert limits[DEAD_LETTERS] > limits[INTERACTIONS]


def test_records_that_name_a_user_stay_under_a_month() -> None:
    about_users = {INTERACTIONS, IMPRESSIONS, OUTCOMES, DEAD_LETTERS}
    for topic in topics():
        if topic.name in about_users:
            assert topic.cleanup == "delete"
            assert topic.retention_ms < MONTH_MS


def test_topics_of_the_newest_word_keep_the_newest_record_of_every_key() -> None:
    compacted = {topic.name for topic in topics() if topic.cleanup == "compact"}
    assert compacted == {CATALOG, MODELS, ERASURES, REDRIVES, RULES}


def test_topic_that_is_not_there_counts_as_none() -> None:
    with pytest.raises(TopicError, match="topic models must have 1 partitions; got 0"):
        check_partitions([Topic(MODELS, 1)], {})
