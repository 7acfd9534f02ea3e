"""The log of learning and versions of learned state survive the wire, or are refused by name."""

import numpy as np
import pytest
from headrace.v1 import events_pb2

from features.codec import WireError
from features.decision_context import CONTEXT_CODES
from features.ids import id_hash, viewer_hash
from features.learning_codec import (
    decode_learning_batch,
    decode_learning_record,
    decode_snapshot,
    encode_outcome,
    encode_rollback,
    encode_snapshot,
)
from features.model_snapshot import ModelSnapshot, SnapshotError, pack, require_finite
from features.outcomes import NO_CONTEXT, NO_ROLLBACK, UNKNOWN_ARM, Outcome, Rollback
from features.ranking import N_COLUMNS
from features.registry import feature_version
from features.vocabulary import Arm

CONTEXT = "power/deep/open/evening/weekend"
OUTCOME = Outcome(
    "r1", 3, "ann", "tt1", label=True, reward=0.25, profile_id="kids", watch_share=0.25,
    delay_ms=1_500, revision=2, previous_label=True, previous_reward=0.125, source="trending",
    arm="new", propensity=0.5, item_propensity=0.25, decision_context=CONTEXT, served_at_ms=10,
    decided_at_ms=20, model_sequence=7, feature_version=feature_version(), bundle_version="b",
    features=tuple(float(k) for k in range(N_COLUMNS)),
)  # fmt: skip


def test_what_is_encoded_is_read_back():
    assert decode_learning_record(encode_outcome(OUTCOME)) == OUTCOME
    order = Rollback(12, "clicks were bots", 99)
    assert decode_learning_record(encode_rollback(order)) == order


def test_a_batch_has_a_row_for_each_record_in_order():
    values = [encode_outcome(OUTCOME), encode_rollback(Rollback(12))]
    outcome, order = decode_learning_batch(values, [40, 41]).records
    assert (outcome["offset"], order["offset"]) == (40, 41)
    assert (outcome["rollback_to"], order["rollback_to"]) == (NO_ROLLBACK, 12)
    assert outcome["request"] == id_hash("r1")
    assert outcome["user"] == viewer_hash("ann", "kids")
    assert outcome["arm"] == Arm.NEW
    assert outcome["context"] == CONTEXT_CODES[CONTEXT]
    assert (outcome["reward"], outcome["previous_reward"]) == (0.25, 0.125)
    assert outcome["has_features"]
    assert outcome["features"].tolist() == list(OUTCOME.features)


def test_features_of_another_version_are_not_taken_for_ours():
    other = events_pb2.LearningRecord(
        outcome=events_pb2.Outcome(
            propensity=1.0, features=[1.0] * N_COLUMNS, feature_version="x", arm="?"
        )
    )
    (row,) = decode_learning_batch([other.SerializeToString()], [0]).records
    assert not row["has_features"]
    assert not row["features"].any()
    assert (row["arm"], row["context"]) == (UNKNOWN_ARM, NO_CONTEXT)


@pytest.mark.parametrize(
    ("field", "value"),
    [("reward", 2.0), ("reward", float("nan")), ("propensity", 0.0), ("propensity", 1.5)],
)
def test_an_absurd_outcome_is_told_apart_and_costs_only_itself(field: str, value: float):
    absurd = events_pb2.LearningRecord(outcome=events_pb2.Outcome(propensity=1.0))
    setattr(absurd.outcome, field, value)
    good = encode_outcome(OUTCOME)
    batch = decode_learning_batch([good, absurd.SerializeToString(), b"\xff", good], [5, 6, 7, 8])
    assert batch.records["offset"].tolist() == [5, 8]
    assert [offset for offset, _ in batch.bad] == [6, 7]
    assert f"outcome.{field} must be within" in batch.bad[0][1]


def test_an_empty_record_is_no_learning_record():
    with pytest.raises(WireError, match="neither"):
        decode_learning_record(b"")


def test_a_version_is_read_back_with_equal_arrays_and_equal_bytes():
    arrays = {"weights": np.arange(4.0), "counts": np.array([[1, 2]], np.int64)}
    snapshot = ModelSnapshot("learned", 8, arrays, 1, 3)
    value = encode_snapshot(snapshot)
    found = decode_snapshot(value)
    assert (found.name, found.sequence, found.restored_from) == ("learned", 8, 3)
    assert found.feature_version == feature_version()
    for name, expected in arrays.items():
        np.testing.assert_array_equal(found.arrays[name], expected)
    assert pack(found.arrays) == pack(dict(reversed(arrays.items())))


def test_a_version_with_one_bit_turned_is_refused():
    value = bytearray(encode_snapshot(ModelSnapshot("learned", 8, {"weights": np.ones(64)})))
    value[len(value) // 2] ^= 1
    with pytest.raises(SnapshotError):
        decode_snapshot(bytes(value))


def test_objects_are_neither_written_nor_read():
    with pytest.raises(SnapshotError, match="weights must be an array of plain numbers"):
        pack({"weights": np.array([{}], object)})


def test_nan_is_named():
    with pytest.raises(SnapshotError, match="weights must be finite"):
        require_finite({"weights": np.array([0.0, np.nan])})
