"""kill -9 of the attribution process under load: each outcome of a clean run, exactly once."""

import threading
import time

import pytest

from features.log import LogConfig
from tests.attributions import AttributionSite
from tests.flows import wait_until


@pytest.fixture
def site(sturdy_broker, topic_prefix, tmp_path):
    return AttributionSite(LogConfig(sturdy_broker), topic_prefix, tmp_path)


@pytest.fixture
def small_site(broker, topic_prefix, tmp_path):
    return AttributionSite(LogConfig(broker), topic_prefix, tmp_path)


def send_until(site, rng, done):
    """A load until `done`: a few slates at a time, with their answers."""
    round_ = 0
    while not done.is_set():
        site.send(rng, 10, f"{round_}-")
        round_ += 1
        time.sleep(0.1)  # the pace of the load


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_outcomes_are_those_of_a_clean_run_after_kills_under_load(site, rng):
    delays_s = rng.uniform(0.05, 1.5, 2)
    done = threading.Event()
    sender = threading.Thread(target=send_until, args=(site, rng, done))
    with site.process() as process:
        sender.start()
        try:
            wait_until(lambda: site.n_written() > 0)
            for delay_s in delays_s:
                time.sleep(delay_s)  # the kill point itself, not a wait for something
                process.restart()
        finally:
            done.set()
            sender.join()
        site.wait_until_written()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_outcomes_that_were_written_and_never_committed_are_not_written_again(small_site, rng):
    site = small_site
    site.epoch_s = 60  # an epoch's offsets are committed at its end, and it never comes to that
    site.send(rng, 40)
    with site.process() as process:
        site.wait_until_written()
        process.restart()
        site.send(rng, 10, "later-")
        site.wait_until_written()
