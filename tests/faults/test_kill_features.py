"""kill -9 of the features process under load: rows equal a clean replay of the log."""

import threading
import time
import urllib.request

import pytest
from confluent_kafka import Consumer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from features.log import LogConfig
from features.redis_config import RedisConfig
from tests.faults.load import load
from tests.flows import FeaturesSite, random_interactions, wait_until


@pytest.fixture
def site(sturdy_broker, redis_url, topic_prefix, tmp_path):
    return FeaturesSite(
        LogConfig(sturdy_broker),
        RedisConfig(redis_url, prefix=topic_prefix),
        topic_prefix,
        tmp_path,
    )


def test_rows_equal_a_clean_replay_after_kills_under_load(site, rng):
    interactions = random_interactions(rng, 12_000, time.time_ns() // 1_000_000 - 10**8)
    delays_s = rng.uniform(0.05, 1.2, 5)
    sender = threading.Thread(target=_send_slowly, args=(site, interactions))
    sender.start()
    with site.running() as process:
        for delay_s in delays_s:
            time.sleep(delay_s)  # the kill point itself, not a wait for something
            process.restart()
        sender.join()
        site.wait_until_applied()
        assert site.wrong_rows() == []


@pytest.mark.long
@pytest.mark.timeout(1_200)
def test_rows_equal_a_clean_replay_after_fifty_kills_under_load(site, rng):
    with site.running() as process:
        with load(site, rng):
            for delay_s in rng.uniform(0.01, 1.0, 50):
                time.sleep(delay_s)  # the kill point itself
                process.restart()
        site.wait_until_applied()
        assert site.wrong_rows() == []


def test_rows_that_were_written_and_never_committed_count_once(site, rng):
    site.epoch_s = 60  # an epoch's offsets are committed at its end, and it never comes to that
    site.send(random_interactions(rng, 1_500, time.time_ns() // 1_000_000 - 10**8))
    with site.running() as process:
        wait_until(lambda: site.wrong_rows() == [])
        assert sum(site.committed().values()) == 0
        process.restart()
        wait_until(lambda: events_counted(site)["replayed"] == 1_500)
        assert site.wrong_rows() == []
        assert sum(site.committed().values()) == 0


def events_counted(site):
    """Events by effect, as the process of now tells."""
    with urllib.request.urlopen(site.metrics_url, timeout=5) as answer:  # noqa: S310 (loopback)
        families = text_string_to_metric_families(answer.read().decode())
        return {
            "replayed": 0,
            **{
                sample.labels["effect"]: sample.value
                for family in families
                for sample in family.samples
                if sample.name == "headrace_stream_events_total"
            },
        }


def test_a_second_run_over_the_same_log_changes_nothing(site, rng):
    site.send(random_interactions(rng, 2_000, time.time_ns() // 1_000_000 - 10**8))
    with site.running() as process:
        site.wait_until_applied()
        process.stop()
        _forget_offsets(site)
        process.start()
        wait_until(lambda: sum(site.committed().values()) >= 2_000)
        assert site.wrong_rows() == []


def _send_slowly(site, interactions):
    for start in range(0, len(interactions), 200):
        site.send(interactions[start : start + 200])
        time.sleep(0.05)  # a load, spread over the kills


def _forget_offsets(site):
    consumer = Consumer(site.log.consumer(f"{site.prefix}features"))
    topic = site.topic("interactions")
    consumer.commit(offsets=[TopicPartition(topic, p, 0) for p in range(4)], asynchronous=False)
    consumer.close()
