"""One viewer sends half of all events: theirs are right, and so are everybody else's."""

from dataclasses import replace

import pytest

from features.log import LogConfig
from features.redis_config import RedisConfig
from tests.faults.load import recent_interactions
from tests.flows import FeaturesSite


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_viewer_with_half_of_the_traffic_changes_nothing_for_the_others(
    broker, redis_url, topic_prefix, tmp_path, rng, n_workers
):
    site = FeaturesSite(
        LogConfig(broker), RedisConfig(redis_url, prefix=topic_prefix), topic_prefix, tmp_path
    )
    site.n_workers = n_workers
    is_hot = rng.random(4_000) < 0.5
    site.send(
        [
            replace(interaction, user_id="hot") if hot else interaction
            for interaction, hot in zip(recent_interactions(rng, 4_000), is_hot, strict=True)
        ]
    )
    with site.running():
        site.wait_until_applied()
        assert site.wrong_rows() == []
