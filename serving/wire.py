"""Requests and answers of the API: generated messages to plain values and back.

Every field of a request is checked here, so that what lies behind never meets an unusable one.
"""

import os
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, TypeVar

from headrace.v1 import admin_pb2, events_pb2, ingest_pb2, recommender_pb2

from features.codec import interaction_of as _interaction_of
from features.codec import rule_message
from features.events import MAX_ID_BYTES, MAX_REGION_BYTES, Interaction
from features.position import Position
from features.rules import MAX_AGE, MAX_REASON_BYTES, Rule
from features.vocabulary import Device, Page
from serving.errors import InvalidRequestError
from serving.raw_wire import item_bytes, length_of, slot_bytes
from serving.slate import (
    DEFAULT_COUNT,
    MAX_COUNT,
    NO_FILTERS,
    Decision,
    Explanation,
    Filters,
    Query,
    Slate,
    SlateItem,
    Viewer,
)

MAX_EXCLUDED: Final = 1_000
MAX_GENRES: Final = 32
MAX_FILTER_VALUES: Final = 32  # languages, categories
MAX_RATING: Final = 10.0
MAX_CANDIDATE_IDS: Final = 500
MAX_BATCH: Final = 64
MAX_WAIT_MS: Final = 1_000
UNKNOWN_VIEWER_MS: Final = -1
_ITEMS: Final = b"\x12"  # the tags of RecommendResponse.items and of Impression.slots
_SLOTS: Final = b"\x3a"
_NEXT_PAGE: Final = b"\x52"  # RecommendResponse.next_page_token
_RESULTS: Final = b"\x0a"  # RecommendBatchResponse.results
_RESPONSE: Final = b"\x0a"  # BatchResult.response

E = TypeVar("E", Device, Page)
V = TypeVar("V")

_DEVICES: Final = tuple(Device)
_PAGES: Final = tuple(Page)


def interaction_of(request: ingest_pb2.TrackRequest) -> Interaction:
    """The interaction of a request, as it came; the tracker checks it."""
    return _interaction_of(request.interaction)


def query_of(request: recommender_pb2.RecommendRequest, topic: str, default_wait_ms: int) -> Query:
    """The query of a request, with an id of its own. Raises InvalidRequestError."""
    context = request.context
    return Query(
        user_id=_required_id("user_id", request.user_id),
        profile_id=_bounded_id("profile_id", request.profile_id),
        session_id=_bounded_id("session_id", request.session_id),
        request_id=_bounded_id("request_id", request.request_id) or os.urandom(16).hex(),
        count=count_of(request.count),
        device=_member("context.device", _DEVICES, context.device),
        page=_member("context.page", _PAGES, context.page),
        region=_bounded_id("context.region", context.region, MAX_REGION_BYTES),
        exclude_item_ids=_ids("exclude_item_ids", request.exclude_item_ids, MAX_EXCLUDED),
        genres=genres_of(request.genres),
        after=_after(request.after, topic) if request.HasField("after") else None,
        wait_ms=_within("wait_ms", request.wait_ms, MAX_WAIT_MS) or default_wait_ms,
        debug=request.debug,
        filters=filters_of(request.filters) if request.HasField("filters") else NO_FILTERS,
        item_id=_only_on(Page.ITEM, "item_id", _bounded_id("item_id", request.item_id), context),
        candidate_item_ids=_only_on(
            Page.SEARCH,
            "candidate_item_ids",
            _ids("candidate_item_ids", request.candidate_item_ids, MAX_CANDIDATE_IDS),
            context,
        ),
        serendipity=_share("serendipity", request.serendipity)
        if request.HasField("serendipity")
        else None,
    )


def filters_of(message: recommender_pb2.Filters) -> Filters:
    """What may be shown. Raises InvalidRequestError."""
    rating = message.min_rating
    if not 0 <= rating <= MAX_RATING:  # NaN too
        raise InvalidRequestError("filters.min_rating", "within 0..10", rating)
    max_age = _within("filters.max_age", message.max_age, MAX_AGE)
    return Filters(
        _ids("filters.languages", message.languages, MAX_FILTER_VALUES),
        _ids("filters.categories", message.categories, MAX_FILTER_VALUES),
        rating,
        max_age if message.HasField("max_age") else None,
        message.include_watched,
        message.exclude_in_progress,
    )


def batch_of(
    request: recommender_pb2.RecommendBatchRequest,
) -> Sequence[recommender_pb2.RecommendRequest]:
    """The requests of a batch, which are checked one by one. Raises InvalidRequestError."""
    if not 1 <= len(request.requests) <= MAX_BATCH:
        raise InvalidRequestError("requests", f"1..{MAX_BATCH} values", len(request.requests))
    return request.requests


def continue_query_of(
    request: recommender_pb2.ContinueWatchingRequest, topic: str, default_wait_ms: int
) -> Query:
    """Whose begun titles are asked for. Raises InvalidRequestError."""
    return Query(
        user_id=_required_id("user_id", request.user_id),
        profile_id=_bounded_id("profile_id", request.profile_id),
        count=count_of(request.count),
        after=_after(request.after, topic) if request.HasField("after") else None,
        wait_ms=_within("wait_ms", request.wait_ms, MAX_WAIT_MS) or default_wait_ms,
    )


def count_of(count: int) -> int:
    """How many titles to answer with; 0 stands for the default. Raises InvalidRequestError."""
    return _within("count", count, MAX_COUNT) or DEFAULT_COUNT


def genres_of(names: Sequence[str]) -> tuple[str, ...]:
    """Names of genres. Raises InvalidRequestError."""
    return _ids("genres", names, MAX_GENRES)


def trending_query_of(request: recommender_pb2.TrendingRequest) -> Query:
    """What a request for a list asks. Raises InvalidRequestError."""
    return Query(
        "",
        count=count_of(request.count),
        genres=genres_of(request.genres),
        region=_bounded_id("region", request.region, MAX_REGION_BYTES),
    )


def item_id_of(item_id: str) -> str:
    """The id of a title. Raises InvalidRequestError."""
    return _required_id("item_id", item_id)


def viewer_of(request: admin_pb2.DeleteUserRequest) -> tuple[str, str]:
    """Account and profile of a request. Raises InvalidRequestError."""
    return (
        _required_id("user_id", request.user_id),
        _bounded_id("profile_id", request.profile_id),
    )


def rule_removal_of(request: admin_pb2.DeleteRuleRequest) -> tuple[str, str]:
    """Which rule is to go, and why. Raises InvalidRequestError."""
    return (
        _required_id("rule_id", request.rule_id),
        _bounded_id("reason", request.reason, MAX_REASON_BYTES),
    )


def put_rule_response(rule: Rule, position: Position) -> admin_pb2.PutRuleResponse:
    """The acknowledgement of a rule, as it is now."""
    return admin_pb2.PutRuleResponse(rule=rule_message(rule), position=_position(position))


def delete_rule_response(position: Position) -> admin_pb2.DeleteRuleResponse:
    """The acknowledgement that a rule is gone."""
    return admin_pb2.DeleteRuleResponse(position=_position(position))


def list_rules_response(rules: Iterable[Rule]) -> admin_pb2.ListRulesResponse:
    """The answer with all rules."""
    return admin_pb2.ListRulesResponse(rules=map(rule_message, rules))


def delete_user_response(position: Position) -> admin_pb2.DeleteUserResponse:
    """The acknowledgement of an erasure."""
    return admin_pb2.DeleteUserResponse(position=_position(position))


def track_response(event_id: str, position: Position) -> ingest_pb2.TrackResponse:
    """The acknowledgement of one event."""
    return ingest_pb2.TrackResponse(position=_position(position), event_id=event_id)


def track_many_response(
    accepted: int, refused: int, refusals: Iterable[tuple[int, str]], positions: Iterable[Position]
) -> ingest_pb2.TrackManyResponse:
    """The acknowledgement of a stream of events; `refusals` are (index, reason)."""
    return ingest_pb2.TrackManyResponse(
        accepted=accepted,
        refused=refused,
        refusals=[ingest_pb2.Refusal(index=index, reason=reason) for index, reason in refusals],
        positions=[_position(position) for position in positions],
    )


def freshness_of(
    viewer: Viewer, included: Iterable[Position], state_age_ms: int, items_age_ms: int
) -> recommender_pb2.Freshness:
    """Up to where, and up to when, the viewer's state is true."""
    return recommender_pb2.Freshness(
        after_included=viewer.after_included,
        included=[_position(position) for position in included],
        state_age_ms=state_age_ms,
        items_age_ms=items_age_ms,
        waited_ms=viewer.waited_ms,
    )


def recommend_answer(
    decision: Decision,
    viewer: Viewer,
    state_age_ms: int,
    items_age_ms: int,
    body: bytes | None = None,
) -> bytes:
    """The RecommendResponse that shows a decision, as it goes over the wire.

    `body`: what it says of the slate, where that is written already.
    """
    head = answer_head(
        decision.query.request_id, decision.included, viewer, state_age_ms, items_age_ms
    )
    if body is None:
        body = answer_body(decision.slate, debug=decision.query.debug)
    return head + body


def answer_head(
    request_id: str,
    included: Sequence[Position],
    viewer: Viewer,
    state_age_ms: int,
    items_age_ms: int,
    *,
    degraded: Sequence[str] = (),
    cached_age_ms: int | None = None,
) -> bytes:
    """What a RecommendResponse says of this call; the slate follows.

    `degraded` is what was missing beside that which the slate names; `cached_age_ms` is None for a
    slate that was made for this call.
    """
    return recommender_pb2.RecommendResponse(
        request_id=request_id,
        freshness=freshness_of(viewer, included, state_age_ms, items_age_ms),
        degraded=degraded,
        cached=cached_age_ms is not None,
        cached_age_ms=cached_age_ms or 0,
    ).SerializeToString()


def answer_body(slate: Slate, *, debug: bool = False) -> bytes:
    """What a RecommendResponse says of the slate, for any call that is answered with it."""
    names = slate.feature_names if debug else ()
    pieces = [
        recommender_pb2.RecommendResponse(
            degraded=slate.degraded,
            bundle_version=slate.bundle_version,
            n_candidates=slate.n_candidates,
            decision_context=slate.decision_context,
            policy=slate.policy,
            model_sequence=slate.model_sequence,
            removed=slate.removed if debug else {},
            stage_ms=slate.stage_ms if debug else {},
            rules=slate.rules,
        ).SerializeToString()
    ]
    for item in slate.items:
        body = _item(item, names).SerializeToString() if names else item_bytes(item)
        pieces += (_ITEMS, length_of(body), body)
    return b"".join(pieces)


def page_token_field(token: str) -> bytes:
    """A piece of a RecommendResponse: where the next page begins; nothing where there is none."""
    return _NEXT_PAGE + length_of(token.encode()) + token.encode() if token else b""


def batch_answer(results: Iterable[bytes | tuple[str, str]]) -> bytes:
    """The RecommendBatchResponse of RecommendResponses and of refusals: status and message."""
    pieces: list[bytes] = []
    for result in results:
        if isinstance(result, bytes):
            body = _RESPONSE + length_of(result) + result
        else:
            error = recommender_pb2.BatchError(status=result[0], message=result[1])
            body = recommender_pb2.BatchResult(error=error).SerializeToString()
        pieces += (_RESULTS, length_of(body), body)
    return b"".join(pieces)


def continue_response(
    items: Iterable[SlateItem], freshness: recommender_pb2.Freshness, degraded: Sequence[str]
) -> recommender_pb2.ContinueWatchingResponse:
    """The answer with what a viewer has begun."""
    return recommender_pb2.ContinueWatchingResponse(
        items=[_item(item) for item in items], freshness=freshness, degraded=degraded
    )


def explain_response(found: Explanation) -> recommender_pb2.ExplainResponse:
    """The answer that says why."""
    return recommender_pb2.ExplainResponse(
        shown=found.shown,
        slot=found.slot,
        removed_by=found.removed_by,
        sources=found.sources,
        cheap_rank=found.cheap_rank,
        rank=found.rank,
        item=_item(found.item, found.feature_names),
        summary=found.summary,
    )


def similar_response(items: Iterable[SlateItem]) -> recommender_pb2.SimilarItemsResponse:
    """The answer with titles that go with a title."""
    return recommender_pb2.SimilarItemsResponse(items=[_item(item) for item in items])


def trending_response(
    items: Iterable[SlateItem], items_age_ms: int
) -> recommender_pb2.TrendingResponse:
    """The answer with what is being watched now."""
    return recommender_pb2.TrendingResponse(
        items=[_item(item) for item in items], items_age_ms=items_age_ms
    )


def encode_decision(decision: Decision) -> bytes:
    """Protobuf bytes of the Impression that a decision is to the log."""
    return decision_head(decision) + (decision.body or decision_body(decision.slate))


def decision_head(decision: Decision) -> bytes:
    """What an Impression says of this call; the slate follows."""
    query = decision.query
    return events_pb2.Impression(
        request_id=query.request_id,
        user_id=query.user_id,
        profile_id=query.profile_id,
        session_id=query.session_id,
        served_at_ms=decision.served_at_ms,
        context=_context(query),
        included=[_position(position) for position in decision.included],
        degraded=decision.slate.degraded if decision.is_cached else (),
        cached=decision.is_cached,
    ).SerializeToString()


def decision_body(slate: Slate) -> bytes:
    """What an Impression says of the slate, for any call that is answered with it."""
    pieces = [
        events_pb2.Impression(
            bundle_version=slate.bundle_version,
            feature_version=slate.feature_version,
            degraded=slate.degraded,
            n_candidates=slate.n_candidates,
            decision_context=slate.decision_context,
            policy=slate.policy,
            model_sequence=slate.model_sequence,
            rules=slate.rules,
        ).SerializeToString()
    ]
    for item in slate.items:
        body = slot_bytes(item)
        pieces += (_SLOTS, length_of(body), body)
    return b"".join(pieces)


def all_missing(*reasons: Sequence[str]) -> tuple[str, ...]:
    """Everything that was missing, each thing once, in a steady order.

    >>> all_missing(("redis",), ("ranker", "redis"))
    ('redis', 'ranker')
    """
    return tuple(dict.fromkeys(chain.from_iterable(reasons)))


def _context(query: Query) -> events_pb2.Context:
    return events_pb2.Context(
        device=int(query.device),  # type: ignore[arg-type]
        page=int(query.page),  # type: ignore[arg-type]
        region=query.region,
    )


def _item(item: SlateItem, names: Sequence[str] = ()) -> recommender_pb2.RecommendedItem:
    message = recommender_pb2.RecommendedItem(
        item_id=item.item_id,
        title=item.title,
        score=item.score,
        source=item.source,
        cause_item_id=item.cause_item_id,
        cause_title=item.cause_title,
        reason=item.reason,
        arm=item.arm,
        propensity=item.propensity,
        item_propensity=item.item_propensity,
        posterior_mean=item.posterior_mean,
        posterior_weight=item.posterior_weight,
        click_probability=item.click_probability,
        reason_kind=item.reason_kind,
        progress=item.progress,
        rule_id=item.rule_id,
    )
    if names and item.features is not None:
        message.features.update(zip(names, item.features.tolist(), strict=True))
    if names and item.contributions is not None:
        message.contributions.update(zip(names, item.contributions.tolist(), strict=True))
    return message


def _position(position: Position) -> events_pb2.Position:
    return events_pb2.Position(
        topic=position.topic, partition=position.partition, offset=position.offset
    )


def _after(message: events_pb2.Position, topic: str) -> Position:
    if message.topic not in {"", topic}:
        raise InvalidRequestError("after.topic", f"{topic!r}, or empty", repr(message.topic[:64]))
    for name, value in (("partition", message.partition), ("offset", message.offset)):
        if value < 0:
            raise InvalidRequestError(f"after.{name}", "zero or more", value)
    return Position(topic, message.partition, message.offset)


def _within(field: str, value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise InvalidRequestError(field, f"within 0..{most}", value)
    return value


def _share(field: str, value: float) -> float:
    if not 0.0 <= value <= 1.0:  # NaN is neither
        raise InvalidRequestError(field, "within 0..1", value)
    return value


def _only_on(page: Page, field: str, value: V, context: events_pb2.Context) -> V:
    """A field that means something on one page alone."""
    if value and int(context.page) != page:
        expectation = f"given on context.page {page.name} alone"
        raise InvalidRequestError(field, expectation, f"page {Page(context.page).name}")
    return value


def _member(field: str, members: tuple[E, ...], number: int) -> E:
    if not 0 <= number < len(members):
        raise InvalidRequestError(field, f"within 0..{len(members) - 1}", number)
    return members[number]


def _required_id(field: str, value: str) -> str:
    if not value:
        raise InvalidRequestError(field, f"an id of 1..{MAX_ID_BYTES} bytes", "an empty string")
    return _bounded_id(field, value)


def _bounded_id(field: str, value: str, most: int = MAX_ID_BYTES) -> str:
    if 4 * len(value) > most and len(value.encode()) > most:  # UTF-8 takes at most 4 bytes
        raise InvalidRequestError(
            field, f"at most {most} bytes", f"{len(value.encode())} bytes starting {value[:16]!r}"
        )
    return value


def _ids(field: str, values: Sequence[str], most: int) -> tuple[str, ...]:
    if len(values) > most:
        raise InvalidRequestError(field, f"at most {most} values", len(values))
    if not values:
        return ()
    return tuple(_required_id(f"{field}[{i}]", value) for i, value in enumerate(values))
