"""Versions of learned state for people: which there are, what is in one, and going back to one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.clock import Clock, WallClock
from features.decision_context import CONTEXT_NAMES
from features.learning_codec import decode_snapshot, encode_rollback, encode_snapshot
from features.log import LogError, LogWriter
from features.model_snapshot import ModelSnapshot, SnapshotError, require_finite
from features.model_versions import (
    RESTORED,
    SERVED,
    VERSION_OPTIONS,
    StoredVersion,
    kept_key,
    kept_sequence,
    read_versions,
)
from features.outcomes import Rollback
from features.position import Position
from features.registry import feature_version
from features.vocabulary import ARM_NAMES, N_ARMS
from infra import topics
from infra.settings import Settings
from online_models.bandits import policy_of
from online_models.base import BANDITS, RATES
from online_models.learner import OUTCOMES, arrays_of
from online_models.rates import ArmRates
from online_models.situation import N_SITUATION

N_CONTEXTS_SHOWN = 4
NO_CONTEXT_NAME, NO_ARM_NAME = "none", "unknown"


class ModelsError(Exception):
    """What was asked of versions cannot be done; the message says why."""


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A version as `headrace models list` shows it."""

    sequence: int
    age_s: float
    outcomes: int  # that its state has learnt; a rollback takes back those behind it
    bytes: int
    restored_from: int  # 0: none
    is_kept: bool
    in_use: bool  # by servers that keep up
    problem: str = ""  # why it cannot be used


@dataclass(frozen=True, slots=True)
class ArrayRow:
    """An array of a version: its shape, and where its numbers lie."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    least: float
    mean: float
    most: float


@dataclass(frozen=True, slots=True)
class ArmRow:
    """What a version knows of an arm in a context."""

    context: str
    arm: str
    slots: int
    share: float  # of the slots in this context
    mean_reward: float  # of these slots
    posterior_mean: float | None  # what Thompson sampling believes; None where it has no belief
    posterior_weight: float | None  # answers that the belief rests on, prior included


@dataclass(frozen=True, slots=True)
class Shown:
    """A version as `headrace models show` shows it."""

    version: VersionRow
    feature_version: str
    arrays: tuple[ArrayRow, ...]
    arms: tuple[ArmRow, ...]  # of the contexts with the most slots


@dataclass(frozen=True, slots=True)
class RolledBack:
    """Where the order lies, and the version that servers were given."""

    order: Position
    sequence: int
    restored_from: int


def list_versions(settings: Settings, clock: Clock | None = None) -> list[VersionRow]:
    """All versions that can be gone back to and the one in use, newest first. Raises LogError."""
    return _rows(_stored(settings), (clock or WallClock()).now_ms())


def show_version(settings: Settings, sequence: int, clock: Clock | None = None) -> Shown:
    """A version that is kept or in use. Raises ModelsError and LogError."""
    stored = _stored(settings)
    rows = {row.sequence: row for row in _rows(stored, (clock or WallClock()).now_ms())}
    if sequence not in rows:
        raise ModelsError(_unknown(sequence, rows))
    snapshot = _sound(sequence, stored)
    return Shown(
        rows[sequence],
        snapshot.feature_version,
        tuple(_array_row(name, values) for name, values in sorted(snapshot.arrays.items())),
        tuple(arm_rows(snapshot)),
    )


def roll_back(
    settings: Settings, sequence: int, reason: str, clock: Clock | None = None
) -> RolledBack:
    """Orders learners to go back to a kept version, and gives that version to servers at once.

    Learners meet the order in the log and arrive at the same state. Raises ModelsError where the
    version is not kept, or cannot be used, and LogError.
    """
    now_ms = (clock or WallClock()).now_ms()
    stored = _stored(settings)
    if kept_key(sequence) not in stored:
        kept = {found for key in stored if (found := kept_sequence(key)) is not None}
        raise ModelsError(_unknown(sequence, kept))
    snapshot = _sound(sequence, {kept_key(sequence): stored[kept_key(sequence)]})
    order = _order(settings, Rollback(sequence, reason, now_ms))
    restored = replace(
        snapshot, sequence=order.offset + 1, restored_from=sequence, created_at_ms=now_ms
    )
    writer = LogWriter(settings.kafka.log_config(), **VERSION_OPTIONS)
    topic = settings.kafka.prefix + topics.MODELS
    writer.append(topic, RESTORED.encode(), encode_snapshot(restored))
    writer.flush()
    return RolledBack(order, restored.sequence, sequence)


def _order(settings: Settings, order: Rollback) -> Position:
    """Where the order lies in the log of learning. Raises LogError."""
    found: list[Position] = []

    def delivered(position: Position | None, _reason: str | None) -> None:
        if position is not None:
            found.append(position)

    topic = settings.kafka.prefix + topics.OUTCOMES
    writer = LogWriter(settings.kafka.log_config())
    writer.append(topic, None, encode_rollback(order), partition=0, delivered=delivered)
    writer.flush()
    if not found:
        raise LogError(f"{topic} did not tell where the order lies")
    return found[0]


def _stored(settings: Settings) -> dict[str, StoredVersion]:
    return read_versions(settings.kafka.log_config(), settings.kafka.prefix + topics.MODELS)


def _sound(sequence: int, stored: Mapping[str, StoredVersion]) -> ModelSnapshot:
    """The version of this sequence under whichever key. Raises ModelsError."""
    for key in (kept_key(sequence), *SERVED):
        try:
            snapshot = decode_snapshot(stored[key].value)
            require_finite(snapshot.arrays)
        except KeyError:
            continue
        except SnapshotError as error:
            if key == kept_key(sequence):
                raise ModelsError(f"version {sequence} cannot be used: {error}") from error
            continue
        if snapshot.sequence != sequence:
            continue
        if snapshot.feature_version != feature_version():
            raise ModelsError(
                f"version {sequence} is for feature version {snapshot.feature_version}; "
                f"this software has {feature_version()}"
            )
        return snapshot
    raise ModelsError(f"version {sequence} cannot be read")


def _rows(stored: Mapping[str, StoredVersion], now_ms: int) -> list[VersionRow]:
    rows: dict[int, VersionRow] = {}
    served = 0
    for key, version in stored.items():
        row = _row(key, version, now_ms)
        if key in SERVED:
            served = max(served, 0 if row.problem else row.sequence)
        known = rows.get(row.sequence)
        rows[row.sequence] = row if known is None or row.is_kept else known
    wanted = [row for row in rows.values() if row.is_kept or row.sequence == served]
    marked = [replace(row, in_use=row.sequence == served) for row in wanted]
    return sorted(marked, key=lambda row: row.sequence, reverse=True)


def _row(key: str, stored: StoredVersion, now_ms: int) -> VersionRow:
    size, kept = len(stored.value), kept_sequence(key)
    try:
        found = decode_snapshot(stored.value)
        require_finite(found.arrays)
    except SnapshotError as error:
        return VersionRow(kept or 0, 0.0, 0, size, 0, kept is not None, False, str(error))
    outcomes = int(found.arrays[OUTCOMES]) if OUTCOMES in found.arrays else 0
    age_s = round(max(now_ms - found.created_at_ms, 0) / 1_000, 1)
    return VersionRow(
        found.sequence, age_s, outcomes, size, found.restored_from, kept is not None, False
    )


def _array_row(name: str, values: NDArray[np.generic]) -> ArrayRow:
    numbers = np.asarray(values, np.float64) if values.size else np.zeros(1)
    spread = (float(numbers.min()), float(numbers.mean()), float(numbers.max()))
    return ArrayRow(name, values.shape, str(values.dtype), *spread)


def arm_rows(snapshot: ModelSnapshot) -> list[ArmRow]:
    """Arms of the contexts with the most slots, the largest share first in each."""
    try:
        rates = ArmRates.of(arrays_of(RATES, snapshot.arrays))
    except SnapshotError:
        return []
    shares, means, beliefs = rates.shares(), rates.mean_rewards(), _beliefs(snapshot)
    contexts = [*CONTEXT_NAMES, NO_CONTEXT_NAME]
    arms = [*ARM_NAMES, NO_ARM_NAME]
    busiest = np.argsort(-rates.slots.sum(axis=1), kind="stable")[:N_CONTEXTS_SHOWN]
    return [
        ArmRow(
            contexts[context], arms[arm], int(rates.slots[context, arm]),
            round(float(shares[context, arm]), 4), round(float(means[context, arm]), 4),
            *beliefs(int(context), int(arm)),
        )
        for context in busiest
        for arm in np.argsort(-rates.slots[context], kind="stable")
        if rates.slots[context, arm]
    ]  # fmt: skip


def _beliefs(
    snapshot: ModelSnapshot,
) -> Callable[[int, int], tuple[float | None, float | None]]:
    """Posterior mean and weight of an arm in a context, as Thompson sampling has them."""
    try:
        policy = policy_of("thompson", arrays_of(BANDITS, snapshot.arrays))
    except SnapshotError:
        return lambda _context, _arm: (None, None)

    def belief(context: int, arm: int) -> tuple[float | None, float | None]:
        if arm >= N_ARMS:
            return None, None
        found = policy.belief(context, np.zeros(N_SITUATION))
        return round(float(found.means[arm]), 4), round(float(found.weights[arm]), 1)

    return belief


def _unknown(sequence: int, there: Any) -> str:
    known = ", ".join(map(str, sorted(there))) or "none"
    return f"version {sequence} is not kept; there are: {known}"
