"""Who may write rows: one process, for as long as it lives and says so."""

import subprocess
import sys
from dataclasses import replace

import psutil
import pytest
import redis

from features.redis_config import RedisConfig
from infra.settings import Settings
from infra.stack import rebuild_is_asked
from streams.lease import Holder, Lease, LeaseError, holder_of, lease_key
from streams.marker import LogIdentity, Marker, marker_key
from tests.flows import wait_until

TTL_S = 0.6


@pytest.fixture
def config(redis_url, topic_prefix):
    return RedisConfig(redis_url, prefix=topic_prefix)


@pytest.fixture
def client(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


def hold(client, config, holder):
    """Has another process hold the lease, without ever renewing it."""
    client.set(lease_key(config), holder.encode(), px=int(1_000 * TTL_S))


def test_a_second_one_is_told_who_holds_it(config):
    with Lease(config, "the first", ttl_s=TTL_S) as first, pytest.raises(LeaseError) as refused:
        Lease(config, "the second", ttl_s=TTL_S).__enter__()
    assert "the first (process " in str(refused.value)
    first.check()


def test_it_is_given_back_at_the_end_and_kept_until_then(config, client):
    with Lease(config, ttl_s=TTL_S):
        remaining_ms = client.pttl(lease_key(config))
        wait_until(lambda: client.pttl(lease_key(config)) > remaining_ms - 50)
        assert holder_of(config) is not None
    assert client.get(lease_key(config)) is None


def test_it_is_taken_over_at_once_from_a_process_of_this_machine_that_is_gone(config, client):
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started_s = psutil.Process(child.pid).create_time()
    holder = replace(Holder.myself("dead"), pid=child.pid, started_s=started_s, nonce="t")
    client.set(lease_key(config), holder.encode())  # it would never pass by itself
    with pytest.raises(LeaseError):
        Lease(config, ttl_s=TTL_S).__enter__()
    child.communicate(b"\n")
    assert holder_of(config) is None
    with Lease(config, ttl_s=TTL_S):
        pass


def test_a_process_id_that_was_given_to_another_process_is_not_the_holder(config, client):
    holder = replace(Holder.myself("dead"), started_s=1.0, nonce="t")
    client.set(lease_key(config), holder.encode())
    with Lease(config, ttl_s=TTL_S) as lease:
        lease.check()


def test_the_lease_of_a_machine_that_is_gone_passes(config, client):
    hold(client, config, replace(Holder.myself("far"), place="elsewhere", nonce="t"))
    with Lease(config, ttl_s=TTL_S) as lease:
        lease.check()


def test_whoever_has_lost_it_is_told(config, client):
    with Lease(config, ttl_s=TTL_S) as lease:
        taker = replace(Holder.myself("the taker"), nonce="t")
        client.set(lease_key(config), taker.encode())

        def is_told() -> bool:
            try:
                lease.check()
            except LeaseError as error:
                return "taken over by the taker" in str(error)
            return False

        wait_until(is_told)
    assert Holder.decode(client.get(lease_key(config))) == taker


def test_it_comes_back_after_redis_has_lost_it(config, client):
    with Lease(config, ttl_s=TTL_S) as lease:
        client.flushall()
        wait_until(lambda: holder_of(config) is not None)
        lease.check()


def test_a_flow_that_waits_for_a_rebuild_is_worth_starting_once_somebody_asked(config, client):
    settings = Settings(redis={"url": config.url, "prefix": config.prefix})
    marker = Marker(LogIdentity("c", "t", "", 4), {"u": "1"}, "g")
    assert rebuild_is_asked(settings)  # nothing says what the rows are
    client.set(marker_key(config), marker.encode())
    assert not rebuild_is_asked(settings)
    client.set(marker_key(config), replace(marker, request="r").encode())
    assert rebuild_is_asked(settings)


def test_a_marker_objects_to_another_log_and_another_layout():
    log = LogIdentity("c", "t", "id", 4)
    marker = Marker(log, {"u": "1"}, "g")
    assert Marker.decode(marker.encode()) == marker
    assert marker.objection(log, {"u": "1"}) is None
    assert marker.objection(replace(log, topic_id=""), {"u": "1"}) is None
    assert "topic_id" in (marker.objection(replace(log, topic_id="new"), {"u": "1"}) or "")
    assert "partitions is 8, was 4" in (marker.objection(replace(log, partitions=8), {}) or "")
    assert "tables u" in (marker.objection(log, {"u": "2"}) or "")
    for nonsense in (None, b"", b"[]", b"{}", b'{"log": {}}', b"\xff"):
        assert Marker.decode(nonsense) is None
