"""Spans of the features flow: a batch, each sampled event's way through it, its row's way to Redis.

    features batch       links to the events of sampled traces among its records
    features apply       one for each of them, in the event's own trace: from the batch to its rows
      redis write        until the viewer's row with the event can be read

Only records that carry the context of a sampled trace are looked at twice.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np

from features.compiled import Rows
from features.decode import Decoded, Record
from features.store import USERS, Table
from features.tracing import Span, Tracer, is_sampled, traceparent_in

MAX_A_BATCH: Final = 32  # events of a batch that get spans; the batch says how many there were
MAX_PENDING: Final = 256
PATIENCE_S: Final = 60.0  # an event that changes no row (replayed, moved) ends its span then


class Writes(Protocol):
    """Rows on their way to the store; `streams.features.RowWrites` is one."""

    @property
    def table(self) -> Table: ...  # noqa: D102
    @property
    def rows(self) -> Rows: ...  # noqa: D102


@dataclass(slots=True)
class _Pending:
    """An event whose row is not written yet."""

    user: int
    partition: int
    offset: int
    span: Span
    since_s: float


class FlowTraces:
    """Follows sampled events through the flow of one worker. Its methods belong to one thread."""

    def __init__(self, tracer: Tracer, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._tracer = tracer
        self._monotonic_s = monotonic_s
        self._pending: list[_Pending] = []
        self._writes: list[Span] = []
        self._batches: list[Span] = []

    def read(self, records: Sequence[Record], decoded: Decoded, start_ns: int) -> None:
        """A batch was read at `start_ns`, and decoded; begins the spans of its sampled events."""
        self._give_up()
        contexts = [(traceparent_in(record.headers()), record) for record in records]
        contexts = [found for found in contexts if found[0] and is_sampled(found[0])]
        if not contexts:
            return
        chosen = contexts[:MAX_A_BATCH]
        batch = self._tracer.start(
            "features batch",
            kind="consumer",
            links=[context for context, _ in chosen],
            start_ns=start_ns,
            records=len(records),
            events=len(decoded.events),
            traced=len(contexts),
        )
        for context, record in chosen:
            self._begin(context, record, decoded, batch, start_ns)
        if batch is not None:
            self._batches.append(batch)

    def _begin(
        self, context: str, record: Record, decoded: Decoded, batch: Span | None, start_ns: int
    ) -> None:
        partition, offset = int(record.partition() or 0), int(record.offset() or 0)
        span = self._tracer.start(
            "features apply",
            kind="consumer",
            parent=context,
            links=() if batch is None else (batch.traceparent,),
            start_ns=start_ns,
            topic=record.topic() or "",
            partition=partition,
            offset=offset,
        )
        if span is None:
            return
        events = decoded.events
        found = events[(events["partition"] == partition) & (events["offset"] == offset)]
        if not len(found) or len(self._pending) >= MAX_PENDING:
            span.fail("too many are traced" if len(found) else "dead letter")
            span.end()
            return
        user = int(found["user"][0])
        self._pending.append(_Pending(user, partition, offset, span, self._monotonic_s()))

    def writing(self, writes: Iterable[Writes]) -> None:
        """These rows are sent to Redis now: the events that they include are applied."""
        for write in writes:
            if self._pending and write.table is USERS:
                self._writing(write.rows)

    def _writing(self, rows: Any) -> None:
        left = []
        for event in self._pending:
            of_user = rows[rows["id"] == np.uint64(event.user)]
            if np.any(
                (of_user["partition"] == event.partition) & (of_user["offset"] >= event.offset)
            ):
                event.span.end()
                self._writes.append(event.span.child("redis write", kind="client"))
            else:
                left.append(event)
        self._pending = left

    def written(self) -> None:
        """All rows that were sent can be read."""
        for span in self._writes:
            span.end()
        if self._writes:
            self._end_batches()
        self._writes.clear()

    def _end_batches(self) -> None:
        for batch in self._batches:
            batch.end()
        self._batches.clear()

    def _give_up(self) -> None:
        """Ends the spans of events that have changed no row: replayed ones, and misplaced ones."""
        oldest_s = self._monotonic_s() - PATIENCE_S
        while self._pending and self._pending[0].since_s < oldest_s:
            span = self._pending.pop(0).span
            span.note(changed_no_row=True)
            span.end()
        if not self._pending:
            self._end_batches()
