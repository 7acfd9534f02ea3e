"""The flow in several processes: rescaled, and killed, under load; rows equal a clean replay."""

import time
from contextlib import ExitStack

import psutil
import pytest
from confluent_kafka import KafkaError, KafkaException

from features.log import LogConfig
from features.redis_config import RedisConfig
from infra.embedded import StartError
from infra.metrics_client import Metrics
from infra.ops.scrape import samples_of
from tests.faults.load import load, recent_interactions
from tests.flows import FeaturesSite, wait_until


@pytest.fixture
def site_at(redis_url, topic_prefix, tmp_path):
    redis = RedisConfig(redis_url, prefix=topic_prefix)
    return lambda broker: FeaturesSite(LogConfig(broker), redis, topic_prefix, tmp_path)


@pytest.fixture
def site(site_at, any_broker):
    return site_at(any_broker)


@pytest.fixture
def local_site(site_at, broker):
    return site_at(broker)


def workers_of(process):
    """The processes of the workers, by number; each stands below a keeper."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        line = child.cmdline()
        if "--process" in line and "-m" in line[:2]:
            found[int(line[line.index("--process") + 1])] = child
    return found


def applied(site):
    """Events committed so far; none while a new broker is still choosing who keeps offsets."""
    try:
        return sum(site.committed().values())
    except KafkaException as error:
        if error.args[0].code() != KafkaError.NOT_COORDINATOR:
            raise
        return 0


def run_with(site, n_workers, *, at_least):
    """Runs that many workers until `at_least` more events are committed, then stops them."""
    site.n_workers = n_workers
    before = applied(site)
    with site.running():
        wait_until(lambda: applied(site) >= before + at_least)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_rows_are_the_same_after_one_worker_then_two_of_which_one_is_killed_then_one(
    local_site, rng
):
    site = local_site
    with ExitStack() as cleanup:
        with load(site, rng):
            run_with(site, 1, at_least=200)
            site.n_workers = 2
            with site.running() as process:
                before = applied(site)
                wait_until(lambda: applied(site) > before)
                kill_one(process, 1)
                process.start()
                before = applied(site)
                wait_until(lambda: applied(site) > before)
            site.n_workers = 1
            cleanup.enter_context(site.running())
        site.wait_until_applied()
        assert site.wrong_rows() == []


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_worker_of_four_killed_under_load_takes_the_others_along_and_loses_nothing(site, rng):
    site.n_workers = 4
    with site.running() as process:
        with load(site, rng):
            wait_until(lambda: applied(site) > 0)
            kill_one(process, 2)
            process.start()
        site.wait_until_applied()
        assert site.wrong_rows() == []


def kill_one(process, worker):
    """kill -9 of one worker; returns when all have ended, and their owner has said so."""
    workers = workers_of(process)
    workers[worker].kill()
    assert process.wait(30) == 1
    _, alive = psutil.wait_procs(workers.values(), 10)
    assert alive == []
    assert f"features-{worker} with status 137" in process.log_tail()


@pytest.mark.long
@pytest.mark.timeout(900)
def test_rescaled_up_and_down_with_kills_in_between(site, rng):
    with load(site, rng):
        for n_workers in (1, 2, 4, 3, 2, 1):
            run_with(site, n_workers, at_least=1_000)
            site.n_workers = 4
            with site.running() as process:
                before = applied(site)
                wait_until(lambda before=before: applied(site) > before)
                time.sleep(rng.uniform(0, 1))  # the kill point itself
                kill_one(process, int(rng.integers(4)))
    site.n_workers = 1
    with site.running():
        site.wait_until_applied()
        assert site.wrong_rows() == []


@pytest.mark.slow
def test_the_owner_tells_what_all_workers_count(local_site, rng):
    local_site.n_workers = 2
    local_site.send(recent_interactions(rng, 400))
    with local_site.running():
        local_site.wait_until_applied()
        metrics = Metrics(local_site.metrics_url)
        wait_until(lambda: (found := metrics.read())["lag"] == 0 and found["events"] == 400)
        samples = list(samples_of(local_site.metrics_url))
    applied = [s for s in samples if s.name == "headrace_stream_applied_offset"]
    assert sum(sample.value for sample in applied) == 400
    workers = {sample.labels["partition"]: sample.labels["worker"] for sample in applied}
    assert workers == {"0": "0", "1": "1", "2": "0", "3": "1"}
    ages = {
        (s.labels["source"], s.labels["worker"]): s.value
        for s in samples
        if s.name == "headrace_source_age_seconds"
    }
    assert ages.keys() == {(n, w) for n in ("applied", "log_end", "redis") for w in "01"}


@pytest.mark.slow
def test_workers_end_with_their_owner(local_site, rng):
    local_site.n_workers = 2
    local_site.send(recent_interactions(rng, 200))
    with local_site.running() as process:
        workers = workers_of(process)
        process.kill()
        _, alive = psutil.wait_procs(workers.values(), 20)
        assert alive == []
        process.start()
        local_site.wait_until_applied()
        assert local_site.wrong_rows() == []


def test_more_workers_than_partitions_are_refused_with_both_numbers(local_site):
    process = local_site.process()
    process.argv += ["--workers", "5"]
    with pytest.raises(StartError, match=r"4 partitions: too few for 5 workers"):
        process.start()
    assert process.exit_status == 1
    process.close()
