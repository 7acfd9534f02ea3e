"""Slates and answers in the log become outcomes in the log of learning, each once."""

import urllib.request

import pytest
from confluent_kafka import Consumer, TopicPartition

from features.learning_codec import decode_learning_record
from features.log import LogConfig, LogError, read_to_end
from infra import topics
from streams.attribution import AttributionParts, AttributionTopics, build_flow
from tests.attributions import AttributionSite
from tests.flows import wait_until
from tests.slates import final


@pytest.fixture
def site(any_broker, topic_prefix, tmp_path):
    return AttributionSite(LogConfig(any_broker), topic_prefix, tmp_path)


def outcomes(site):
    values = [record.value() for record in read_to_end(site.log, site.topic("outcomes"))]
    return final(map(decode_learning_record, values))


def committed(site, topic):
    consumer = Consumer(site.log.consumer(site.group))
    try:
        places = [TopicPartition(site.topic(topic), p) for p in range(4)]
        return sum(max(place.offset, 0) for place in consumer.committed(places, timeout=10))
    finally:
        consumer.close()


def test_what_viewers_did_before_and_do_now_becomes_outcomes_and_silence_does_too(site, rng):
    site.send(rng, 40, "before-")
    with site.process() as process:
        site.send(rng, 40)
        site.wait_until_written()
        wait_until(lambda: committed(site, "interactions") == n_logged(site, "interactions"))
        with urllib.request.urlopen(site.metrics_url, timeout=5) as answer:  # noqa: S310 (loopback)
            metrics = answer.read().decode()
        process.stop()
    assert len(outcomes(site)) == 4 * 80
    unanswered = metrics.split('headrace_attribution_outcomes_total{kind="unanswered"} ')[1]
    assert float(unanswered.split("\n")[0]) >= 160
    assert "headrace_attribution_delay_seconds_count" in metrics


def n_logged(site, topic):
    return sum(1 for _ in read_to_end(site.log, site.topic(topic)))


def test_topics_whose_partitions_do_not_belong_together_are_refused(broker, topic_prefix):
    config = LogConfig(broker)
    wanted = [
        topics.Topic(topic_prefix + name, n) for name, n in (("a", 2), ("b", 3), ("outcomes", 1))
    ]
    topics.ensure_topics({"bootstrap.servers": broker}, wanted)
    names = AttributionTopics(*(topic_prefix + name for name in ("a", "b", "outcomes")))
    with pytest.raises(LogError, match="must have as many partitions as"):
        build_flow(AttributionParts(config, names, f"{topic_prefix}group"))
    names = AttributionTopics(*(topic_prefix + name for name in ("a", "a", "b")))
    with pytest.raises(LogError, match="must have one partition"):
        build_flow(AttributionParts(config, names, f"{topic_prefix}group"))
