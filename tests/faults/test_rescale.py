"""The flow in several processes: rescaled, and killed, under load; rows equal a clean replay."""

import time

import psutil
import pytest

from features.log import LogConfig
from features.redis_store import RedisConfig
from tests.faults.load import load, recent_interactions
from tests.flows import FeaturesSite, wait_until


@pytest.fixture
def site(any_broker, redis_url, topic_prefix, tmp_path):
    return FeaturesSite(
        LogConfig(any_broker), RedisConfig(redis_url, prefix=topic_prefix), topic_prefix, tmp_path
    )


def workers_of(process):
    """The processes of the workers, by number; each stands below a keeper."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        line = child.cmdline()
        if "--process" in line and "-m" in line[:2]:
            found[int(line[line.index("--process") + 1])] = child
    return found


def applied(site):
    return sum(site.committed().values())


def run_with(site, n_workers, rng, *, at_least):
    """Runs that many workers until `at_least` more events are committed, then stops them."""
    site.n_workers = n_workers
    before = applied(site)
    with site.running():
        wait_until(lambda: applied(site) >= before + at_least)


def test_rows_are_the_same_whether_one_or_two_or_four_workers_made_them(site, rng):
    with load(site, rng):
        for n_workers in (1, 2, 4):
            run_with(site, n_workers, rng, at_least=300)
    site.n_workers = 2
    with site.running():
        site.wait_until_applied()
        assert site.wrong_rows() == []


def test_a_worker_killed_under_load_takes_the_others_along_and_loses_nothing(site, rng):
    site.n_workers = 4
    with load(site, rng), site.running() as process:
        before = applied(site)
        wait_until(lambda: applied(site) > before)
        workers = workers_of(process)
        assert sorted(workers) == [0, 1, 2, 3]
        workers[2].kill()
        assert process.wait(30) == 1
        _, alive = psutil.wait_procs(workers.values(), 10)
        assert alive == []
        assert "features-2 has ended with status 137" in process.log_tail()
        process.start()
    with site.running():
        site.wait_until_applied()
        assert site.wrong_rows() == []


def test_workers_end_with_their_owner(site, rng):
    site.n_workers = 2
    site.send(recent_interactions(rng, 200))
    with site.running() as process:
        workers = workers_of(process)
        process.kill()
        _, alive = psutil.wait_procs(workers.values(), 20)
        assert alive == []
        process.start()
        site.wait_until_applied()
        assert site.wrong_rows() == []


def test_more_workers_than_partitions_are_refused_with_both_numbers(site):
    process = site.process()
    process.argv += ["--workers", "5"]
    process.start_timeout_s = 30
    with pytest.raises(Exception, match=r"4 partitions: too few for 5 workers"):
        process.start()
    assert process.exit_status == 1
    process.close()
