"""The log of learning and versions of learned state: to bytes and back.

A batch of records becomes one array of OUTCOME; what is no such record is told apart and costs
nothing but itself.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import DecodeError
from headrace.v1 import events_pb2
from numpy.typing import NDArray

from features.codec import WireError
from features.compiled import Rows
from features.decision_context import CONTEXT_CODES
from features.ids import id_hashes, viewer_hashes
from features.model_snapshot import ModelSnapshot, SnapshotError, pack, unpack
from features.outcomes import (
    NO_CONTEXT,
    NO_ROLLBACK,
    OUTCOME,
    UNKNOWN_ARM,
    Drift,
    Outcome,
    Rollback,
)
from features.ranking import N_COLUMNS
from features.registry import feature_version
from features.vocabulary import ARM_NAMES

_ARM_CODES = {name: code for code, name in enumerate(ARM_NAMES)}


def encode_outcome(outcome: Outcome) -> bytes:
    """Protobuf bytes of an outcome as a record of the log of learning."""
    message = events_pb2.Outcome(
        **{name: getattr(outcome, name) for name in Outcome.__slots__}  # the fields share names
    )
    return events_pb2.LearningRecord(outcome=message).SerializeToString()


def encode_rollback(rollback: Rollback) -> bytes:
    """Protobuf bytes of an order to go back."""
    message = events_pb2.Rollback(
        to_sequence=rollback.to_sequence,
        reason=rollback.reason,
        ordered_at_ms=rollback.ordered_at_ms,
    )
    return events_pb2.LearningRecord(rollback=message).SerializeToString()


def decode_learning_record(value: bytes) -> Outcome | Rollback:
    """What a record of the log of learning says, for people. Raises WireError."""
    record = _record_of(value)
    if record.HasField("rollback"):
        order = record.rollback
        return Rollback(order.to_sequence, order.reason, order.ordered_at_ms)
    found = record.outcome
    fields = {name: getattr(found, name) for name in Outcome.__slots__ if name != "features"}
    return Outcome(**fields, features=tuple(found.features))


@dataclass(frozen=True, slots=True)
class LearningBatch:
    """Records of the log of learning in its order; `bad`: (offset, reason) of what is none."""

    records: Rows  # (n,) OUTCOME
    bad: tuple[tuple[int, str], ...] = ()


def decode_learning_batch(values: Sequence[bytes], offsets: Sequence[int]) -> LearningBatch:
    """A batch of records as one array. About 20 us a record."""
    records: list[events_pb2.LearningRecord] = []
    good: list[int] = []
    bad: list[tuple[int, str]] = []
    for value, offset in zip(values, offsets, strict=True):
        try:
            records.append(_checked(_record_of(value)))
            good.append(offset)
        except WireError as error:
            bad.append((offset, str(error)))
    rows = np.zeros(len(records), OUTCOME)
    rows["offset"] = good
    rows["rollback_to"] = [
        record.rollback.to_sequence if record.HasField("rollback") else NO_ROLLBACK
        for record in records
    ]
    is_outcome = np.flatnonzero(rows["rollback_to"] == NO_ROLLBACK)
    if len(is_outcome):
        _fill(rows, is_outcome, [records[k].outcome for k in is_outcome.tolist()])
    return LearningBatch(rows, tuple(bad))


def _record_of(value: bytes) -> events_pb2.LearningRecord:
    record = events_pb2.LearningRecord()
    try:
        record.ParseFromString(value)
    except DecodeError as error:
        raise WireError(f"record is not a LearningRecord as protobuf: {error}") from error
    if record.WhichOneof("kind") is None:
        raise WireError("record must hold an outcome or a rollback; it holds neither")
    return record


def _checked(record: events_pb2.LearningRecord) -> events_pb2.LearningRecord:
    if record.HasField("outcome"):
        _refuse_absurd(record.outcome)
    return record


def _fill(rows: Rows, at: NDArray[np.int64], found: list[events_pb2.Outcome]) -> None:
    """Fills the rows at these places, a column at a time."""
    for name in _COPIED:
        rows[name][at] = [getattr(outcome, name) for outcome in found]
    rows["request"][at] = id_hashes(outcome.request_id for outcome in found)
    rows["item"][at] = id_hashes(outcome.item_id for outcome in found)
    rows["user"][at] = viewer_hashes(
        (outcome.user_id for outcome in found), (outcome.profile_id for outcome in found)
    )
    rows["context"][at] = [
        CONTEXT_CODES.get(outcome.decision_context, NO_CONTEXT) for outcome in found
    ]
    rows["arm"][at] = [_ARM_CODES.get(outcome.arm, UNKNOWN_ARM) for outcome in found]
    version = feature_version()
    features, has_features = rows["features"], rows["has_features"]
    for k, outcome in zip(at.tolist(), found, strict=True):
        if outcome.feature_version == version and len(outcome.features) == N_COLUMNS:
            features[k] = outcome.features
            has_features[k] = True


_COPIED = (
    "slot", "label", "reward", "watch_share", "delay_ms", "revision", "previous_label",
    "previous_reward", "propensity", "item_propensity", "served_at_ms", "decided_at_ms",
    "model_sequence",
)  # fmt: skip


def _refuse_absurd(found: events_pb2.Outcome) -> None:
    """Raises WireError for numbers that would spoil what is learnt."""
    for name in ("reward", "previous_reward"):
        if not -1.0 <= getattr(found, name) <= 1.0:  # NaN too
            raise WireError(f"outcome.{name} must be within -1..1; got {getattr(found, name)}")
    if not 0.0 < found.propensity <= 1.0:
        raise WireError(f"outcome.propensity must be within 0..1, above 0; got {found.propensity}")
    if found.revision > 255 or found.slot > 10_000:
        raise WireError(f"outcome.revision must be within 0..255; got {found.revision}")
    if not math.isfinite(sum(found.features)):  # NaN and infinity stay what they are in a sum
        raise WireError("outcome.features must be finite; got NaN or infinity")


def encode_snapshot(snapshot: ModelSnapshot) -> bytes:
    """Protobuf bytes of a version. Raises SnapshotError where it is too large."""
    payload = pack(snapshot.arrays)
    return events_pb2.ModelSnapshot(
        name=snapshot.name,
        sequence=snapshot.sequence,
        feature_version=snapshot.feature_version,
        created_at_ms=snapshot.created_at_ms,
        restored_from=snapshot.restored_from,
        payload=payload,
        sha256=hashlib.sha256(payload).digest(),
    ).SerializeToString()


def decode_snapshot(value: bytes) -> ModelSnapshot:
    """The version in the bytes of a record. Raises SnapshotError."""
    message = events_pb2.ModelSnapshot()
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise SnapshotError(f"record is not a ModelSnapshot as protobuf: {error}") from error
    arrays: dict[str, NDArray[np.generic]] = unpack(message.payload, message.sha256)
    return ModelSnapshot(
        message.name,
        message.sequence,
        arrays,
        message.created_at_ms,
        message.restored_from,
        message.feature_version,
    )


def encode_drift(drift: Drift) -> bytes:
    """Protobuf bytes of a drift."""
    return events_pb2.Drift(
        what=drift.what,
        segment=drift.segment,
        offset=drift.offset,
        before=drift.before,
        after=drift.after,
    ).SerializeToString()


def decode_drift(value: bytes) -> Drift:
    """The drift in the bytes of a record. Raises WireError."""
    message = events_pb2.Drift()
    try:
        message.ParseFromString(value)
    except DecodeError as error:
        raise WireError(f"record is not a Drift as protobuf: {error}") from error
    return Drift(message.what, message.segment, message.offset, message.before, message.after)
