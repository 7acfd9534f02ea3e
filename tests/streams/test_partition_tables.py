"""The rows that partitions feed, through the running flow: a clean replay's, and readable."""

import time

import numpy as np

from features.ids import id_hash
from features.log import LogConfig
from features.partition_reads import read_neighbours, read_priors, read_segment
from features.redis_config import RedisConfig
from features.redis_store import RedisLink, RedisRowStore
from features.store import COVISITATIONS, GLOBALS, SEGMENTS
from features.vocabulary import N_GENRES
from tests.flows import FeaturesSite, random_interactions

HOUR_MS = 3_600_000


def test_rows_of_partitions_equal_a_clean_replay_after_a_kill(
    broker, redis_url, topic_prefix, tmp_path, rng
):
    redis = RedisConfig(redis_url, prefix=topic_prefix)
    site = FeaturesSite(LogConfig(broker), redis, topic_prefix, tmp_path)
    start_ms = time.time_ns() // 1_000_000 - 10 * HOUR_MS
    interactions = random_interactions(rng, 3_000, start_ms)
    with site.running() as process:
        site.send(interactions[:1_500])
        process.restart()
        site.send(interactions[1_500:])
        site.wait_until_applied()
        assert site.wrong_rows() == []
    now_ms = start_ms + HOUR_MS
    link = RedisLink(redis, give_up_after_s=5)
    covisits, segments, globals_ = (
        RedisRowStore(link, table, redis) for table in (COVISITATIONS, SEGMENTS, GLOBALS)
    )
    try:
        neighbours = read_neighbours(covisits, globals_, id_hash("i1"), now_ms, 10, 4)
        hour = start_ms // HOUR_MS % 24
        everywhere = read_segment(segments, 0, hour, now_ms, 64)
        priors = read_priors(globals_)
    finally:
        link.close()
    assert len(neighbours) == 10
    assert (neighbours["lift"] > 0).all()
    assert len(everywhere) == 64
    assert np.isclose(everywhere["share"].sum(), 1.0, atol=0.1)
    assert 0.1 < priors[N_GENRES, 0] < 1.0
