"""Writing to the log from a server: events with an acknowledgement, decisions without one.

    Tracker                an event is answered for once the log has it, and only then
    ImpressionRecorder     a served decision is written after its answer; lost ones are counted

Each has a producer of its own, so that decisions can never stand in the way of events.
"""

import asyncio
import contextlib
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog
from confluent_kafka import KafkaError, KafkaException

from features.clock import Clock
from features.codec import encode_interaction
from features.events import Interaction, problem_with
from features.log import (
    CONTENT_TYPE,
    PROTOBUF_TYPE,
    Delivered,
    Headers,
    LogConfig,
    LogError,
    LogWriter,
)
from features.position import Position
from features.tracing import TRACEPARENT, Span
from features.vocabulary import EventType
from serving import metrics
from serving.slate import Decision

HEADERS = ((CONTENT_TYPE, PROTOBUF_TYPE),)
POLL_S = 0.1
FAILURES_BEFORE_REPLACEMENT = 3  # in a row; a restarted embedded broker may never take a known one
GRACE_S = 0.5  # what the log's own time-out gets before an event counts as not taken

log = structlog.get_logger(__name__)


class BadInteractionError(Exception):
    """An interaction that cannot be used; the message names field, expectation and value."""


class LogUnavailableError(Exception):
    """The log did not acknowledge a record in time: it may or may not be written."""


class TooManyInFlightError(Exception):
    """More events are on their way to the log than the server keeps."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """An acknowledged event."""

    event_id: str
    position: Position


@dataclass(frozen=True, slots=True)
class Underway:
    """An event on its way to the log."""

    event_id: str
    outcome: "asyncio.Future[Position | str]"  # where it lies, or why it does not


def track_writer(config: LogConfig, timeout_ms: int = 2_000) -> "SteadyWriter":
    """A writer for a Tracker: what is not acknowledged within `timeout_ms` is given up."""
    overrides: dict[str, str | int] = {"delivery.timeout.ms": timeout_ms, "log_level": 0}
    return SteadyWriter(lambda: LogWriter(config, **overrides), "track-deliveries")


def impression_writer(config: LogConfig, timeout_ms: int = 10_000) -> "SteadyWriter":
    """A writer for an ImpressionRecorder: nobody waits, so batches of 50 ms, compressed."""
    overrides: dict[str, str | int] = {
        "delivery.timeout.ms": timeout_ms,
        "linger.ms": 50,
        "compression.type": "lz4",
        "log_level": 0,
    }
    return SteadyWriter(lambda: LogWriter(config, **overrides), "impression-deliveries")


class SteadyWriter:
    """A log writer for as long as a server runs: acknowledged on a thread, replaced when broken.

    A producer that cannot say any more which records are written (the broker has forgotten it, a
    sequence does not fit) is broken for good and refuses all records; one that fails three times in
    a row may be. Another one takes its place, while reports of the old one are served until it has
    none left.
    """

    def __init__(self, make: Callable[[], LogWriter], name: str) -> None:
        self._make = make
        self._writer = make()
        self._old: list[LogWriter] = []
        self._is_broken = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._failed_in_a_row = 0
        self.replaced = 0

    def start(self) -> None:
        """Starts the thread that serves acknowledgements; it sleeps until there is one."""
        self._thread.start()

    def append(
        self,
        topic: str,
        key: bytes,
        value: bytes | None,
        delivered: Delivered,
        headers: Headers = HEADERS,
    ) -> None:
        """Queues one record; `delivered` is called from some thread. Raises LogError."""

        def noted(position: Position | None, reason: str | None) -> None:
            self._failed_in_a_row = 0 if position is not None else self._failed_in_a_row + 1
            if self._failed_in_a_row >= FAILURES_BEFORE_REPLACEMENT:
                self._failed_in_a_row = 0
                self._is_broken.set()
            delivered(position, reason)

        try:
            self._writer.append(topic, key, value, headers=headers, delivered=noted)
        except KafkaException:  # the record is queued; a report that was served meanwhile says so
            self._is_broken.set()
        except LogError as error:
            if _is_fatal(error.__cause__):
                self._is_broken.set()
            raise

    async def write(self, topic: str, key: bytes, value: bytes | None, limit_s: float) -> Position:
        """Where a record lies, once the log has it. Raises LogError, also after `limit_s`."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Position] = loop.create_future()

        def settle(position: Position | None, reason: str | None) -> None:
            if outcome.done():
                return
            if position is None:
                outcome.set_exception(LogError(reason or "the record was not taken"))
            else:
                outcome.set_result(position)

        def delivered(position: Position | None, reason: str | None) -> None:
            loop.call_soon_threadsafe(settle, position, reason)

        self.append(topic, key, value, delivered)
        try:
            async with asyncio.timeout(limit_s):
                return await outcome
        except TimeoutError:
            raise LogError("no acknowledgement in time") from None

    def close(self, timeout_s: float) -> None:
        """Waits until all is acknowledged, at most `timeout_s`, and stops. Raises LogError."""
        try:
            self._writer.flush(timeout_s)
        except KafkaException as error:
            raise LogError(f"records were not delivered: {error.args[0].str()}") from error
        finally:
            self._stopping.set()
            if self._thread.ident is not None:
                self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            if self._is_broken.is_set():
                self._replace()
            if not self._poll(self._writer, POLL_S):
                self._is_broken.set()
            for old in self._old:
                self._poll(old, 0.0)
            self._old = [old for old in self._old if old.pending()]

    def _poll(self, writer: LogWriter, timeout_s: float) -> bool:
        """Serves reports; False when one says that the writer is broken for good."""
        try:
            writer.poll(timeout_s)
        except KafkaException as error:
            log.error("producer_broken", reason=error.args[0].str())
            return False
        return True

    def _replace(self) -> None:
        self._old.append(self._writer)
        self._writer = self._make()
        self._is_broken.clear()
        self.replaced += 1
        log.warning("producer_replaced", times=self.replaced)


def _is_fatal(error: BaseException | None) -> bool:
    """Whether a producer that raised this refuses all further records."""
    return isinstance(error, KafkaException) and error.args[0].code() == KafkaError._FATAL


class Tracker:
    """Writes interactions to the log. Its methods belong to one event loop.

    An event is acknowledged when every in-sync replica of the log has it. What the log did not
    acknowledge in time is a failure to the caller although it may still be written: send it again
    with the same event_id, which takes effect once.
    """

    def __init__(
        self,
        writer: SteadyWriter,
        topic: str,
        clock: Clock,
        *,
        max_in_flight: int = 2_000,
        timeout_s: float = 2.0,
        acknowledged: Callable[[tuple[str, str], Position], None] = lambda _viewer, _at: None,
    ) -> None:
        """`acknowledged` is told of each event that the log has: account and profile, and where."""
        self._acknowledged = acknowledged
        self._writer = writer
        self._topic = topic
        self._clock = clock
        self._timeout_s = timeout_s
        self._room = asyncio.Semaphore(max_in_flight)
        self._max_in_flight = max_in_flight
        self._is_away = False

    def start(self) -> None:
        """Begins to serve acknowledgements."""
        self._writer.start()

    async def close(self) -> None:
        """Waits for what is on its way, as long as the log may take, and stops."""
        with contextlib.suppress(LogError):  # whoever waited for the record has been told
            await asyncio.to_thread(self._writer.close, self._timeout_s)

    async def track(
        self, interaction: Interaction, budget_s: float = float("inf"), span: Span | None = None
    ) -> Tracked:
        """Writes one interaction and returns when the log has it. `span`: of whoever asks for it.

        Raises BadInteractionError, TooManyInFlightError at once and LogUnavailableError after
        `budget_s` or the tracker's own time-out.
        """
        interaction = self.completed(interaction)
        if self._room.locked():
            metrics.TRACK_FAILURES.labels("in_flight").inc()
            raise TooManyInFlightError(
                f"at most {self._max_in_flight} events may be on their way to the log; try later"
            )
        underway = await self.begin(interaction, span)
        return await self.settled(underway, budget_s)

    def completed(self, interaction: Interaction) -> Interaction:
        """The interaction with an event_id and a time of its own. Raises BadInteractionError."""
        event_id = interaction.event_id or uuid.uuid4().hex
        occurred_at_ms = interaction.occurred_at_ms or self._clock.now_ms()
        completed = replace(interaction, event_id=event_id, occurred_at_ms=occurred_at_ms)
        if problem := problem_with(completed):
            raise BadInteractionError(problem)
        if completed.type == EventType.ERASE:
            raise BadInteractionError(
                "interaction.type must be something a viewer did; got erase, which is what "
                "AdminService.DeleteUser is for"
            )
        return completed

    async def begin(self, interaction: Interaction, span: Span | None = None) -> Underway:
        """Hands a completed interaction to the log, as soon as there is room for it."""
        await self._room.acquire()
        publish = None if span is None else span.child("interactions publish", "producer")
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[Position | str] = loop.create_future()
        metrics.TRACK_IN_FLIGHT.inc()
        started_s = time.perf_counter()

        def settle(answer: Position | str) -> None:
            self._room.release()
            metrics.TRACK_IN_FLIGHT.dec()
            metrics.TRACK_LATENCY.observe(time.perf_counter() - started_s)
            self._note(answer, interaction.event_id)
            if publish is not None:
                _end(publish, answer)
            if isinstance(answer, Position):
                self._acknowledged((interaction.user_id, interaction.profile_id), answer)
            if not outcome.done():
                outcome.set_result(answer)

        def delivered(position: Position | None, reason: str | None) -> None:
            answer = reason or "no reason given" if position is None else position
            with contextlib.suppress(RuntimeError):  # the loop has ended, and nobody waits
                loop.call_soon_threadsafe(settle, answer)

        try:
            self._writer.append(
                self._topic,
                interaction.user_id.encode(),
                encode_interaction(interaction),
                delivered,
                HEADERS if publish is None else _traced(publish),
            )
        except LogError as error:
            settle(str(error))
        return Underway(interaction.event_id, outcome)

    async def settled(self, underway: Underway, budget_s: float = float("inf")) -> Tracked:
        """Waits for the acknowledgement. Raises LogUnavailableError."""
        limit_s = min(budget_s, self._timeout_s + GRACE_S)
        try:
            async with asyncio.timeout(limit_s):
                answer = await underway.outcome
        except TimeoutError:
            answer = f"no acknowledgement within {limit_s:g} s"
        if isinstance(answer, str):
            metrics.TRACK_FAILURES.labels("log").inc()
            raise LogUnavailableError("the log did not take the event; send it again")
        return Tracked(underway.event_id, answer)

    def _note(self, answer: Position | str, event_id: str) -> None:
        """Logs the beginning and the end of an outage, not each event of it."""
        failed = isinstance(answer, str)
        if failed and not self._is_away:
            log.error("events_refused", reason=answer, event_id=event_id)
        elif self._is_away and not failed:
            log.info("events_taken_again")
        self._is_away = failed


def _traced(span: Span) -> Headers:
    """The headers of an event, with its trace: the flow goes on with it."""
    return (*HEADERS, (TRACEPARENT, span.traceparent.encode()))


def _end(span: Span, answer: Position | str) -> None:
    if isinstance(answer, str):
        span.fail("not acknowledged")
    else:
        span.note(topic=answer.topic, partition=answer.partition, offset=answer.offset)
    span.end()


class ImpressionRecorder:
    """Writes served decisions to the log, after the answer and without delaying the next one.

    `record` is to be called once the answer is on its way. What waits for the log is bounded in
    number and in bytes, below what the producer holds, so that it never blocks; beyond that, and
    where the log refuses, decisions are dropped and counted: learning loses, viewers do not.
    """

    def __init__(
        self,
        writer: SteadyWriter,
        topic: str,
        encode: Callable[[Decision], bytes],
        *,
        max_pending: int = 10_000,
        max_pending_bytes: int = 32 << 20,
    ) -> None:
        self._writer = writer
        self._topic = topic
        self._encode = encode
        self._max_pending = max_pending
        self._max_pending_bytes = max_pending_bytes
        self._lock = threading.Lock()
        self._pending = 0
        self._pending_bytes = 0
        self._dropped_in_a_row = 0
        self.recorded = 0
        self.dropped = 0

    def start(self) -> None:
        """Begins to serve acknowledgements."""
        self._writer.start()

    def close(self, timeout_s: float = 5.0) -> None:
        """Waits for what is pending, at most `timeout_s`; the rest is logged as lost."""
        try:
            self._writer.close(timeout_s)
        except LogError as error:
            log.warning("decisions_lost_at_close", reason=str(error))

    def record(self, decision: Decision) -> None:
        """Encodes a decision and hands it to the log; never raises, never waits."""
        try:
            value = self._encode(decision)
            if not self._admit(len(value)):
                self._drop("queue_full", "more decisions wait for the log than are kept", decision)
                return
            self._append(decision, value)
        except Exception:  # a decision must not cost the answer that it describes
            log.exception("decision_not_recorded", request_id=decision.query.request_id)
            self._drop("error", "a decision could not be encoded", decision)

    def _append(self, decision: Decision, value: bytes) -> None:
        size = len(value)

        def delivered(position: Position | None, reason: str | None) -> None:
            self._settle(size)
            if position is None:
                self._drop("log", reason or "no reason given", decision)
            else:
                self._note_recorded()

        try:
            self._writer.append(self._topic, decision.query.user_id.encode(), value, delivered)
        except LogError as error:
            self._settle(size)
            self._drop("log", str(error), decision)

    def _admit(self, size: int) -> bool:
        with self._lock:
            if (
                self._pending >= self._max_pending
                or self._pending_bytes + size > self._max_pending_bytes
            ):
                return False
            self._pending += 1
            self._pending_bytes += size
            return True

    def _settle(self, size: int) -> None:
        with self._lock:
            self._pending -= 1
            self._pending_bytes -= size

    def _drop(self, cause: str, reason: str, decision: Decision) -> None:
        metrics.IMPRESSIONS_DROPPED.labels(cause).inc()
        with self._lock:
            self.dropped += 1
            self._dropped_in_a_row += 1
            is_first = self._dropped_in_a_row == 1
        if is_first:
            log.warning("decisions_dropped", reason=reason, request_id=decision.query.request_id)

    def _note_recorded(self) -> None:
        metrics.IMPRESSIONS.inc()
        with self._lock:
            self.recorded += 1
            missed, self._dropped_in_a_row = self._dropped_in_a_row, 0
        if missed:
            log.info("decisions_recorded_again", dropped_meanwhile=missed)
