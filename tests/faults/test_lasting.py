"""What `headrace up --kafka apache` holds, stays, whoever is stopped or killed.

Only broker, Redis and the features flow are started: the others keep nothing of their own.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import redis

from features.events import Interaction
from features.ids import viewer_hash
from features.log import LogConfig, end_offsets
from features.redis_config import RedisConfig
from features.store import TABLES, USERS
from features.vocabulary import EventType
from infra.apache import REDIS_MAY_LOSE_S, DurableRedis
from infra.metrics_client import Metrics
from infra.settings import Settings
from infra.stack import Stack
from tests.apache_kafka import find_home, why_not_here
from tests.faults.load import load, recent_interactions
from tests.flows import FeaturesSite, wait_until
from tests.oracle import stored

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # three starts of Java and of the flow, on a machine however busy
    pytest.mark.skipif(why_not_here() is not None, reason=str(why_not_here())),
]

VIEWER = "u1"


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv(
        "JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
    )  # start fast
    rows = dict.fromkeys(("user_rows", "item_rows", "covisitation_rows", "segment_rows"), 1_024)
    apache = {"enabled": True, "heap_mib": 256}
    stream = {"group": "features", **rows}
    return Settings(home=tmp_path / "home", kafka_home=find_home(), apache=apache, stream=stream)


def site_of(stack: Stack) -> FeaturesSite:
    """For events and checks; the processes are the stack's."""
    redis = RedisConfig(stack.addresses.redis)
    return FeaturesSite(LogConfig(stack.addresses.broker), redis, "", stack.settings.home)


def row_of(site: FeaturesSite, user_id: str) -> tuple:
    """Place in the log and number of events of a viewer's row."""
    ids = [viewer_hash(user_id)]
    row = stored(site.redis, USERS, np.array(ids, np.uint64))[0]
    return int(row["partition"]), int(row["offset"]), int(row["activity"]["totals"].sum())


def everything_in(redis_url: str) -> dict[bytes, bytes]:
    """Every row, and the marker that says what they are."""
    letters = "".join(table.letter for table in TABLES)
    with redis.Redis.from_url(redis_url) as client:
        keys = [b"headrace:rows", *sorted(client.scan_iter(f"headrace:[{letters}]:*"))]
        return dict(zip(keys, client.mget(keys), strict=True))


def kill_everything(stack: Stack) -> None:
    for server in (stack.process("features"), stack.redis, stack.broker):
        server.kill()


def test_what_was_there_is_there_again_and_what_redis_lost_is_read_again(settings, rng):
    with Stack(settings) as stack:
        stack.start_features()
        site = site_of(stack)
        site.send(recent_interactions(rng, 300))
        Metrics(stack.addresses.metrics["features"]).wait_until_applied(300)
        wait_until(lambda: site.wrong_rows() == [])
        addresses, rows = stack.addresses, everything_in(stack.addresses.redis)
        ends = end_offsets(site.log, "interactions", range(4))
    with Stack(settings) as stack:
        site = site_of(stack)
        assert (stack.addresses.broker, stack.addresses.redis) == (
            addresses.broker,
            addresses.redis,
        )
        assert everything_in(stack.addresses.redis) == rows
        assert site.committed() == end_offsets(site.log, "interactions", range(4)) == ends
        stack.start_features()
        apply_one_more(site)
        lose_the_last_writes_of_redis(stack, site, rng)
        assert stack.process("features").log_path.read_text().count("rows_begin_anew") == 1
        assert [one.restarts for one in stack.status()] == [1, 1, 1]


def apply_one_more(site: FeaturesSite) -> None:
    """An event goes on top of the row that was there."""
    before = row_of(site, VIEWER)
    site.send([Interaction("one-more", VIEWER, "i1", EventType.CLICK)])
    wait_until(lambda: row_of(site, VIEWER)[1] > before[1])
    assert row_of(site, VIEWER)[0] == before[0]
    assert row_of(site, VIEWER)[2] == before[2] + 1


def lose_the_last_writes_of_redis(stack: Stack, site: FeaturesSite, rng) -> None:
    """Everything is killed under load, and Redis comes back without its last two seconds."""
    assert isinstance(stack.redis, DurableRedis)
    file = stack.redis.data / "appendonly.aof"
    sizes: list[tuple[float, int]] = []
    with load(site, rng):
        committed = site.committed()
        began_s = time.monotonic()

        def is_time() -> bool:
            sizes.append((time.monotonic(), file.stat().st_size))
            is_long = sizes[-1][0] - began_s > REDIS_MAY_LOSE_S + 1
            return is_long and sum(site.committed().values()) > sum(committed.values()) + 100

        wait_until(is_time)
        killed_s = time.monotonic()
        kill_everything(stack)
        left = max(size for at_s, size in sizes if at_s <= killed_s - REDIS_MAY_LOSE_S)
        assert left < file.stat().st_size
        os.truncate(file, left)
        stack.watch()
    site.wait_until_applied()
    assert site.wrong_rows() == []
