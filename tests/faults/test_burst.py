"""Ten times the usual load while nobody reads: what piles up stays in the log, and in its order."""

import os
import signal
import time

import psutil

from features.log import LogConfig
from features.redis_config import RedisConfig
from tests.faults.load import recent_interactions
from tests.flows import FeaturesSite

N_USUAL, N_BURST, N_PARTS = 2_000, 20_000, 4
MORE_BYTES = 200 << 20  # room for the consumer's queue (32 MiB), a batch and the allocator


def test_a_burst_for_a_flow_that_stands_still_is_caught_up_with_in_bounded_memory(
    broker, redis_url, topic_prefix, tmp_path, rng
):
    site = FeaturesSite(
        LogConfig(broker), RedisConfig(redis_url, prefix=topic_prefix), topic_prefix, tmp_path
    )
    site.send(recent_interactions(rng, N_USUAL))
    with site.running() as process:
        site.wait_until_applied()
        flow = psutil.Process(process.pid)
        before = flow.memory_info().rss
        os.kill(process.pid, signal.SIGSTOP)
        try:
            burst = recent_interactions(rng, N_BURST // N_PARTS)
            for _ in range(N_PARTS):  # the same again counts again: their ids are forgotten by then
                site.send(burst)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        started_s, most = time.monotonic(), before
        while not site.is_applied():
            most = max(most, flow.memory_info().rss)
            assert time.monotonic() < started_s + 60
        assert most - before < MORE_BYTES
        assert site.wrong_rows() == []
