"""Lines of log about single records, one a batch: who looks for a record finds where it lies.

The metrics count all of them; a line names the first of its batch. How many lines there can be a
second is bounded where lines are written (`infra.telemetry`).
"""

from collections.abc import Sequence

import numpy as np
import structlog
from numpy.typing import NDArray

from features.codec import WireError, decode_interaction
from features.compiled import Rows
from features.decode import Record
from features.events import BadRecord
from streams.ops_views import kind_of

log = structlog.get_logger(__name__)


def tell_bad(bad: Sequence[BadRecord]) -> None:
    """Names the first dead letter of a batch; what came instead of an event is in the topic."""
    if not bad:
        return
    first = bad[0]
    log.warning(
        "dead_letter", topic=first.topic, partition=first.partition, offset=first.offset,
        expected=kind_of(first.reason), in_batch=len(bad),
    )  # fmt: skip


def tell_flagged(
    records: Sequence[Record], events: Rows, what: str, flagged: NDArray[np.bool_]
) -> None:
    """Names the first flagged event of a batch."""
    if not flagged.any():
        return
    event = events[int(np.argmax(flagged))]
    partition, offset = int(event["partition"]), int(event["offset"])
    record = next(r for r in records if r.offset() == offset and r.partition() == partition)
    log.warning(
        what, topic=record.topic(), partition=partition, offset=offset,
        event_id=_event_id(record), in_batch=int(np.count_nonzero(flagged)),
    )  # fmt: skip


def _event_id(record: Record) -> str:
    """The event's own id; empty where the generated class does not read what the fast scan did."""
    value = record.value() or b""
    try:
        return decode_interaction(value, as_json=value[:1] == b"{").event_id
    except WireError:
        return ""
