"""A small client for backends written in Python.

with Client("127.0.0.1:50051") as headrace:
    position = headrace.track(Interaction("", "ann", "tt0133093", EventType.CLICK))
    slate = headrace.recommend("ann", after=position)
    print([item.title for item in slate.items], slate.freshness.state_age_ms)
"""

import json
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import count as count_from
from types import TracebackType
from typing import Any, Final, Self

import grpc
from headrace.v1 import admin_pb2, events_pb2, ingest_pb2, recommender_pb2
from headrace.v1.admin_pb2_grpc import AdminServiceStub
from headrace.v1.ingest_pb2_grpc import IngestServiceStub
from headrace.v1.recommender_pb2_grpc import RecommendationServiceStub

from features.codec import interaction_message, rule_message, rule_of
from features.events import Interaction
from features.position import Position
from features.rules import Rule
from features.vocabulary import Device, Page
from serving.slate import Filters

# Every call may be repeated: reading changes nothing, and an event takes effect once by its id.
# Calls go to the addresses of a target in turn, past those that hang up.
RETRIES: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [
                    {"service": "headrace.v1.RecommendationService"},
                    {"service": "headrace.v1.AdminService"},
                    {"service": "headrace.v1.IngestService", "method": "Track"},
                ],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.02s",
                    "maxBackoff": "0.2s",
                    "backoffMultiplier": 2,
                    # A server on its way out cancels what arrives in its last moment.
                    "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
                },
            }
        ],
    }
)


class RequestError(Exception):
    """A call that failed: `code` is the name of a gRPC status, `INVALID_ARGUMENT` for example."""

    def __init__(self, code: str, message: str, retry_after_ms: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.retry_after_ms = retry_after_ms


@dataclass(frozen=True, slots=True)
class Recommended:
    """One title of an answer."""

    item_id: str
    title: str
    score: float
    source: str
    cause_item_id: str = ""
    cause_title: str = ""
    reason: str = ""
    features: Mapping[str, float] = field(default_factory=dict)
    arm: str = ""  # the strategy that the slot was given to
    propensity: float = 0.0  # with which it went there
    item_propensity: float = 0.0  # of this title, given the arm
    posterior_mean: float = 0.0  # of the arm's reward in this context
    posterior_weight: float = 0.0  # answers that this rests on, prior included
    click_probability: float = 0.0  # as learnt from outcomes; 0: nothing learnt yet
    reason_kind: str = ""  # of `reason`, for texts of your own
    contributions: Mapping[str, float] = field(default_factory=dict)  # with debug
    progress: float = 0.0  # 0..1, watched share
    rule_id: str = ""  # the pin or boost that moved it


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of `recommend`; zeros and empty fields stand for the server's defaults."""

    user_id: str
    count: int = 0
    after: Position | None = None
    wait_ms: int = 0
    profile_id: str = ""
    session_id: str = ""
    request_id: str = ""  # the same request with the same id gets the same answer
    device: Device = Device.UNSPECIFIED
    page: Page = Page.UNSPECIFIED
    region: str = ""
    exclude_item_ids: Iterable[str] = ()
    genres: Iterable[str] = ()
    filters: Filters | None = None
    item_id: str = ""  # page ITEM: the title that is looked at
    candidate_item_ids: Iterable[str] = ()  # page SEARCH: order these, nothing else
    serendipity: float | None = None  # 0..1: at least this share far from the viewer's taste
    page_token: str = ""
    debug: bool = False

    def message(self) -> recommender_pb2.RecommendRequest:
        """As it goes over the wire."""
        request = recommender_pb2.RecommendRequest(
            user_id=self.user_id,
            profile_id=self.profile_id,
            session_id=self.session_id,
            request_id=self.request_id,
            count=self.count,
            context=events_pb2.Context(
                device=int(self.device),  # type: ignore[arg-type]
                page=int(self.page),  # type: ignore[arg-type]
                region=self.region,
            ),
            exclude_item_ids=self.exclude_item_ids,
            genres=self.genres,
            wait_ms=self.wait_ms,
            debug=self.debug,
            page_token=self.page_token,
            item_id=self.item_id,
            candidate_item_ids=self.candidate_item_ids,
            serendipity=self.serendipity,
        )
        if self.filters is not None:
            request.filters.CopyFrom(recommender_pb2.Filters(**asdict(self.filters)))
        if self.after is not None:
            request.after.CopyFrom(_position_message(self.after))
        return request


@dataclass(frozen=True, slots=True)
class Freshness:
    """Up to where, and up to when, the viewer's state was true; ages of -1 mean never."""

    after_included: bool
    included: tuple[Position, ...]
    state_age_ms: int
    items_age_ms: int
    waited_ms: int


@dataclass(frozen=True, slots=True)
class Recommendations:
    """A slate."""

    request_id: str
    items: tuple[Recommended, ...]
    freshness: Freshness
    degraded: tuple[str, ...]
    bundle_version: str
    n_candidates: int
    decision_context: str = ""
    policy: str = ""
    model_sequence: int = 0  # of the learned state in force; 0: none yet
    next_page_token: str = ""  # empty: there is no more
    cached: bool = False  # made earlier; the viewer has done nothing since
    cached_age_ms: int = 0
    removed: Mapping[str, int] = field(default_factory=dict)  # with debug: by filter
    stage_ms: Mapping[str, float] = field(default_factory=dict)  # with debug
    rules: tuple[str, ...] = ()  # that took effect


@dataclass(frozen=True, slots=True)
class Begun:
    """What a viewer has begun, the newest first; a progress of 0 is the next episode."""

    items: tuple[Recommended, ...]
    freshness: Freshness
    degraded: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a title is, or is not, on a slate."""

    item: Recommended
    shown: bool
    slot: int
    removed_by: tuple[str, ...]
    sources: tuple[str, ...]
    cheap_rank: int  # place after the first stage, from 1; 0: not a candidate
    rank: int  # place by score, from 1; 0: not ranked
    summary: str


@dataclass(frozen=True, slots=True)
class TrackedMany:
    """What became of many events: `refusals` has the first 100, by place in the stream."""

    accepted: int
    refused: int
    refusals: Mapping[int, str]
    positions: tuple[Position, ...]  # the highest of each partition


class Client:
    """Calls a Headrace server; thread-safe; one per process is enough.

    `credentials` are for TLS, `api_key` is for servers that ask for one. A key without TLS can be
    read on the way. RequestError has `retry_after_ms` where the server was too busy.

    Every call raises RequestError. One that takes longer than `timeout_s` fails with
    DEADLINE_EXCEEDED; one that meets a server on its way out is repeated at most twice.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = 1.0,
        credentials: grpc.ChannelCredentials | None = None,
        api_key: str | None = None,
    ) -> None:
        options = [("grpc.service_config", RETRIES), ("grpc.enable_retries", 1)]
        self._channel = (
            grpc.insecure_channel(target, options)
            if credentials is None
            else grpc.secure_channel(target, credentials, options)
        )
        self._timeout_s = timeout_s
        self._metadata = () if api_key is None else (("authorization", f"Bearer {api_key}"),)
        self._ingest: Any = IngestServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._admin: Any = AdminServiceStub(self._channel)  # type: ignore[no-untyped-call]
        self._recommendations: Any = RecommendationServiceStub(  # type: ignore[no-untyped-call]
            self._channel
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def wait_until_connected(self, timeout_s: float = 10.0) -> None:
        """Returns when the server accepts the connection. Raises RequestError."""
        try:
            grpc.channel_ready_future(self._channel).result(timeout_s)
        except grpc.FutureTimeoutError:
            raise RequestError("UNAVAILABLE", f"no connection within {timeout_s:g} s") from None

    def track(self, interaction: Interaction, *, timeout_s: float | None = None) -> Position:
        """Writes one event and returns its place in the log, for `recommend(after=...)`.

        An event without an id gets one here, so that a repeated call takes effect once.
        """
        request = _track_request(interaction)
        response = self._call(self._ingest.Track, request, timeout_s)
        return _position(response.position)

    def track_many(
        self, interactions: Iterable[Interaction], *, timeout_s: float = 60.0
    ) -> TrackedMany:
        """Writes many events over one stream; bad ones are refused, the others written."""
        requests: Iterator[ingest_pb2.TrackRequest] = map(_track_request, interactions)
        response = self._call(self._ingest.TrackMany, requests, timeout_s)
        return TrackedMany(
            accepted=response.accepted,
            refused=response.refused,
            refusals={refusal.index: refusal.reason for refusal in response.refusals},
            positions=tuple(map(_position, response.positions)),
        )

    def delete_user(
        self, user_id: str, profile_id: str = "", *, timeout_s: float | None = None
    ) -> Position:
        """Has a viewer forgotten; the place in the log from which on the past is gone."""
        request = admin_pb2.DeleteUserRequest(user_id=user_id, profile_id=profile_id)
        response = self._call(self._admin.DeleteUser, request, timeout_s)
        return _position(response.position)

    def put_rule(self, rule: Rule, *, timeout_s: float | None = None) -> tuple[Rule, Position]:
        """Sets or changes a rule; as it is now, and where in the log.

        One without an id gets it here, so that a repeated call sets one rule.
        """
        rule = rule if rule.rule_id else replace(rule, rule_id=uuid.uuid4().hex)
        request = admin_pb2.PutRuleRequest(rule=rule_message(rule))
        response = self._call(self._admin.PutRule, request, timeout_s)
        return rule_of(response.rule), _position(response.position)

    def delete_rule(
        self, rule_id: str, reason: str = "", *, timeout_s: float | None = None
    ) -> Position:
        """Takes a rule away; where in the log."""
        request = admin_pb2.DeleteRuleRequest(rule_id=rule_id, reason=reason)
        return _position(self._call(self._admin.DeleteRule, request, timeout_s).position)

    def list_rules(self, *, timeout_s: float | None = None) -> tuple[Rule, ...]:
        """The rules that the server knows, in the order of their ids."""
        response = self._call(self._admin.ListRules, admin_pb2.ListRulesRequest(), timeout_s)
        return tuple(map(rule_of, response.rules))

    def recommend(
        self,
        user_id: str,
        *,
        count: int = 0,
        after: Position | None = None,
        wait_ms: int = 0,
        profile_id: str = "",
        session_id: str = "",
        request_id: str = "",
        device: Device = Device.UNSPECIFIED,
        page: Page = Page.UNSPECIFIED,
        region: str = "",
        exclude_item_ids: Iterable[str] = (),
        genres: Iterable[str] = (),
        filters: Filters | None = None,
        item_id: str = "",
        candidate_item_ids: Iterable[str] = (),
        serendipity: float | None = None,
        page_token: str = "",
        debug: bool = False,
        timeout_s: float | None = None,
    ) -> Recommendations:
        """A slate for a viewer; 0 stands for the server's defaults: 20 titles, 100 ms of waiting.

        With `after` the server waits until the viewer's state includes that event, and
        `freshness.after_included` says whether it does.
        """
        request = Request(
            user_id, count, after, wait_ms, profile_id, session_id, request_id, device, page,
            region, exclude_item_ids, genres, filters, item_id, candidate_item_ids, serendipity,
            page_token, debug,
        )  # fmt: skip
        return self.ask(request, timeout_s=timeout_s)

    def ask(self, request: Request, *, timeout_s: float | None = None) -> Recommendations:
        """The slate of a request that is kept as a value."""
        method = self._recommendations.Recommend
        return _recommendations(self._call(method, request.message(), timeout_s))

    def pages(
        self, request: Request, *, timeout_s: float | None = None
    ) -> Iterator[Recommendations]:
        """Slate after slate without repeats, until there is no more; asked for one by one.

        A `request_id` gets the number of the page behind it, since each page is another request.
        """
        for number in count_from(0):
            name = request.request_id and f"{request.request_id}-{number}"
            slate = self.ask(replace(request, request_id=name), timeout_s=timeout_s)
            yield slate
            if not slate.next_page_token:
                return
            request = replace(request, page_token=slate.next_page_token)

    def recommend_batch(
        self, requests: Iterable[Request], *, timeout_s: float | None = None
    ) -> tuple[Recommendations | RequestError, ...]:
        """Up to 64 slates in one call; each is answered or refused on its own, in their order."""
        batch = recommender_pb2.RecommendBatchRequest(requests=[r.message() for r in requests])
        response = self._call(self._recommendations.RecommendBatch, batch, timeout_s)
        return tuple(
            _recommendations(result.response)
            if result.HasField("response")
            else RequestError(result.error.status, result.error.message)
            for result in response.results
        )

    def continue_watching(
        self,
        user_id: str,
        *,
        profile_id: str = "",
        count: int = 0,
        after: Position | None = None,
        wait_ms: int = 0,
        timeout_s: float | None = None,
    ) -> Begun:
        """What the viewer has begun, and the next episode of what was watched; newest first."""
        request = recommender_pb2.ContinueWatchingRequest(
            user_id=user_id, profile_id=profile_id, count=count, wait_ms=wait_ms
        )
        if after is not None:
            request.after.CopyFrom(_position_message(after))
        response = self._call(self._recommendations.ContinueWatching, request, timeout_s)
        return Begun(
            tuple(map(_recommended, response.items)),
            _freshness(response.freshness),
            tuple(response.degraded),
        )

    def explain(
        self, request: Request, item_id: str, *, timeout_s: float | None = None
    ) -> Explained:
        """Why a title is, or is not, on the slate that a request would get now."""
        asked = recommender_pb2.ExplainRequest(request=request.message(), item_id=item_id)
        response = self._call(self._recommendations.Explain, asked, timeout_s)
        return Explained(
            _recommended(response.item),
            response.shown,
            response.slot,
            tuple(response.removed_by),
            tuple(response.sources),
            response.cheap_rank,
            response.rank,
            response.summary,
        )

    def similar_items(
        self, item_id: str, *, count: int = 0, timeout_s: float | None = None
    ) -> tuple[Recommended, ...]:
        """Titles that go with a title; NOT_FOUND for one that is not in the catalogue."""
        request = recommender_pb2.SimilarItemsRequest(item_id=item_id, count=count)
        response = self._call(self._recommendations.SimilarItems, request, timeout_s)
        return tuple(map(_recommended, response.items))

    def trending(
        self,
        *,
        count: int = 0,
        genres: Iterable[str] = (),
        region: str = "",
        timeout_s: float | None = None,
    ) -> tuple[Recommended, ...]:
        """What is being watched now, everywhere or in a region."""
        request = recommender_pb2.TrendingRequest(count=count, genres=genres, region=region)
        response = self._call(self._recommendations.Trending, request, timeout_s)
        return tuple(map(_recommended, response.items))

    def _call(self, method: Any, request: Any, timeout_s: float | None) -> Any:
        try:
            limit_s = self._timeout_s if timeout_s is None else timeout_s
            return method(request, timeout=limit_s, metadata=self._metadata)
        except grpc.RpcError as error:
            call: Any = error
            hint = dict(call.trailing_metadata() or ()).get("grpc-retry-pushback-ms")
            raise RequestError(
                call.code().name, call.details() or "", None if hint is None else int(hint)
            ) from error


def _track_request(interaction: Interaction) -> ingest_pb2.TrackRequest:
    if not interaction.event_id:
        interaction = replace(interaction, event_id=uuid.uuid4().hex)
    return ingest_pb2.TrackRequest(interaction=interaction_message(interaction))


def _position(message: events_pb2.Position) -> Position:
    return Position(message.topic, message.partition, message.offset)


def _position_message(position: Position) -> events_pb2.Position:
    return events_pb2.Position(
        topic=position.topic, partition=position.partition, offset=position.offset
    )


def _freshness(message: recommender_pb2.Freshness) -> Freshness:
    return Freshness(
        after_included=message.after_included,
        included=tuple(map(_position, message.included)),
        state_age_ms=message.state_age_ms,
        items_age_ms=message.items_age_ms,
        waited_ms=message.waited_ms,
    )


def _recommendations(response: recommender_pb2.RecommendResponse) -> Recommendations:
    return Recommendations(
        request_id=response.request_id,
        items=tuple(map(_recommended, response.items)),
        freshness=_freshness(response.freshness),
        degraded=tuple(response.degraded),
        bundle_version=response.bundle_version,
        n_candidates=response.n_candidates,
        decision_context=response.decision_context,
        policy=response.policy,
        model_sequence=response.model_sequence,
        next_page_token=response.next_page_token,
        cached=response.cached,
        cached_age_ms=response.cached_age_ms,
        removed=dict(response.removed),
        stage_ms=dict(response.stage_ms),
        rules=tuple(response.rules),
    )


def _recommended(item: recommender_pb2.RecommendedItem) -> Recommended:
    return Recommended(
        item_id=item.item_id,
        title=item.title,
        score=item.score,
        source=item.source,
        cause_item_id=item.cause_item_id,
        cause_title=item.cause_title,
        reason=item.reason,
        features=dict(item.features),
        arm=item.arm,
        propensity=item.propensity,
        item_propensity=item.item_propensity,
        posterior_mean=item.posterior_mean,
        posterior_weight=item.posterior_weight,
        click_probability=item.click_probability,
        reason_kind=item.reason_kind,
        contributions=dict(item.contributions),
        progress=item.progress,
        rule_id=item.rule_id,
    )
