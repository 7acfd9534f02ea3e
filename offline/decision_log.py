"""The engine's own log as logged feedback: served slots joined with what became of them.

    impressions (request, slot, arm, propensity) + newest outcomes (reward, context) -> rows

Actions are arms: an arm's propensity is the policy's own, told in the log. The outcome of a slot
that holds is the newest revision. Slots that nothing was decided of yet are left out, not taken
for failures: silence within the horizon is an outcome of its own. Nor are slots that a rule pinned:
no policy gave them out, and none could have given them to another arm.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from features import lake
from features.codec import WireError, decode_erasure, decode_impression
from features.compiled import Rows
from features.decision_context import CONTEXT_NAMES
from features.decode import Record
from features.ids import id_hashes
from features.learning_codec import decode_learning_batch
from features.log import LogConfig, read_to_end
from features.outcomes import NO_ROLLBACK
from features.vocabulary import PINNED_NAME
from offline.logged_feedback import LoggedFeedback, OffPolicyError

BATCH: Final = 10_000
SLOT_COLUMNS: Final = ("request_id", "slot", "arm", "propensity", "served_at_ms")
OUTCOME_COLUMNS: Final = ("request", "slot", "revision", "offset", "user", "context", "reward")
UNKNOWN_CONTEXT: Final = "unknown"

UNDECIDED: Final = "slots without an outcome yet"
NO_PROPENSITY: Final = "slots without an arm or a propensity"
PINNED: Final = "slots pinned by a rule"
OF_ERASED: Final = "slots of viewers who were erased"


@dataclass(frozen=True, slots=True)
class DecisionLog:
    """The rows that an estimate can stand on, and how many could not be used, by reason."""

    logged: LoggedFeedback
    left_out: dict[str, int]


def from_lake(folder: Path) -> DecisionLog:
    """From what `headrace stream archive` wrote. Raises LakeError, OffPolicyError.

    O(slots) memory; about 0.1 ms a slot, most of which is the decoding of outcomes.
    """
    slots = lake.table_of(folder, lake.IMPRESSIONS, list(SLOT_COLUMNS)).to_pandas()

    def records(table: str) -> Iterator[Record]:
        for partition in range(lake.identity_of(folder).partitions.get(table, 0)):
            for batch in lake.read_records(folder, table, partition):
                yield from batch

    return _join(slots.dropna(subset=["slot"]), records(lake.OUTCOMES), records(lake.ERASURES))


def from_log(config: LogConfig, topic_of: Callable[[str], str]) -> DecisionLog:
    """From the topics themselves, as far as they reach back. Raises LogError, OffPolicyError.

    `topic_of` tells the topic of a table of the lake. O(slots) memory, 0.1 ms a slot, as a lake.
    """
    slots = pd.DataFrame(
        _slots_of(read_to_end(config, topic_of(lake.IMPRESSIONS))), columns=list(SLOT_COLUMNS)
    )
    outcomes, erasures = (
        read_to_end(config, topic_of(table)) for table in (lake.OUTCOMES, lake.ERASURES)
    )
    return _join(slots, outcomes, erasures)


def _slots_of(records: Iterable[Record]) -> Iterator[tuple[str, int, str, float, int]]:
    for record in records:
        try:
            impression = decode_impression(record.value() or b"")
        except WireError:  # what is no impression was no decision
            continue
        for number, slot in enumerate(impression.slots):
            request, at_ms = impression.request_id, impression.served_at_ms
            yield request, number, slot.arm, slot.propensity, at_ms


def _join(
    slots: pd.DataFrame, outcomes: Iterable[Record], erasures: Iterable[Record]
) -> DecisionLog:
    slots = slots.assign(request=id_hashes(slots["request_id"]), slot=slots["slot"].astype("int64"))
    slots = slots.drop_duplicates(["request", "slot"])
    found = newest_outcomes(outcomes).drop(columns=["revision", "offset"])
    rows = slots.merge(found, on=["request", "slot"], how="inner", validate="one_to_one")
    left_out = {UNDECIDED: len(slots) - len(rows)}
    erased_ms = rows["user"].map(_erased_at(erasures))
    for reason, is_useless in (
        (OF_ERASED, erased_ms.ge(rows["served_at_ms"])),
        (PINNED, rows["arm"] == PINNED_NAME),
        (NO_PROPENSITY, ~(rows["propensity"] > 0) | (rows["arm"] == "")),
    ):
        useless = is_useless.loc[rows.index]
        left_out[reason] = int(useless.sum())
        rows = rows[~useless]
    left_out = {reason: n for reason, n in left_out.items() if n}
    if rows.empty:
        told = ", ".join(f"{n:,} {reason}" for reason, n in left_out.items()) or "no slots at all"
        raise OffPolicyError(f"the log must hold served slots with outcomes; it holds {told}")
    return DecisionLog(_feedback_of(rows), left_out)


def newest_outcomes(records: Iterable[Record]) -> pd.DataFrame:
    """One row for each slot that has an outcome: its newest revision, the last of equal ones."""
    found = pd.DataFrame(
        {name: np.concatenate(parts) for name, parts in _outcome_columns(records).items()}
    )
    ordered = found.sort_values(["revision", "offset"], kind="stable")
    return ordered.drop_duplicates(["request", "slot"], keep="last")


def _outcome_columns(records: Iterable[Record]) -> dict[str, list[Any]]:
    """Parts of the columns of all outcomes; records that are none are left out."""
    parts: dict[str, list[Any]] = {name: [] for name in OUTCOME_COLUMNS}
    source = iter(records)
    while True:
        batch = list(islice(source, BATCH))
        values = [record.value() or b"" for record in batch]
        offsets = [record.offset() or 0 for record in batch]
        taken: Rows = decode_learning_batch(values, offsets).records
        taken = taken[taken["rollback_to"] == NO_ROLLBACK]
        for name, columns in parts.items():
            wide = np.int64 if name in ("slot", "context") else taken[name].dtype
            columns.append(taken[name].astype(wide))
        if len(batch) < BATCH:
            return parts


def _erased_at(records: Iterable[Record]) -> dict[int, int]:
    """When each viewer who ever was erased was so last, by 64-bit id."""
    erased: dict[int, int] = {}
    for record in records:
        key, value = record.key(), record.value()
        try:
            if key and value:
                entry = decode_erasure(key, value)
                erased[entry.viewer] = max(entry.erased_at_ms, erased.get(entry.viewer, 0))
        except WireError:  # the flow leaves it out, too
            continue
    return erased


def _feedback_of(rows: pd.DataFrame) -> LoggedFeedback:
    """Rows by time; codes of those arms and contexts that occur."""
    rows = rows.sort_values(["served_at_ms", "request", "slot"], kind="stable")
    arms, actions = np.unique(rows["arm"].to_numpy(str), return_inverse=True)
    known, contexts = np.unique(rows["context"].to_numpy(np.int64), return_inverse=True)
    slates = np.unique(rows["request"].to_numpy(np.uint64), return_inverse=True)[1]
    return LoggedFeedback(
        rewards=rows["reward"].to_numpy(np.float64),
        actions=actions.astype(np.int64),
        positions=rows["slot"].to_numpy(np.int64),
        propensities=rows["propensity"].to_numpy(np.float64),
        contexts=contexts.astype(np.int64),
        slates=slates.astype(np.int64),
        action_names=tuple(arms.tolist()),
        context_names=tuple(map(_context_name, known.tolist())),
    )


def _context_name(code: int) -> str:
    return CONTEXT_NAMES[code] if code < len(CONTEXT_NAMES) else UNKNOWN_CONTEXT
