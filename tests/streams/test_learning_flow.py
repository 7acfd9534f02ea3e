"""The learning flow: what is published when, what is left out, and where a restart goes on."""

from threading import Event

import numpy as np
import pytest

from features.learning_codec import decode_snapshot, encode_snapshot
from features.log import LogConfig, LogError, read_to_end
from features.model_snapshot import ModelSnapshot
from features.model_versions import (
    LEARNED,
    StoredVersion,
    kept_key,
    kept_sequence,
    read_kept,
    read_versions,
)
from features.outcomes import Rollback
from infra.learned_parts import learners
from infra.topics import Topic, ensure_topics
from online_models.learner import Learner
from online_models.rates import ArmRates
from streams.learning import LearningParts, add_learning, resume, resumed
from streams.lease import Lease, LeaseError
from tests.clock import FakeClock
from tests.flows import wait_until
from tests.outcomes import LearningSite, assert_same, batch_of, random_outcomes


@pytest.fixture
def site(any_broker, redis_url, topic_prefix, tmp_path):
    return LearningSite(LogConfig(any_broker), redis_url, topic_prefix, tmp_path)


@pytest.fixture
def small_site(broker, redis_url, topic_prefix, tmp_path):
    return LearningSite(LogConfig(broker), redis_url, topic_prefix, tmp_path)


class Time:
    """Seconds that the test lets pass."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def parts_of(site, time_s=None, *, rates_alone=False, **others):
    return LearningParts(
        log=site.log,
        outcomes=site.topic("outcomes"),
        models=site.topic("models"),
        group=f"{site.prefix}learning",
        learners=(lambda: {"rates": ArmRates()}) if rates_alone else learners,
        clock=FakeClock(),
        keep_every_ms=1_000,
        stop=Event(),
        monotonic_s=time_s or Time(),
        **others,
    )


def sequences(site):
    """Of all versions that were published under the learner's key, in order."""
    records = read_to_end(site.log, site.topic("models"))
    return [
        decode_snapshot(record.value()).sequence
        for record in records
        if record.key() == LEARNED.encode()
    ]


def test_outcomes_become_versions_and_bad_records_are_left_out(site, rng):
    outcomes = random_outcomes(rng, 400)
    with site.running() as process:
        site.send([*outcomes[:200], b"nonsense", b"", *outcomes[200:]])
        site.assert_equals_clean_replay()
        site.send([Rollback(101, "bots")])
        site.assert_equals_clean_replay()
        newest = site.newest()
        assert (newest.sequence, newest.restored_from) == (403, 101)
        wait_until(lambda: site.metric("headrace_learning_version_sequence") == 403)
        assert site.metric("headrace_learning_outcomes_total") == 400
        assert site.metric("headrace_learning_bad_records_total") == 2
        assert site.metric("headrace_learning_rollbacks_total", effect="followed") == 1
        assert site.metric("headrace_learning_publish_seconds_count") >= 1
        assert site.metric("headrace_learning_version_age_seconds") >= 0
        assert site.metric("headrace_learning_version_bytes") > 1_000
        wait_until(lambda: site.committed() == 403)  # for Kafka's own tools
        process.stop()
    assert site.newest().sequence == 403


def test_versions_come_at_once_when_idle_and_not_too_often_when_busy(small_site, rng):
    time_s = Time()
    publisher = resumed(parts_of(small_site, time_s))
    outcomes = random_outcomes(rng, 50)
    for k in range(5):
        publisher.take([batch_of(outcomes[10 * k : 10 * k + 10], 10 * k)])
        time_s.now_s += 0.1
        publisher.publish_if_due()
    publisher.finish()
    assert sequences(small_site) == [10, 30, 50]
    publisher.finish()
    assert sequences(small_site) == [10, 30, 50]


def test_a_restart_goes_on_from_the_newest_good_version(small_site, rng):
    outcomes = random_outcomes(rng, 350)
    first = resumed(parts_of(small_site))
    first.take([batch_of(outcomes)])
    first.finish()
    bad = [
        (LEARNED, b"garbage"),
        (LEARNED, encode_snapshot(ModelSnapshot(LEARNED, 10**9, {"x": np.zeros(1)}))),
    ]
    for key, value in bad:
        small_site.writer.append(
            small_site.topic("models"), key.encode(), value, headers=[("kept", b"1,2")]
        )
        small_site.writer.flush()
        again = resumed(parts_of(small_site)).learner
        newest_kept = max(first.learner.kept)
        assert again.sequence == newest_kept  # since `learned` itself is spoilt
        assert_same(again.version().arrays, first.learner.kept[newest_kept].arrays)
        assert list(again.kept) == list(first.learner.kept)


def test_a_version_that_somebody_else_restored_is_not_gone_on_from(small_site, rng):
    first = resumed(parts_of(small_site))
    first.take([batch_of(random_outcomes(rng, 50))])
    first.finish()
    version = first.learner.version()
    restored = encode_snapshot(ModelSnapshot(LEARNED, 99, version.arrays))
    small_site.writer.append(small_site.topic("models"), b"learned@restored", restored)
    small_site.writer.flush()
    assert resumed(parts_of(small_site)).learner.sequence == 50


def test_thinned_versions_get_tombstones(small_site, rng):
    publisher = resumed(parts_of(small_site))
    for k, outcome in enumerate(random_outcomes(rng, 120, every_ms=1_000)):
        publisher.take([batch_of([outcome], k)])
        publisher._parts.monotonic_s.now_s += 1
    publisher.finish()
    stored = read_versions(small_site.log, small_site.topic("models"))
    kept = sorted(filter(None, map(kept_sequence, stored)))
    assert kept == sorted(publisher.learner.kept)
    assert len(kept) == 50
    assert len(read_tombstones(small_site)) == 70


def read_tombstones(site):
    records = read_to_end(site.log, site.topic("models"))
    return [record.key() for record in records if not record.value()]


def test_versions_left_over_by_a_crash_are_written_anew_or_taken_out(small_site, rng):
    outcomes = random_outcomes(rng, 500)
    first = resumed(parts_of(small_site))
    first.take([batch_of(outcomes[:250])])
    first.finish()
    leftover = encode_snapshot(ModelSnapshot(LEARNED, 9_999, {"x": np.zeros(1)}))
    topic = small_site.topic("models")
    small_site.writer.append(topic, kept_key(9_999).encode(), leftover, headers=[("kept", b"9999")])
    small_site.writer.flush()
    second = resumed(parts_of(small_site))
    second.take([batch_of(outcomes[250:], 250)])
    second.finish()
    assert kept_key(9_999) not in read_versions(small_site.log, topic)


def test_a_crash_behind_any_record_of_a_publication_is_made_good(small_site, rng):
    outcomes = random_outcomes(rng, 300, every_ms=500)
    records = with_rollbacks(outcomes)
    publisher = resumed(parts_of(small_site, rates_alone=True))
    for at in range(0, len(records), 60):  # 30 versions kept in each, some let go of unwritten
        publisher.take([batch_of(records[at : at + 60], at)])
        publisher._parts.monotonic_s.now_s += 1
    publisher.finish()
    written = list(read_to_end(small_site.log, small_site.topic("models")))
    assert len(written) > 150
    stored = {}
    for record in written:
        key, value = record.key().decode(), record.value()
        if value:
            stored[key] = StoredVersion(value, record.offset(), read_kept(record.headers()))
        else:
            stored.pop(key)
        learner = Learner({"rates": ArmRates()}, 1_000)
        resume(learner, stored)
        learner.learn(batch_of(records[learner.sequence :], learner.sequence))
        assert list(learner.kept) == list(publisher.learner.kept)
        assert_same(learner.version().arrays, publisher.learner.version().arrays)


def with_rollbacks(outcomes):
    """Two that can be followed, of versions that are thinned out later, and one that cannot."""
    return [*outcomes[:90], Rollback(61), *outcomes[90:170], Rollback(153), *outcomes[170:]]


def test_state_that_is_not_sound_is_not_published(small_site, rng):
    publisher = resumed(parts_of(small_site))
    publisher.take([batch_of(random_outcomes(rng, 5))])
    publisher.finish()

    class Broken:
        def learn(self, outcomes):
            pass

        def arrays(self):
            return {"x": np.array([np.nan])}

        def restore(self, arrays):
            pass

    publisher.learner._parts["broken"] = Broken()
    publisher.take([batch_of(random_outcomes(rng, 5), 5)])
    publisher.finish()
    assert sequences(small_site) == [5]


def test_a_writer_that_lost_its_lease_publishes_nothing(small_site, rng):
    def check():
        raise LeaseError("taken")

    publisher = resumed(parts_of(small_site, check=check))
    with pytest.raises(LeaseError):
        publisher.take([batch_of(random_outcomes(rng, 5))])
    assert sequences(small_site) == []


def test_a_second_learner_does_not_start(small_site):
    settings = small_site.settings()
    with (
        small_site.running(),
        pytest.raises(LeaseError, match="the learning flow"),
        Lease(settings.redis.config(), "another", name="learning"),
    ):
        pass


def test_an_order_to_learn_in_needs_one_partition(small_site):
    name = small_site.topic("many")
    ensure_topics({"bootstrap.servers": small_site.log.bootstrap}, [Topic(name, 2)])
    parts = parts_of(small_site)
    parts.outcomes = name
    with pytest.raises(LogError, match="must have 1 partition"):
        add_learning(None, parts)


def test_versions_of_another_log_are_refused_with_a_clear_word(small_site, rng):
    parts = parts_of(small_site)
    publisher = resumed(parts)
    publisher.take([batch_of(random_outcomes(rng, 50))])  # of which the log knows nothing
    publisher.finish()
    refused = small_site.run_to_its_end()
    assert refused.returncode == 1
    assert "it is another log" in refused.stderr
    assert "Traceback" not in refused.stderr
