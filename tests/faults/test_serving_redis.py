"""Slates while Redis is away, empty, read-only, stalled, or open at one end alone.

Each answers within its deadline, with as many titles as asked, and says what was missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from features.redis_config import RedisConfig
from features.redis_store import RedisLink, RedisRowStore
from features.row_reader import AsyncRowReader
from features.store import USERS
from infra.embedded import LOOPBACK, EmbeddedRedis
from serving.bundle import Bundle
from serving.catalogue import CatalogueTable
from serving.client import Client, Recommendations
from serving.mirror import ItemMirror
from serving.recommender import Recommender
from tests.clock import FakeClock
from tests.proxy import LossyProxy
from tests.serving import engine
from tests.serving.harness import Parts, eventually, served

VIEWER = "new"
WATCHED = [f"t{k}" for k in range(0, 10, 2)]
TIME_OUT_S = 0.2
DEADLINE_S = 10.0  # of the client: an answer that waits for Redis does not come in time
COUNT = 20


@pytest.fixture(scope="module")
def recommender() -> Recommender:
    table = CatalogueTable.of(engine.catalogue())
    mirror = ItemMirror.over(table.ids, table.slots)
    mirror.values[:] = engine.FixedMirror.of(table).values
    return Recommender(table, mirror, Bundle.without_ranker(engine.models()))


@contextmanager
def serving(recommender: Recommender, url: str) -> Iterator[Client]:
    def rows() -> AsyncRowReader:
        return AsyncRowReader(RedisConfig(url), USERS, timeout_s=TIME_OUT_S)

    with served(Parts(recommender=recommender, rows=rows, clock=FakeClock())) as (_, client):
        yield client


def know_the_viewer(server: EmbeddedRedis) -> None:
    config = RedisConfig(server.url)
    link = RedisLink(config)
    RedisRowStore(link, USERS, config).write(engine.viewer_row(*WATCHED, user_id=VIEWER))
    link.close()


def ask(client: Client) -> Recommendations:
    slate = client.recommend(VIEWER, count=COUNT, timeout_s=DEADLINE_S)
    assert len(slate.items) == COUNT
    return slate


def is_personal(slate: Recommendations) -> bool:
    return any(item.cause_item_id in WATCHED for item in slate.items)


def assert_degraded(slate: Recommendations) -> None:
    assert slate.degraded == ("redis",)
    assert not is_personal(slate)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_without_redis_slates_are_the_charts_and_say_so(recommender, redis_server, how):
    know_the_viewer(redis_server)
    with serving(recommender, redis_server.url) as client:
        assert is_personal(ask(client))
        getattr(redis_server, how)()
        for _ in range(5):
            assert_degraded(ask(client))


def test_a_redis_that_comes_back_empty_makes_viewers_new_until_they_are_known_again(
    recommender, redis_server
):
    know_the_viewer(redis_server)
    with serving(recommender, redis_server.url) as client:
        assert is_personal(ask(client))
        redis_server.kill()
        redis_server.start()
        eventually(lambda: ask(client).degraded == ())
        assert not is_personal(ask(client))
        know_the_viewer(redis_server)
        assert is_personal(ask(client))


def become_a_replica(client: redis.Redis) -> None:
    client.replicaof(LOOPBACK, 1)  # of a master that is not there


def run_out_of_memory(client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")


@pytest.mark.parametrize("refuse_writes", [become_a_replica, run_out_of_memory])
def test_a_redis_that_only_reads_is_enough_for_slates(recommender, redis_server, refuse_writes):
    know_the_viewer(redis_server)
    with (
        serving(recommender, redis_server.url) as client,
        redis.Redis.from_url(redis_server.url) as admin,
    ):
        refuse_writes(admin)
        with pytest.raises(redis.RedisError):
            admin.set("x", "y")
        slate = ask(client)
        assert slate.degraded == ()
        assert is_personal(slate)


def test_a_replica_that_refuses_reads_too_costs_knowledge_of_the_viewer_alone(
    recommender, redis_server
):
    know_the_viewer(redis_server)
    with (
        serving(recommender, redis_server.url) as client,
        redis.Redis.from_url(redis_server.url) as admin,
    ):
        admin.config_set("replica-serve-stale-data", "no")
        become_a_replica(admin)
        assert_degraded(ask(client))
        admin.replicaof("NO", "ONE")
        eventually(lambda: is_personal(ask(client)))


def test_a_redis_that_stands_still_costs_a_time_out(recommender, redis_server):
    know_the_viewer(redis_server)
    with (
        serving(recommender, redis_server.url) as client,
        redis.Redis.from_url(redis_server.url) as admin,
    ):
        assert is_personal(ask(client))
        admin.execute_command("CLIENT", "PAUSE", 2_000, "ALL")
        assert_degraded(ask(client))
        eventually(lambda: is_personal(ask(client)))


def test_a_connection_that_is_open_at_one_end_alone_is_given_up(recommender, redis_server):
    know_the_viewer(redis_server)
    with (
        LossyProxy(redis_server.port) as proxy,
        serving(recommender, f"redis://{LOOPBACK}:{proxy.port}/0") as client,
    ):
        assert is_personal(ask(client))
        assert proxy.fall_silent() > 0
        assert_degraded(ask(client))
        eventually(lambda: is_personal(ask(client)))
