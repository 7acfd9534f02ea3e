"""The services: each call is translated, handed to what does the work, and translated back."""

import asyncio
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final

import structlog
from headrace.v1 import ingest_pb2, recommender_pb2
from headrace.v1.ingest_pb2_grpc import IngestServiceServicer
from headrace.v1.recommender_pb2_grpc import RecommendationServiceServicer

from features.clock import Clock
from features.position import Position
from features.tracing import Span
from serving import metrics, wire
from serving.answers import Answers, Asked
from serving.errors import DeadlineSpentError, SilentStreamError, names_of, status_of
from serving.pages import FIRST, Page, PageTokens, content_digest, shown_of, whole_digest
from serving.repeats import Again, Repeats
from serving.slate import Decision, Query, Recommends, Viewer
from serving.slate_cache import Ids, Key
from serving.tracing import CallTraces
from serving.track import BadInteractionError, Tracked, Tracker, Underway
from serving.viewers import ViewerReader

MAX_REFUSALS: Final = 100  # listed; all are counted
TRACED: Final = 32  # events of one sampled stream that get a span each
WINDOW: Final = 256  # events of one stream on their way to the log
RESERVE_S: Final = 0.01  # of a call's time, kept for the answer itself

Context = Any  # grpc.aio.ServicerContext[...]

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Tally:
    """What became of the events of a stream."""

    accepted: int = 0
    refused: int = 0
    refusals: list[tuple[int, str]] = field(default_factory=list)
    positions: dict[int, Position] = field(default_factory=dict)

    def accept(self, tracked: Tracked) -> None:
        self.accepted += 1
        position = tracked.position
        highest = self.positions.get(position.partition)
        if not position.is_included_in(highest):
            self.positions[position.partition] = position

    def refuse(self, index: int, reason: str) -> None:
        self.refused += 1
        if len(self.refusals) < MAX_REFUSALS:
            self.refusals.append((index, reason))

    def response(self) -> ingest_pb2.TrackManyResponse:
        positions = [self.positions[partition] for partition in sorted(self.positions)]
        return wire.track_many_response(self.accepted, self.refused, self.refusals, positions)


class IngestServicer(IngestServiceServicer):
    """Writes what producers send. A stream may pause for `stream_idle_s`, not for longer."""

    def __init__(
        self, tracker: Tracker, *, stream_idle_s: float = 30.0, traces: CallTraces | None = None
    ) -> None:
        self._tracker = tracker
        self._stream_idle_s = stream_idle_s
        self._traces = traces

    async def Track(  # noqa: N802
        self, request: ingest_pb2.TrackRequest, context: Context
    ) -> ingest_pb2.TrackResponse:
        """One event, answered for when the log has it."""
        if self._traces is None:
            tracked = await self._track(request, context)
        else:
            with self._traces.call("Track", context) as span:
                tracked = await self._track(request, context, span)
                if span is not None:
                    span.note(event_id=tracked.event_id)
                    self._traces.remember(tracked.position, span)
        return wire.track_response(tracked.event_id, tracked.position)

    async def _track(
        self, request: ingest_pb2.TrackRequest, context: Context, span: Span | None = None
    ) -> Tracked:
        interaction = wire.interaction_of(request)
        return await self._tracker.track(interaction, _remaining_s(context) - RESERVE_S, span)

    async def TrackMany(  # noqa: N802
        self,
        request_iterator: AsyncIterator[ingest_pb2.TrackRequest],
        context: Context,
    ) -> ingest_pb2.TrackManyResponse:
        """Many events; a bad one is refused, a log that is away ends the stream.

        After UNAVAILABLE the producer sends all of them again: those that were written already
        take effect once, by their event_id.
        """
        if self._traces is None:
            return await self._track_many(request_iterator)
        with self._traces.call("TrackMany", context) as span:
            return await self._track_many(request_iterator, span)

    async def _track_many(
        self, request_iterator: AsyncIterator[ingest_pb2.TrackRequest], span: Span | None = None
    ) -> ingest_pb2.TrackManyResponse:
        tally, underway = _Tally(), deque[Underway]()
        async for index, request in _numbered(request_iterator, self._stream_idle_s):
            try:
                interaction = self._tracker.completed(wire.interaction_of(request))
            except BadInteractionError as error:
                tally.refuse(index, str(error))
                continue
            traced = span if index < TRACED else None
            underway.append(await self._tracker.begin(interaction, traced))
            if len(underway) >= WINDOW:
                tally.accept(await self._tracker.settled(underway.popleft()))
        for event in underway:
            tally.accept(await self._tracker.settled(event))
        return tally.response()


class RecommendationServicer(RecommendationServiceServicer):
    """Answers client backends.

    `clock` is the time that features are computed for; `wall` tells ages, which are differences to
    times of the log. `items_age_ms` is the mirror's; `record` takes each decision once its answer
    is on its way.
    """

    # The recommender runs in the loop itself. Measured on two shared cores with one that takes 2 ms
    # (p50 / p95 / p99 ms, and server CPU a call): in the loop 4.4 / 9.4 / 11.9 at 150 calls/s and
    # 4.9 / 11.4 / 15.5 at 250/s, 2.65 ms; in an executor of one thread 4.7 / 10.1 / 14.6 and
    # 6.5 / 19.0 / 26.0, 2.9 ms: the two threads take the interpreter's lock from each other.

    def __init__(
        self,
        recommender: Recommends,
        viewers: ViewerReader,
        record: Callable[[Decision], None],
        items_age_ms: Callable[[], int],
        clock: Clock,
        wall: Clock,
        *,
        topic: str,
        default_wait_ms: int = 100,
        pages: PageTokens | None = None,
        answers: Answers | None = None,
        repeats: Repeats | None = None,
        traces: CallTraces | None = None,
    ) -> None:
        self._traces = traces
        self._repeats = repeats
        self._recommender = recommender
        self._viewers = viewers
        self._record = record
        self._items_age_ms = items_age_ms
        self._clock = clock
        self._wall = wall
        self._topic = topic
        self._default_wait_ms = default_wait_ms
        self._pages = pages or PageTokens(wall)
        self._answers = answers or Answers()

    async def Recommend(  # noqa: N802
        self, request: recommender_pb2.RecommendRequest, context: Context
    ) -> bytes:
        """A RecommendResponse: a slate, from state that is as fresh as the answer says."""
        if self._traces is None:
            return await self._answer(request, context)
        after = request.after if request.HasField("after") else None
        with self._traces.call("Recommend", context, after) as span:
            return await self._answer(request, context, span=span)

    async def RecommendBatch(  # noqa: N802
        self, request: recommender_pb2.RecommendBatchRequest, context: Context
    ) -> bytes:
        """A RecommendBatchResponse: viewers are read at the same time, slates made in turn."""
        turn = asyncio.Lock()

        async def answered(each: recommender_pb2.RecommendRequest) -> bytes | tuple[str, str]:
            try:
                return await self._answer(each, context, turn)
            except Exception as error:
                code, message = status_of(error, "RecommendBatch", names_of(each))
                return code.name, message

        requests = wire.batch_of(request)
        return wire.batch_answer(await asyncio.gather(*map(answered, requests)))

    async def SimilarItems(  # noqa: N802
        self, request: recommender_pb2.SimilarItemsRequest, context: Context
    ) -> recommender_pb2.SimilarItemsResponse:
        """Titles that go with a title."""
        item_id, count = wire.item_id_of(request.item_id), wire.count_of(request.count)
        _shed_if_late(context)
        return wire.similar_response(self._recommender.similar_items(item_id, count))

    async def Trending(  # noqa: N802
        self, request: recommender_pb2.TrendingRequest, context: Context
    ) -> recommender_pb2.TrendingResponse:
        """What is being watched now."""
        query = wire.trending_query_of(request)
        _shed_if_late(context)
        items = self._recommender.trending(query, self._clock.now_ms())
        return wire.trending_response(items, self._items_age_ms())

    async def ContinueWatching(  # noqa: N802
        self, request: recommender_pb2.ContinueWatchingRequest, context: Context
    ) -> recommender_pb2.ContinueWatchingResponse:
        """What the viewer has begun, and next episodes."""
        query = wire.continue_query_of(request, self._topic, self._default_wait_ms)
        viewer = await self._read(query, context)
        items = self._recommender.continue_watching(
            viewer, query.count, self._clock.now_ms(), query
        )
        freshness = wire.freshness_of(
            viewer,
            self._viewers.included(viewer),
            self._state_age_ms(viewer),
            self._items_age_ms(),
        )
        return wire.continue_response(items, freshness, viewer.degraded)

    async def Explain(  # noqa: N802
        self, request: recommender_pb2.ExplainRequest, context: Context
    ) -> recommender_pb2.ExplainResponse:
        """Why a title is, or is not, on the slate that a request would get now."""
        query, _ = self._query_of(request.request)
        item_id = wire.item_id_of(request.item_id)
        viewer = await self._read(query, context)
        now_ms = self._clock.now_ms()
        return wire.explain_response(self._recommender.explain(query, viewer, item_id, now_ms))

    async def _answer(
        self,
        request: recommender_pb2.RecommendRequest,
        context: Context,
        turn: asyncio.Lock | None = None,
        span: Span | None = None,
    ) -> bytes:
        """The RecommendResponse to a request; one with an id is answered once.

        With a `turn`, answers of a batch are made one by one, and other calls between them.
        """
        query, digest = self._query_of(request)
        if span is not None:
            span.note(request_id=query.request_id)

        async def prepare() -> Callable[[], bytes]:
            make = await self._looked_up(query, digest, context, span)
            if turn is not None:
                async with turn:
                    await asyncio.sleep(0)
            _shed_if_late(context)
            return make

        if not request.request_id:
            return (await prepare())()
        viewer = query.user_id, query.profile_id
        asked = Asked(viewer, query.request_id, whole_digest(request))
        return await self._answers.once(asked, prepare, _call)

    def _query_of(self, request: recommender_pb2.RecommendRequest) -> tuple[Query, bytes]:
        """What is asked, from which page on, and the digest that its page tokens carry."""
        query = wire.query_of(request, self._topic, self._default_wait_ms)
        digest = content_digest(request)
        if request.page_token:
            page = self._pages.read(request.page_token, digest)
            query = replace(query, shown=page.shown, page_number=page.number)
        return query, digest

    async def _looked_up(
        self, query: Query, digest: bytes, context: Context, span: Span | None
    ) -> Callable[[], bytes]:
        if span is None:
            return await self._prepared(query, digest, context)
        reading = span.child("redis read", "client")
        try:
            return await self._prepared(query, digest, context)
        finally:
            reading.end()

    async def _prepared(self, query: Query, digest: bytes, context: Context) -> Callable[[], bytes]:
        """Looks for what an answer needs; what is returned makes it, and has it recorded."""
        started_s, again = time.perf_counter(), None
        if self._repeats is not None:
            again = await self._repeats.of_viewer(query)
        if again is None:
            viewer = await self._viewers.read(query, _remaining_s(context) - RESERVE_S)
            metrics.STAGES["read"].observe(time.perf_counter() - started_s)
            if self._repeats is not None and viewer.row is None:
                again = self._repeats.of_nobody(query, viewer)
        if again is None:
            return partial(self._serve, query, viewer, digest)
        return partial(self._give_again, again, digest)

    def _give_again(self, again: Again, digest: bytes) -> bytes:
        token = self._pages.next(digest, FIRST, again.shown)
        return again.given() + wire.page_token_field(token)

    def _serve(self, query: Query, viewer: Viewer, digest: bytes) -> bytes:
        """The answer to a query, made now; its record is on its way."""
        key = None if self._repeats is None else self._repeats.key_of(query, viewer)
        decision = self._decide(query, viewer)
        started_s = time.perf_counter()
        state_age_ms = self._state_age_ms(viewer)
        _count(decision, state_age_ms)
        body = wire.answer_body(decision.slate, debug=query.debug)
        answer = wire.recommend_answer(decision, viewer, state_age_ms, self._items_age_ms(), body)
        shown = decision.shown = shown_of(decision.slate)
        token = self._pages.next(digest, Page(query.page_number, query.shown), shown)
        metrics.STAGES["build"].observe(time.perf_counter() - started_s)
        finish = partial(self._finish, decision, viewer, key, body, shown)
        asyncio.get_running_loop().call_soon(finish)
        return answer + wire.page_token_field(token)

    def _finish(
        self, decision: Decision, viewer: Viewer, key: Key | None, body: bytes, shown: Ids
    ) -> None:
        """What is left to do once the answer is on its way: the record, and the cache."""
        started_s = time.perf_counter()
        if self._repeats is not None and key is not None:
            decision = self._repeats.keep(key, decision, viewer, body, shown)
        self._record(decision)
        metrics.STAGES["record"].observe(time.perf_counter() - started_s)

    async def _read(self, query: Query, context: Context) -> Viewer:
        viewer = await self._viewers.read(query, _remaining_s(context) - RESERVE_S)
        _shed_if_late(context)
        return viewer

    def _decide(self, query: Query, viewer: Viewer) -> Decision:
        now_ms = self._clock.now_ms()
        slate = self._recommender.recommend(query, viewer, now_ms)
        if viewer.degraded:
            slate = replace(slate, degraded=wire.all_missing(viewer.degraded, slate.degraded))
        return Decision(query, slate, now_ms, self._viewers.included(viewer))

    def _state_age_ms(self, viewer: Viewer) -> int:
        """Since the log received the viewer's last included event; -1 for an unknown viewer."""
        if viewer.row is None or viewer.row["partition"][0] < 0:
            return wire.UNKNOWN_VIEWER_MS
        return max(self._wall.now_ms() - int(viewer.row["logged_at_ms"][0]), 0)


def _call(make: Callable[[], bytes]) -> bytes:
    return make()


def _count(decision: Decision, state_age_ms: int) -> None:
    if missing := decision.slate.degraded:
        for reason in missing:
            metrics.DEGRADED.labels(reason).inc()
        log.info("answer_degraded", request_id=decision.query.request_id, missing=missing)
    if state_age_ms != wire.UNKNOWN_VIEWER_MS:
        metrics.STATE_AGE.observe(state_age_ms / 1_000)


def _remaining_s(context: Context) -> float:
    """Seconds until the client gives up; infinite where it set no deadline."""
    remaining_s: float | None = context.time_remaining()
    return math.inf if remaining_s is None else remaining_s


def _shed_if_late(context: Context) -> None:
    """Leaves work undone that nobody waits for any more."""
    if _remaining_s(context) <= 0:
        raise DeadlineSpentError("the deadline of the call has passed")


async def _numbered(
    requests: AsyncIterator[ingest_pb2.TrackRequest], idle_s: float
) -> AsyncIterator[tuple[int, ingest_pb2.TrackRequest]]:
    """The messages of a stream with their numbers. Raises SilentStreamError."""
    iterator, index = aiter(requests), 0
    while True:
        try:
            async with asyncio.timeout(idle_s):
                request = await anext(iterator)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise SilentStreamError(f"a stream must send within {idle_s:g} s; it did not") from None
        yield index, request
        index += 1
