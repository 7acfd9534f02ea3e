"""Apache Kafka dies under load, or has thrown away what the flow has yet to read.

On Apache Kafka alone: the log of the embedded broker is gone with its process, so that nothing of
it can be resumed after a restart.
"""

import contextlib
from collections.abc import Iterator

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from features.log import LogConfig, end_offsets
from features.redis_config import RedisConfig
from infra.embedded import ChildServer, StartError
from infra.rebuild import rebuild
from tests.apache_kafka import ApacheKafka, why_not_here
from tests.faults.load import load, recent_interactions
from tests.flows import FeaturesSite, wait_until


@pytest.fixture
def own_kafka() -> Iterator[ApacheKafka]:
    """An Apache Kafka of the test's own, to kill."""
    if reason := why_not_here():
        pytest.skip(reason)
    with ApacheKafka() as server:
        yield server


def test_no_acknowledged_event_is_lost_when_the_broker_is_killed(
    own_kafka, redis_url, topic_prefix, tmp_path, rng
):
    site = FeaturesSite(
        LogConfig(own_kafka.bootstrap),
        RedisConfig(redis_url, prefix=topic_prefix),
        topic_prefix,
        tmp_path,
    )
    with site.running() as process:
        pid = process.pid
        with load(site, rng):
            wait_until(lambda: sum(site.committed().values()) > 0)
            own_kafka.kill()
            own_kafka.start()
            before = sum(site.committed().values())
            wait_until(lambda: sum(site.committed().values()) > before + 500)
        site.wait_until_applied()
        assert site.wrong_rows() == []
        assert process.pid == pid


def test_an_offset_below_the_start_of_the_log_ends_the_process_with_what_to_do(
    apache_kafka, redis_url, topic_prefix, tmp_path, rng
):
    site = FeaturesSite(
        LogConfig(apache_kafka.bootstrap),
        RedisConfig(redis_url, prefix=topic_prefix),
        topic_prefix,
        tmp_path,
    )
    site.send(recent_interactions(rng, 200))
    with site.running() as process:
        site.wait_until_applied()
        process.stop()
        committed = site.committed()
        site.send(recent_interactions(rng, 400))
        _delete_records_beyond(site, committed)
        status = _run_to_its_end(process)
        message = process.log_tail().splitlines()[-1]
        assert site.committed() == committed
        asked = rebuild(site.settings(), wait=True, progress=lambda *_: None)
        assert asked.is_asked
        assert not asked.has_process
        process.start()
        site.wait_until_applied()
        assert site.wrong_rows() == []
    assert status == 3
    assert message.startswith("error")
    assert site.topic("interactions") in message
    assert f"{site.prefix}features was to go on" in message
    assert "`headrace rebuild`" in message


def _delete_records_beyond(site: FeaturesSite, committed: dict[int, int]) -> None:
    """Moves the start of every partition's log behind the group's offsets, as retention does."""
    topic = site.topic("interactions")
    ends = end_offsets(site.log, topic, list(committed))
    starts = {p: (committed[p] + ends[p] + 1) // 2 for p in committed}
    assert all(committed[p] < starts[p] for p in committed)
    admin = AdminClient({"bootstrap.servers": site.log.bootstrap})
    deleted = admin.delete_records([TopicPartition(topic, p, at) for p, at in starts.items()])
    for answer in deleted.values():
        answer.result(timeout=10)


def _run_to_its_end(process: ChildServer) -> int | None:
    """Starts a process that is to end by itself, before or after it is ready; its status."""
    with contextlib.suppress(StartError):
        process.start()
    return process.wait(60)
