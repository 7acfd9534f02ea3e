"""The mirror of learned state: the newest sound version is in use, and nothing else ever is."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient
from headrace.v1 import events_pb2
from prometheus_client import REGISTRY

from features.learning_codec import encode_snapshot
from features.log import LogConfig, LogWriter
from features.model_snapshot import ModelSnapshot
from features.model_versions import LEARNED, RESTORED, kept_key
from infra.embedded import EmbeddedBroker
from online_models.rates import ArmRates
from serving.model_mirror import ModelMirror
from tests.clock import START_MS, FakeClock
from tests.outcomes import batch_of, random_outcomes
from tests.serving.harness import NOWHERE, create_topic, eventually

RATES = "rates"
REASONS = (
    "checksum", "undecodable", "older", "feature_version", "name", "not_finite", "shape",
    "subscriber",
)  # fmt: skip


@pytest.fixture
def version(rng):
    """Makes versions of a sequence."""
    rates = ArmRates()
    rates.learn(batch_of(random_outcomes(rng, 50)).records)

    def make(sequence, **changed):
        arrays = {f"{RATES}/{name}": values for name, values in rates.arrays().items()}
        arrays["learner/outcomes"] = np.array(sequence)
        return replace(ModelSnapshot(LEARNED, sequence, arrays, START_MS - 500), **changed)

    return make


def mirror_of(config=NOWHERE, topic="models", clock=None):
    return ModelMirror(config, topic, {RATES: ArmRates.of}, clock or FakeClock())


def refusals():
    return {
        reason: REGISTRY.get_sample_value(
            "headrace_serving_model_refused_total", {"reason": reason}
        )
        or 0.0
        for reason in REASONS
    }


def with_array(snapshot, name, values):
    return replace(snapshot, arrays={**snapshot.arrays, name: values})


def without_array(snapshot, name):
    return replace(snapshot, arrays={k: v for k, v in snapshot.arrays.items() if k != name})


def falsified(snapshot):
    message = events_pb2.ModelSnapshot.FromString(encode_snapshot(snapshot))
    message.payload = message.payload[:-1] + bytes([message.payload[-1] ^ 1])
    return message.SerializeToString()


def resealed(snapshot, payload):
    """A version with any payload and the right sum of it."""
    message = events_pb2.ModelSnapshot.FromString(encode_snapshot(snapshot))
    message.payload, message.sha256 = payload, hashlib.sha256(payload).digest()
    return message.SerializeToString()


SLOTS = f"{RATES}/slots"
BAD = {
    "garbage": ("undecodable", lambda _: b"\xffgarbage"),
    "empty": ("checksum", lambda _: b""),
    "not an npz": ("undecodable", lambda make: resealed(make(9), b"PK nonsense")),
    "bad checksum": ("checksum", lambda make: falsified(make(9))),
    "cut off": ("undecodable", lambda make: encode_snapshot(make(9))[:-40]),
    "older": ("older", lambda make: encode_snapshot(make(4))),
    "other features": (
        "feature_version", lambda make: encode_snapshot(make(9, feature_version="x")),
    ),
    "other name": ("name", lambda make: encode_snapshot(make(9, name="mine"))),
    "wrong shape": (
        "shape", lambda make: encode_snapshot(with_array(make(9), SLOTS, np.zeros((2, 2), int))),
    ),
    "wrong type": (
        "shape", lambda make: encode_snapshot(with_array(make(9), SLOTS, np.ones((145, 9)))),
    ),
    "a part is missing": ("shape", lambda make: encode_snapshot(without_array(make(9), SLOTS))),
    "NaN": (
        "not_finite", lambda make: encode_snapshot(with_array(make(9), "x/y", np.array([np.nan]))),
    ),
    "infinite": (
        "not_finite", lambda make: encode_snapshot(with_array(make(9), "x/y", np.array([np.inf]))),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_version_that_is_not_sound_is_refused_and_the_old_one_stays(version, kind):
    mirror = mirror_of()
    assert mirror.take(encode_snapshot(version(5)))
    in_use, before = mirror.current, refusals()
    reason, make = BAD[kind]
    assert not mirror.take(make(version))
    assert mirror.current is in_use
    after = refusals()
    assert {name: after[name] - before[name] for name in REASONS if after[name] > before[name]} == {
        reason: 1
    }
    assert mirror.take(encode_snapshot(version(10)))
    assert mirror.current.sequence == 10


def test_the_same_version_again_is_neither_taken_nor_refused(version):
    mirror = mirror_of()
    mirror.take(encode_snapshot(version(5)))
    in_use, before = mirror.current, refusals()
    assert not mirror.take(encode_snapshot(version(5)))
    assert mirror.current is in_use
    assert refusals() == before


def test_what_is_in_use_cannot_be_written_to(version):
    mirror = mirror_of()
    mirror.take(encode_snapshot(version(5)))
    with pytest.raises(ValueError, match="read-only"):
        mirror.current.arrays[SLOTS][0, 0] = 1
    with pytest.raises(TypeError):
        mirror.current.parts[RATES] = None
    np.testing.assert_array_equal(mirror.current.parts[RATES].slots, mirror.current.arrays[SLOTS])


def test_subscribers_are_told_once_a_version_and_one_that_fails_harms_nobody(version):
    mirror, told = mirror_of(), []

    def fail(state):
        raise RuntimeError(state.sequence)

    mirror.subscribe(fail)
    mirror.take(encode_snapshot(version(5)))
    mirror.subscribe(lambda state: told.append(state.sequence))
    before = refusals()
    mirror.take(encode_snapshot(version(5)))
    mirror.take(encode_snapshot(version(6)))
    assert told == [5, 6]
    assert mirror.current.sequence == 6
    assert refusals()["subscriber"] == before["subscriber"] + 1


def test_age_and_sequence_go_on_being_told(version):
    clock = FakeClock()
    mirror = mirror_of(clock=clock)
    assert mirror.age_s() == -1
    mirror.take(encode_snapshot(version(5)))
    assert mirror.age_s() == 0.5
    clock.advance_ms(1_000)
    assert mirror.age_s() == 1.5


class Site:
    """A topic of versions, and the mirror over it."""

    def __init__(self, bootstrap, prefix):
        self.config, self.topic = LogConfig(bootstrap), f"{prefix}models"
        create_topic(self.config, self.topic)
        self.writer = LogWriter(self.config, **{"log_level": 0})

    def publish(self, snapshot, key=LEARNED):
        self.publish_bytes(encode_snapshot(snapshot), key)

    def publish_bytes(self, value, key=LEARNED):
        self.writer.append(self.topic, key.encode(), value)
        self.writer.flush()

    def mirror(self):
        return mirror_of(self.config, self.topic)


@pytest.fixture
def site(any_broker, topic_prefix):
    return Site(any_broker, topic_prefix)


@pytest.fixture
def small_site(broker, topic_prefix):
    return Site(broker, topic_prefix)


def sequence_of(mirror):
    return mirror.current.sequence if mirror.current else None


def test_the_newest_sound_version_is_in_use_from_the_start_and_then_each_that_comes(site, version):
    for sequence in (3, 7):
        site.publish(version(sequence))
    site.publish_bytes(b"garbage")
    site.publish(version(9), kept_key(9))
    site.writer.append(site.topic, kept_key(2).encode(), None)
    site.writer.flush()
    mirror = site.mirror()
    mirror.start()
    try:
        assert sequence_of(mirror) == 7
        site.publish(version(8, restored_from=3), RESTORED)
        eventually(lambda: sequence_of(mirror) == 8)
        assert mirror.current.restored_from == 3
        site.publish(version(7))
        site.publish(version(12))
        eventually(lambda: sequence_of(mirror) == 12)
        assert REGISTRY.get_sample_value("headrace_serving_model_sequence") == 12
        assert REGISTRY.get_sample_value("headrace_serving_model_age_seconds") == 0.5
        assert REGISTRY.get_sample_value("headrace_serving_model_follower_up") == 1
    finally:
        mirror.stop()
    assert not mirror.is_alive()
    assert REGISTRY.get_sample_value("headrace_serving_model_follower_up") == 0


def test_a_topic_without_versions_has_none_in_use(small_site, version):
    mirror = small_site.mirror()
    mirror.start()
    try:
        assert mirror.current is None
        small_site.publish(version(1))
        eventually(lambda: sequence_of(mirror) == 1)
    finally:
        mirror.stop()


def test_a_version_far_behind_the_end_is_found_too(small_site, version):
    small_site.publish(version(5))
    for sequence in range(100):
        small_site.publish_bytes(b"x", kept_key(sequence + 1))
    mirror = small_site.mirror()
    mirror.start()
    mirror.stop()
    assert sequence_of(mirror) == 5


def test_a_rollback_is_in_use_after_a_start_though_the_learner_has_not_met_it(small_site, version):
    small_site.publish(version(40))
    small_site.publish(version(42, restored_from=17), RESTORED)
    small_site.publish(version(41))
    mirror = small_site.mirror()
    mirror.start()
    mirror.stop()
    assert (sequence_of(mirror), mirror.current.restored_from) == (42, 17)


def test_a_log_that_begins_anew_is_followed_from_its_first_version(topic_prefix, version):
    with EmbeddedBroker() as broker:
        site = Site(broker.bootstrap, topic_prefix)
        site.publish(version(50))
        mirror = site.mirror()
        mirror.start()
        try:
            broker.kill()
            assert sequence_of(mirror) == 50
            broker.start()
            site = Site(broker.bootstrap, topic_prefix)
            site.publish(version(2))
            eventually(lambda: sequence_of(mirror) == 2, 30)
            site.publish(version(3))
            eventually(lambda: sequence_of(mirror) == 3)
        finally:
            mirror.stop()


def test_a_topic_made_anew_is_followed_on(apache_kafka, topic_prefix, version):
    site = Site(apache_kafka.bootstrap, topic_prefix)
    site.publish(version(5))
    mirror = site.mirror()
    mirror.start()
    try:
        admin = AdminClient(dict(site.config.common()))
        admin.delete_topics([site.topic])[site.topic].result()
        eventually(lambda: site.topic not in admin.list_topics(timeout=5).topics)
        create_topic(site.config, site.topic)
        assert sequence_of(mirror) == 5
        site.publish(version(6))  # where the new topic has what the mirror had read in the old
        site.publish(version(7))
        eventually(lambda: sequence_of(mirror) == 7, 60)
    finally:
        mirror.stop()
