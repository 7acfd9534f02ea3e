"""The engine's log becomes rows that estimates can stand on: each slot once, with what holds."""

import numpy as np
import pytest
from headrace.v1 import events_pb2

from features import lake
from features.codec import encode_erasure
from features.erasure import Erasure
from features.ids import viewer_hash
from features.lake import LakeError, LakeRecord, LogIdentity
from features.learning_codec import encode_outcome, encode_rollback
from features.log import LogConfig, LogWriter
from features.outcomes import Outcome, Rollback
from infra import topics
from offline import off_policy
from offline.decision_log import (
    NO_PROPENSITY,
    OF_ERASED,
    PINNED,
    UNDECIDED,
    from_lake,
    from_log,
)
from offline.logged_feedback import OffPolicyError
from offline.target_policies import logged_policy, static
from streams.archive import rows_of
from tests.clock import START_MS

CONTEXTS = ("new/start/open/night/weekday", "power/deep/open/evening/weekend")
ARMS = ("ranker", "trending", "als")
TABLES = (lake.IMPRESSIONS, lake.OUTCOMES, lake.ERASURES)


def impression(request, arms, propensities, user="ann", at_ms=START_MS):
    slots = [
        events_pb2.SlateSlot(item_id=f"i{k}", source="week", arm=arm, propensity=p)
        for k, (arm, p) in enumerate(zip(arms, propensities, strict=True))
    ]
    return events_pb2.Impression(
        request_id=request, user_id=user, served_at_ms=at_ms, slots=slots
    ).SerializeToString()


def outcome(request, slot, reward, revision=0, user="ann", context=CONTEXTS[0]):
    return encode_outcome(
        Outcome(
            request, slot, user, f"i{slot}", reward > 0, reward,
            revision=revision, decision_context=context,
        )
    )  # fmt: skip


def write_lake(folder, impressions=(), outcomes=(), erasures=()):
    """A lake as the archive flow writes one; records are values, or a key and a value."""
    partitions = dict.fromkeys(TABLES, 1)
    lake.claim(folder, LogIdentity("c", {table: table for table in TABLES}, partitions))
    for table, values in zip(TABLES, (impressions, outcomes, erasures), strict=True):
        records = [
            LakeRecord(table, 0, offset, START_MS + offset, *entry, [])
            for offset, entry in enumerate(v if isinstance(v, tuple) else (b"k", v) for v in values)
        ]
        if records:
            day = folder / table / "day=2013-08-01"
            lake.write_file(day, 0, 0, len(records) - 1, rows_of(table, records))
    return folder


def test_slots_meet_their_newest_outcomes(tmp_path):
    found = from_lake(
        write_lake(
            tmp_path,
            [
                impression("r2", ["trending"], [0.25], at_ms=START_MS + 5),
                impression("r1", ["ranker", "trending"], [0.5, 0.25]),
                impression("empty", [], []),
                b"\xff\xff",
            ],
            [
                outcome("r1", 0, -0.1),
                outcome("r1", 1, 0.0),
                b"\xff\xff",
                outcome("r1", 0, 1.0, revision=1),
                encode_rollback(Rollback(3)),
                outcome("r2", 0, 0.8, context=CONTEXTS[1]),
                outcome("never served", 0, 1.0),
            ],
        )
    )
    logged = found.logged
    assert logged.action_names == ("ranker", "trending")
    assert logged.context_names == CONTEXTS
    assert logged.rewards.tolist() == [1.0, 0.0, 0.8]  # by time
    assert logged.actions.tolist() == [0, 1, 1]
    assert logged.positions.tolist() == [0, 1, 0]
    assert logged.propensities.tolist() == [0.5, 0.25, 0.25]
    assert logged.contexts.tolist() == [0, 0, 1]
    assert logged.slates[0] == logged.slates[1] != logged.slates[2]
    assert found.left_out == {}


def test_of_a_record_that_is_there_twice_one_counts(tmp_path):
    slate, answer = impression("r1", ["ranker"], [0.5]), outcome("r1", 0, 1.0)
    found = from_lake(write_lake(tmp_path, [slate, slate], [answer, answer]))
    assert found.logged.rewards.tolist() == [1.0]


def test_what_cannot_be_used_is_left_out_and_counted(tmp_path):
    viewer = viewer_hash("bob")
    entries = [
        (Erasure(viewer, 0, 7, at_ms).key, encode_erasure(Erasure(viewer, 0, 7, at_ms)))
        for at_ms in (START_MS + 10, START_MS + 5)
    ]
    found = from_lake(
        write_lake(
            tmp_path,
            [
                impression("r1", ["ranker", "als", "als", ""], [0.5, 0.5, 0.0, 0.5]),
                impression("r2", ["als"], [0.5], user="bob", at_ms=START_MS + 10),
                impression("r3", ["als"], [0.5], user="bob", at_ms=START_MS + 11),
            ],
            [
                *(outcome("r1", slot, 1.0) for slot in (0, 2, 3)),
                *(outcome(request, 0, 1.0, user="bob") for request in ("r2", "r3")),
            ],
            entries,
        )
    )
    assert found.left_out == {UNDECIDED: 1, NO_PROPENSITY: 2, OF_ERASED: 1}
    assert found.logged.actions.tolist() == [1, 0]


def test_a_lake_without_outcomes_says_what_it_lacks(tmp_path):
    folder = write_lake(tmp_path, [impression("r1", ["ranker"] * 3, [1.0] * 3)])
    with pytest.raises(OffPolicyError, match=f"outcomes; it holds 3 {UNDECIDED}"):
        from_lake(folder)
    with pytest.raises(LakeError, match="must hold Parquet files"):
        from_lake(tmp_path / "elsewhere")


def test_the_topics_say_what_the_lake_says(tmp_path, broker, topic_prefix):
    topics.ensure_topics({"bootstrap.servers": broker}, topics.topics(topic_prefix))
    slates = [impression(f"r{k}", ["ranker", "als"], [0.5, 0.5]) for k in range(5)]
    answers = [outcome(f"r{k}", k % 2, k / 10) for k in range(5)]
    config = LogConfig(broker)
    writer = LogWriter(config)
    for table, values in ((lake.IMPRESSIONS, slates), (lake.OUTCOMES, answers)):
        for value in values:
            writer.append(topic_prefix + table, b"ann", value)
    writer.flush()
    live = from_log(config, lambda table: topic_prefix + table)
    kept = from_lake(write_lake(tmp_path, slates, answers))
    assert live.left_out == kept.left_out == {UNDECIDED: 5}
    for name in ("rewards", "actions", "positions", "propensities", "contexts", "slates"):
        assert (getattr(live.logged, name) == getattr(kept.logged, name)).all()


def test_from_a_log_of_the_engine_another_policy_s_reward_comes_out(tmp_path, rng):
    """1,500 slots served by known shares: what static weights would earn, within its interval."""
    shares, truth = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.3, 0.6])
    slates, answers = [], []
    for k in range(500):
        arms = rng.choice(3, size=3, p=shares)
        slates.append(
            impression(f"r{k}", [ARMS[a] for a in arms], shares[arms], at_ms=START_MS + k)
        )
        rewards = (rng.random(3) < truth[arms]).astype(float)
        answers += [outcome(f"r{k}", slot, rewards[slot]) for slot in range(3)]
    logged = from_lake(write_lake(tmp_path, slates, answers)).logged
    weights = {"trending": 1.0, "als": 3.0}
    of = off_policy.inputs_of(logged, static(logged, weights), np.zeros((1_500, 3)))
    found = off_policy.evaluate(of, logged.slates, rng, estimators=("snips",))["snips"]
    assert found.low < 0.25 * 0.3 + 0.75 * 0.6 < found.high
    same = off_policy.inputs_of(logged, logged_policy(logged), np.zeros((1_500, 3)))
    assert off_policy.snips(same).value == pytest.approx(logged.rewards.mean())


def test_slots_that_a_rule_pinned_are_no_choices(tmp_path):
    found = from_lake(
        write_lake(
            tmp_path,
            [impression("r1", ["pinned", "ranker"], [1.0, 0.5])],
            [outcome("r1", 0, 1.0), outcome("r1", 1, 0.0)],
        )
    )
    assert found.logged.action_names == ("ranker",)
    assert found.logged.positions.tolist() == [1]
    assert found.left_out == {PINNED: 1}
