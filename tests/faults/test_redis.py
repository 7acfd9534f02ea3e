"""Redis dies, stalls, or loses an answer under load: the flow waits and no event counts twice.

The embedded Redis keeps nothing on disk: after its death rows are in the flow's memory alone.
"""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from features.compiled import Rows
from features.ids import viewer_hash
from features.log import LogConfig
from features.redis_config import RedisConfig
from features.store import ITEMS, TABLES, USERS, RowStore
from infra.embedded import LOOPBACK, ChildServer, EmbeddedRedis, StartError
from streams.features import RowWrites
from streams.marker import Marker
from streams.row_writer import RowWriter
from tests.clock import START_MS
from tests.faults.load import load, recent_interactions
from tests.flows import FeaturesSite, random_interactions, wait_until
from tests.proxy import LossyProxy


@pytest.fixture
def make_site(broker, topic_prefix, tmp_path):
    """Builds the test's site over the address of a Redis."""

    def make(url: str) -> FeaturesSite:
        return FeaturesSite(
            LogConfig(broker), RedisConfig(url, prefix=topic_prefix), topic_prefix, tmp_path
        )

    return make


def said(process: ChildServer, what: str) -> int:
    """How often the process has logged `what`."""
    return process.log_path.read_text().count(what)


def n_rows(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return sum(1 for _ in client.scan_iter("*:?:" + 16 * "?"))


def test_rows_are_put_back_into_a_redis_that_comes_back_empty(make_site, redis_server, rng):
    site = make_site(redis_server.url)
    with site.running() as process:
        pid = process.pid
        with load(site, rng):
            for times in (1, 2):
                wait_until(lambda: n_rows(redis_server.url) > 0)
                noticed = said(process, "redis_away")
                redis_server.kill()
                wait_until(lambda noticed=noticed: said(process, "redis_away") > noticed)
                redis_server.start()
                wait_until(
                    lambda times=times: said(process, "rows_restored") == len(TABLES) * times
                )
        site.wait_until_applied()
        assert site.wrong_rows() == []
        assert process.pid == pid


def test_rows_are_put_back_though_nothing_happens(make_site, redis_server, rng):
    site = make_site(redis_server.url)
    site.send(recent_interactions(rng, 500))
    with site.running():
        site.wait_until_applied()
        redis_server.restart()
        wait_until(lambda: site.wrong_rows() == [])


class Recorder:
    """A store that notes in a common list which table was written."""

    def __init__(self, store: RowStore, order: list[str]) -> None:
        self.table = store.table
        self._store = store
        self._order = order

    def read(self, ids: NDArray[np.uint64]) -> tuple[Rows, NDArray[np.bool_]]:
        return self._store.read(ids)

    def write(self, rows: Rows) -> None:
        self._order.append(self.table.letter)
        self._store.write(rows)


def test_rows_that_were_not_in_memory_are_rebuilt_when_redis_comes_back_empty(
    make_site, redis_server, rng
):
    site = make_site(redis_server.url)
    site.send(random_interactions(rng, 2_000, START_MS, n_users=600))
    with site.running() as process:
        site.wait_until_applied()
        process.restart()  # it now holds none of the rows
        pid = process.pid
        with load(site, rng):
            wait_until(lambda: sum(site.committed().values()) > 2_300)
            redis_server.restart()
            wait_until(lambda: said(process, "rows_begin_anew") == 2)
        site.wait_until_applied()
        assert site.wrong_rows() == []
        assert process.pid == pid
        assert said(process, "rows_lost") == 1


def of_another_log(marker: Marker) -> Marker:
    return replace(marker, log=replace(marker.log, cluster="another"))


def of_another_layout(marker: Marker) -> Marker:
    return replace(marker, layouts={**marker.layouts, USERS.letter: "0-as-it-was-once"})


@pytest.mark.parametrize(
    ("change", "reason"),
    [(of_another_log, "cluster is"), (of_another_layout, "laid out anew: tables u")],
)
def test_rows_of_another_log_or_layout_are_not_built_upon(
    make_site, redis_url, rng, change, reason
):
    site = make_site(redis_url)
    site.send(recent_interactions(rng, 500))
    with site.running() as process:
        site.wait_until_applied()
        process.stop()
        with redis.Redis.from_url(redis_url) as client:
            key = f"{site.prefix}:rows"
            marker = Marker.decode(client.get(key))
            client.set(key, change(marker).encode())
            (victim,) = client.scan_iter(f"{site.prefix}:u:{viewer_hash('u1'):016x}")
            client.set(victim, b"a row of another log")
        process.start()
        site.wait_until_applied()
        assert site.wrong_rows() == []
    assert reason in process.log_path.read_text()


def test_a_second_process_over_the_same_rows_is_refused(make_site, redis_url):
    site = make_site(redis_url)
    other = FeaturesSite(site.log, site.redis, site.prefix, site.folder / "other")
    with site.running() as first:
        with pytest.raises(StartError), other.running():
            pass
        said = (other.folder / "features.log").read_text().splitlines()[-1]
        assert said.startswith("error the features flow")
        assert f"(process {first.pid} on" in said
        assert first.is_alive()


def test_titles_are_put_back_before_viewers(redis_server):
    writer = RowWriter(RedisConfig(redis_server.url))
    order: list[str] = []
    caches = [writer.cache(table, 64) for table in (USERS, ITEMS)]
    for cache in caches:
        cache.store = Recorder(cache.store, order)
        cache.slots_of(np.arange(1, 11, dtype=np.uint64))
    writer.write([RowWrites(USERS, caches[0].resident()[:3], 0)])
    writer.settle()
    assert order == []
    redis_server.restart()
    writer.write([RowWrites(USERS, caches[0].resident()[:1], 0)])
    writer.settle()
    assert order == [ITEMS.letter, USERS.letter]
    assert n_rows(redis_server.url) == 20
    writer.close()


def test_a_stalled_redis_that_gets_writes_twice_counts_events_once(make_site, redis_server, rng):
    site = make_site(f"{redis_server.url}?socket_timeout=0.5")
    with site.running() as process:
        with load(site, rng):
            wait_until(lambda: n_rows(redis_server.url) > 0)
            os.kill(redis_server.pid, signal.SIGSTOP)
            try:
                wait_until(lambda: said(process, "redis_away") >= 2)
            finally:
                os.kill(redis_server.pid, signal.SIGCONT)
            behind = site.committed()
            wait_until(lambda: site.committed() != behind)
        site.wait_until_applied()
        assert site.wrong_rows() == []
        assert said(process, "rows_restored") == 0


def test_writes_whose_answer_is_lost_count_events_once(make_site, redis_server, rng):
    with LossyProxy(redis_server.port) as proxy:
        site = make_site(f"redis://{LOOPBACK}:{proxy.port}/0")
        with site.running() as process:
            with load(site, rng):
                for times in range(1, 11):
                    proxy.lose_answer_to(b"MSET")
                    wait_until(lambda times=times: proxy.losses == times)
            site.wait_until_applied()
            assert site.wrong_rows() == []
            assert said(process, "rows_restored") == 0


def run_out_of_memory(_: EmbeddedRedis, client: redis.Redis) -> None:
    """Every write is answered OOM."""
    client.config_set("maxmemory", 1)


def fail_to_save(server: EmbeddedRedis, client: redis.Redis) -> None:
    """Every write is answered MISCONF: the last snapshot could not be written."""
    (server.directory / "dump.rdb").mkdir()  # no file can be put in its place
    client.config_set("save", "3600 1000000")
    client.bgsave()
    wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")


def recover(client: redis.Redis) -> None:
    client.config_set("maxmemory", 0)
    client.config_set("save", "")


@pytest.mark.parametrize("refuse", [run_out_of_memory, fail_to_save])
def test_no_event_is_lost_when_redis_refuses_rows_and_the_process_ends(
    make_site, redis_server, rng, refuse
):
    site = make_site(redis_server.url)
    with site.running() as process, redis.Redis.from_url(redis_server.url) as client:
        site.send(recent_interactions(rng, 300))
        site.wait_until_applied()
        refuse(redis_server, client)
        site.send(random_interactions(rng, 300, START_MS, tag="refused"))
        assert process.wait(60) == 1
        recover(client)
        process.start()
        site.wait_until_applied()
        assert site.wrong_rows() == []


def test_rows_lost_while_no_process_held_them_are_rebuilt(make_site, redis_server, rng):
    site = make_site(redis_server.url)
    site.send(recent_interactions(rng, 500))
    with site.running() as process:
        site.wait_until_applied()
        process.stop()
        redis_server.restart()
        process.start()
        site.send(recent_interactions(rng, 500))
        site.wait_until_applied()
        assert site.wrong_rows() == []


def test_a_redis_that_only_reads_is_waited_for(make_site, redis_server, rng):
    site = make_site(redis_server.url)
    with site.running() as process, redis.Redis.from_url(redis_server.url) as client:
        pid = process.pid
        with load(site, rng):
            wait_until(lambda: n_rows(redis_server.url) > 0)
            client.replicaof(LOOPBACK, 1)  # after a failover it is a replica of somebody else
            wait_until(lambda: said(process, "redis_away") >= 2)
            client.replicaof("NO", "ONE")
            behind = site.committed()
            wait_until(lambda: site.committed() != behind)
        site.wait_until_applied()
        assert site.wrong_rows() == []
        assert process.pid == pid


def test_connections_that_are_open_at_one_end_alone_are_given_up(make_site, redis_server, rng):
    with LossyProxy(redis_server.port) as proxy:
        site = make_site(f"redis://{LOOPBACK}:{proxy.port}/0?socket_timeout=0.5")
        with site.running() as process:
            pid = process.pid
            with load(site, rng):
                for _ in range(3):
                    behind = site.committed()
                    wait_until(lambda behind=behind: site.committed() != behind)
                    assert proxy.fall_silent() > 0
            site.wait_until_applied()
            assert site.wrong_rows() == []
            assert process.pid == pid
