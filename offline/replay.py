"""Sends interactions and titles to the log, at a chosen pace, and accounts for every one of them.

A record counts as delivered when the log has acknowledged it. Whatever it did not take, or did not
acknowledge in time, counts as failed: `sent == delivered + failed`, always.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from features.codec import encode_catalog_item, encode_interaction, encode_interaction_json
from features.events import CatalogItem, Interaction
from features.log import CONTENT_TYPE, JSON_TYPE, PROTOBUF_TYPE, Headers, LogError, LogWriter
from features.position import Position

PROGRESS_EVERY: Final = 1_000  # records
MAX_WAIT_S: Final = 0.1  # the longest time without a look at delivery reports
DRAIN_TIMEOUT_S: Final = 60.0  # twice the time after which the client gives a record up

Progress = Callable[[int], None]  # is told how many records have been sent so far


class Timer(Protocol):
    """Time that passes, and waiting for it."""

    def now_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""

    def wait(self, duration_s: float) -> None:
        """Returns after `duration_s`."""


class WallTimer:
    """The time of this machine."""

    def now_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""
        return time.monotonic()

    def wait(self, duration_s: float) -> None:
        """Sleeps."""
        time.sleep(duration_s)


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What became of the records of a replay."""

    sent: int
    delivered: int
    failed: int
    seconds: float
    first_failure: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the log has every record."""
        return self.failed == 0

    @property
    def events_per_s(self) -> float:
        """Delivered records a second, waits included; 0 where nothing was measured."""
        return self.delivered / self.seconds if self.seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class OutgoingRecord:
    """A record ready for the log; `at_ms` is its event time, for pacing alone."""

    key: bytes
    value: bytes
    at_ms: int = 0


@dataclass(frozen=True, slots=True)
class Pace:
    """When records are due: `rate` records a second, or `speed` times as fast as they happened.

    With neither, at once. A sender that falls behind catches up as fast as it can.
    """

    rate: float | None = None
    speed: float | None = None

    def __post_init__(self) -> None:
        if self.rate is not None and self.speed is not None:
            raise ValueError("a replay takes a rate or a speed; got both")
        for name, value in (("rate", self.rate), ("speed", self.speed)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"replay.{name} must be positive and finite; got {value}")

    @property
    def is_set(self) -> bool:
        """Whether anything is ever waited for."""
        return self.rate is not None or self.speed is not None

    def due_s(self, number: int, elapsed_ms: int) -> float:
        """Seconds after the start at which a record is due.

        `number` counts from 0, `elapsed_ms` is its event time after that of the first record.
        """
        if self.rate is not None:
            return number / self.rate
        return elapsed_ms / 1_000 / self.speed if self.speed is not None else 0.0


FULL_SPEED: Final = Pace()


class _Tally:
    """Counts what was sent and what came back; reports may arrive on any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._closed = False
        self.sent = 0
        self.delivered = 0
        self.failed = 0
        self.first_failure: str | None = None

    def report(self, position: Position | None, reason: str | None) -> None:
        """Takes one delivery report."""
        with self._lock:
            if self._closed:
                return
            if position is not None:
                self.delivered += 1
            else:
                self.failed += 1
                self.first_failure = self.first_failure or reason

    def open(self) -> int:
        """Records of which nothing has been heard."""
        return self.sent - self.delivered - self.failed

    def close(self) -> None:
        """Counts what nothing was heard of as failed; reports that come later change nothing."""
        with self._lock:
            self._closed = True
            missing = self.open()
            if missing:
                self.failed += missing
                reason = f"{missing} records were not acknowledged within {DRAIN_TIMEOUT_S:g} s"
                self.first_failure = self.first_failure or reason


def replay(
    source: Iterable[Interaction],
    writer: LogWriter,
    topic: str,
    *,
    rate: float | None = None,
    speed: float | None = None,
    as_json: bool = False,
    timer: Timer | None = None,
    progress: Progress | None = None,
) -> ReplayResult:
    """Sends interactions in their order, keyed by user; the log sets the records' own timestamps.

    `rate` is in events a second, `speed` in seconds of the data a second; with neither, as fast as
    the log takes them: a full queue waits. Raises ValueError for a pace that is none.
    """
    return send(
        _interaction_records(source, as_json=as_json),
        writer,
        topic,
        pace=Pace(rate, speed),
        content_type=JSON_TYPE if as_json else PROTOBUF_TYPE,
        timer=timer,
        progress=progress,
    )


def publish_catalogue(
    items: Iterable[CatalogItem],
    writer: LogWriter,
    topic: str,
    *,
    progress: Progress | None = None,
) -> ReplayResult:
    """Sends titles, keyed by item, as fast as the log takes them."""
    records = (OutgoingRecord(item.item_id.encode(), encode_catalog_item(item)) for item in items)
    return send(records, writer, topic, progress=progress)


def send(
    records: Iterable[OutgoingRecord],
    writer: LogWriter,
    topic: str,
    *,
    pace: Pace = FULL_SPEED,
    content_type: bytes = PROTOBUF_TYPE,
    timer: Timer | None = None,
    progress: Progress | None = None,
) -> ReplayResult:
    """Sends ready records in their order and waits until the log has answered for each.

    Should the source raise, what it gave until then is still delivered before the error goes on.
    """
    timer = timer or WallTimer()
    tally = _Tally()
    start_s = timer.now_s()
    paced = _paced(records, pace, writer, timer, progress) if pace.is_set else records
    try:
        _append_all(paced, writer, topic, [(CONTENT_TYPE, content_type)], tally, progress)
    finally:
        _drain(writer, tally)
    if progress is not None:
        progress(tally.sent)
    return ReplayResult(
        tally.sent, tally.delivered, tally.failed, timer.now_s() - start_s, tally.first_failure
    )


def _append_all(
    records: Iterable[OutgoingRecord],
    writer: LogWriter,
    topic: str,
    headers: Headers,
    tally: _Tally,
    progress: Progress | None,
) -> None:
    append, report = writer.append, tally.report
    for record in records:
        tally.sent += 1
        try:
            append(topic, record.key, record.value, headers=headers, delivered=report)
        except LogError as error:  # this record can never be taken; the next one may be
            report(None, str(error))
        if progress is not None and tally.sent % PROGRESS_EVERY == 0:
            progress(tally.sent)


def _interaction_records(
    source: Iterable[Interaction], *, as_json: bool
) -> Iterator[OutgoingRecord]:
    encode = encode_interaction_json if as_json else encode_interaction
    for interaction in source:
        yield OutgoingRecord(
            interaction.user_id.encode(), encode(interaction), interaction.occurred_at_ms
        )


def _paced(
    records: Iterable[OutgoingRecord],
    pace: Pace,
    writer: LogWriter,
    timer: Timer,
    progress: Progress | None,
) -> Iterator[OutgoingRecord]:
    """Holds each record back until it is due, serving delivery reports and progress meanwhile."""
    start_s = timer.now_s()
    first_ms: int | None = None
    for number, record in enumerate(records):
        first_ms = record.at_ms if first_ms is None else first_ms
        due_s = start_s + pace.due_s(number, record.at_ms - first_ms)
        while (left_s := due_s - timer.now_s()) > 0:
            timer.wait(min(left_s, MAX_WAIT_S))
            writer.poll()
            if progress is not None:
                progress(number)
        yield record


def _drain(writer: LogWriter, tally: _Tally) -> None:
    """Waits for the answers that are still out, at most DRAIN_TIMEOUT_S."""
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while tally.open() and time.monotonic() < deadline:
        writer.poll(MAX_WAIT_S)
    tally.close()
