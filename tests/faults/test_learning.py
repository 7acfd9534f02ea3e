"""kill -9 of the learning process: weights and sums equal a clean replay bit for bit."""

import threading
import time

import pytest

from features.log import LogConfig
from features.outcomes import Rollback
from infra.models import list_versions, roll_back
from tests.clock import START_MS
from tests.flows import wait_until
from tests.outcomes import LearningSite, random_outcomes


@pytest.fixture
def site(sturdy_broker, redis_url, topic_prefix, tmp_path):
    return LearningSite(LogConfig(sturdy_broker), redis_url, topic_prefix, tmp_path)


@pytest.fixture
def small_site(broker, redis_url, topic_prefix, tmp_path):
    return LearningSite(LogConfig(broker), redis_url, topic_prefix, tmp_path)


def test_learned_state_equals_a_clean_replay_after_kills_under_load(site, rng):
    outcomes = random_outcomes(rng, 6_000, every_ms=20)
    delays_s = rng.uniform(0.02, 0.6, 3)

    def send_slowly():
        for start in range(0, len(outcomes), 100):
            site.send(outcomes[start : start + 100])
            if start % 1_000 == 500:
                site.send([b"nonsense", Rollback(start // 2 - start // 2 % 50 + 1)])
            time.sleep(0.03)  # a load, spread over the kills

    sender = threading.Thread(target=send_slowly)
    sender.start()
    with site.running() as process:
        for delay_s in delays_s:
            time.sleep(delay_s)  # the kill point itself, not a wait for something
            process.restart()
        sender.join()
        site.assert_equals_clean_replay()
    assert site.clean_replay().counts.rollbacks > 0


def test_learning_goes_on_after_a_rollback_and_a_kill(small_site, rng):
    site = small_site
    site.send(random_outcomes(rng, 1_000))
    with site.running() as process:
        site.wait_until_published()
        kept = [row.sequence for row in list_versions(site.settings()) if row.is_kept]
        process.kill()
        done = roll_back(site.settings(), kept[len(kept) // 2], "clicks were bots")
        later = random_outcomes(rng, 500, START_MS + 20_000, tag="later")
        site.send(later[:250])
        process.start()
        site.assert_equals_clean_replay()
        assert site.clean_replay().counts.rollbacks == 1
        site.send(later[250:])
        wait_until(lambda: site.acknowledged() > done.sequence + 300)
        process.restart()
        site.assert_equals_clean_replay()
        version = site.newest()
        expected = kept[len(kept) // 2] + len(later)
        assert version.arrays["learner/outcomes"] == expected
