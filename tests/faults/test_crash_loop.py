"""A flow that ends as often as it is started: longer and longer pauses, and nothing is spoilt."""

import pytest
import redis
from structlog.testing import capture_logs

from features.log import LogConfig
from features.redis_config import RedisConfig
from infra.stack import Stack
from tests.faults.load import recent_interactions
from tests.flows import FeaturesSite, wait_until


def restarts(stack):
    """How often the features process was started again, as `headrace status` tells it."""
    return {process.name: process.restarts for process in stack.status()}["features"]


@pytest.mark.slow
def test_a_crash_loop_pauses_longer_each_time_is_counted_and_leaves_rows_right(
    broker, redis_server, topic_prefix, tmp_path, rng
):
    redis_config = RedisConfig(redis_server.url, prefix=topic_prefix)
    site = FeaturesSite(LogConfig(broker), redis_config, topic_prefix, tmp_path)
    settings = site.settings().model_copy(update={"home": tmp_path})
    with Stack(settings) as stack, redis.Redis.from_url(redis_server.url) as client:
        site.send(recent_interactions(rng, 500))
        stack.start_features()
        site.wait_until_applied()
        client.config_set("maxmemory", 1)  # no row can be written
        site.send(recent_interactions(rng, 500))
        with capture_logs() as entries:
            while restarts(stack) < 3:
                wait_until(lambda: not stack.process("features").is_alive())
                stack.watch()
        pauses_s = [entry["backoff_s"] for entry in entries if entry["event"] == "process_ended"]
        assert pauses_s == [0.5, 1.0, 2.0]
        wait_until(lambda: not stack.process("features").is_alive())
        client.config_set("maxmemory", 0)
        stack.watch()
        assert restarts(stack) == 4
        site.wait_until_applied()
        assert site.wrong_rows() == []
