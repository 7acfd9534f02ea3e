from headrace.v1 import events_pb2 as _events_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Filters(_message.Message):
    __slots__ = ("languages", "categories", "min_rating", "max_age", "include_watched", "exclude_in_progress")
    LANGUAGES_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    MIN_RATING_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_WATCHED_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_IN_PROGRESS_FIELD_NUMBER: _ClassVar[int]
    languages: _containers.RepeatedScalarFieldContainer[str]
    categories: _containers.RepeatedScalarFieldContainer[str]
    min_rating: float
    max_age: int
    include_watched: bool
    exclude_in_progress: bool
    def __init__(self, languages: _Optional[_Iterable[str]] = ..., categories: _Optional[_Iterable[str]] = ..., min_rating: _Optional[float] = ..., max_age: _Optional[int] = ..., include_watched: _Optional[bool] = ..., exclude_in_progress: _Optional[bool] = ...) -> None: ...

class RecommendRequest(_message.Message):
    __slots__ = ("user_id", "profile_id", "session_id", "count", "context", "exclude_item_ids", "genres", "after", "wait_ms", "request_id", "debug", "filters", "page_token", "item_id", "candidate_item_ids", "serendipity")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    GENRES_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    DEBUG_FIELD_NUMBER: _ClassVar[int]
    FILTERS_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    CANDIDATE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SERENDIPITY_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    profile_id: str
    session_id: str
    count: int
    context: _events_pb2.Context
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    genres: _containers.RepeatedScalarFieldContainer[str]
    after: _events_pb2.Position
    wait_ms: int
    request_id: str
    debug: bool
    filters: Filters
    page_token: str
    item_id: str
    candidate_item_ids: _containers.RepeatedScalarFieldContainer[str]
    serendipity: float
    def __init__(self, user_id: _Optional[str] = ..., profile_id: _Optional[str] = ..., session_id: _Optional[str] = ..., count: _Optional[int] = ..., context: _Optional[_Union[_events_pb2.Context, _Mapping]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., genres: _Optional[_Iterable[str]] = ..., after: _Optional[_Union[_events_pb2.Position, _Mapping]] = ..., wait_ms: _Optional[int] = ..., request_id: _Optional[str] = ..., debug: _Optional[bool] = ..., filters: _Optional[_Union[Filters, _Mapping]] = ..., page_token: _Optional[str] = ..., item_id: _Optional[str] = ..., candidate_item_ids: _Optional[_Iterable[str]] = ..., serendipity: _Optional[float] = ...) -> None: ...

class RecommendResponse(_message.Message):
    __slots__ = ("request_id", "items", "freshness", "degraded", "bundle_version", "n_candidates", "decision_context", "policy", "model_sequence", "next_page_token", "cached", "cached_age_ms", "removed", "stage_ms", "rules")
    class RemovedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class StageMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    N_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    DECISION_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MODEL_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    CACHED_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    STAGE_MS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    items: _containers.RepeatedCompositeFieldContainer[RecommendedItem]
    freshness: Freshness
    degraded: _containers.RepeatedScalarFieldContainer[str]
    bundle_version: str
    n_candidates: int
    decision_context: str
    policy: str
    model_sequence: int
    next_page_token: str
    cached: bool
    cached_age_ms: int
    removed: _containers.ScalarMap[str, int]
    stage_ms: _containers.ScalarMap[str, float]
    rules: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[RecommendedItem, _Mapping]]] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ..., degraded: _Optional[_Iterable[str]] = ..., bundle_version: _Optional[str] = ..., n_candidates: _Optional[int] = ..., decision_context: _Optional[str] = ..., policy: _Optional[str] = ..., model_sequence: _Optional[int] = ..., next_page_token: _Optional[str] = ..., cached: _Optional[bool] = ..., cached_age_ms: _Optional[int] = ..., removed: _Optional[_Mapping[str, int]] = ..., stage_ms: _Optional[_Mapping[str, float]] = ..., rules: _Optional[_Iterable[str]] = ...) -> None: ...

class RecommendedItem(_message.Message):
    __slots__ = ("item_id", "title", "score", "source", "cause_item_id", "cause_title", "reason", "features", "arm", "propensity", "item_propensity", "posterior_mean", "posterior_weight", "click_probability", "reason_kind", "contributions", "progress", "rule_id")
    class FeaturesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ContributionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    CAUSE_TITLE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    ITEM_PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_MEAN_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    CLICK_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    REASON_KIND_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    score: float
    source: str
    cause_item_id: str
    cause_title: str
    reason: str
    features: _containers.ScalarMap[str, float]
    arm: str
    propensity: float
    item_propensity: float
    posterior_mean: float
    posterior_weight: float
    click_probability: float
    reason_kind: str
    contributions: _containers.ScalarMap[str, float]
    progress: float
    rule_id: str
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., score: _Optional[float] = ..., source: _Optional[str] = ..., cause_item_id: _Optional[str] = ..., cause_title: _Optional[str] = ..., reason: _Optional[str] = ..., features: _Optional[_Mapping[str, float]] = ..., arm: _Optional[str] = ..., propensity: _Optional[float] = ..., item_propensity: _Optional[float] = ..., posterior_mean: _Optional[float] = ..., posterior_weight: _Optional[float] = ..., click_probability: _Optional[float] = ..., reason_kind: _Optional[str] = ..., contributions: _Optional[_Mapping[str, float]] = ..., progress: _Optional[float] = ..., rule_id: _Optional[str] = ...) -> None: ...

class Freshness(_message.Message):
    __slots__ = ("after_included", "included", "state_age_ms", "items_age_ms", "waited_ms")
    AFTER_INCLUDED_FIELD_NUMBER: _ClassVar[int]
    INCLUDED_FIELD_NUMBER: _ClassVar[int]
    STATE_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    WAITED_MS_FIELD_NUMBER: _ClassVar[int]
    after_included: bool
    included: _containers.RepeatedCompositeFieldContainer[_events_pb2.Position]
    state_age_ms: int
    items_age_ms: int
    waited_ms: int
    def __init__(self, after_included: _Optional[bool] = ..., included: _Optional[_Iterable[_Union[_events_pb2.Position, _Mapping]]] = ..., state_age_ms: _Optional[int] = ..., items_age_ms: _Optional[int] = ..., waited_ms: _Optional[int] = ...) -> None: ...

class SimilarItemsRequest(_message.Message):
    __slots__ = ("item_id", "count")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    count: int
    def __init__(self, item_id: _Optional[str] = ..., count: _Optional[int] = ...) -> None: ...

class SimilarItemsResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[RecommendedItem]
    def __init__(self, items: _Optional[_Iterable[_Union[RecommendedItem, _Mapping]]] = ...) -> None: ...

class TrendingRequest(_message.Message):
    __slots__ = ("count", "genres", "region")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    GENRES_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    count: int
    genres: _containers.RepeatedScalarFieldContainer[str]
    region: str
    def __init__(self, count: _Optional[int] = ..., genres: _Optional[_Iterable[str]] = ..., region: _Optional[str] = ...) -> None: ...

class TrendingResponse(_message.Message):
    __slots__ = ("items", "items_age_ms")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[RecommendedItem]
    items_age_ms: int
    def __init__(self, items: _Optional[_Iterable[_Union[RecommendedItem, _Mapping]]] = ..., items_age_ms: _Optional[int] = ...) -> None: ...

class RecommendBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RecommendRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RecommendRequest, _Mapping]]] = ...) -> None: ...

class RecommendBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[BatchResult]
    def __init__(self, results: _Optional[_Iterable[_Union[BatchResult, _Mapping]]] = ...) -> None: ...

class BatchResult(_message.Message):
    __slots__ = ("response", "error")
    RESPONSE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    response: RecommendResponse
    error: BatchError
    def __init__(self, response: _Optional[_Union[RecommendResponse, _Mapping]] = ..., error: _Optional[_Union[BatchError, _Mapping]] = ...) -> None: ...

class BatchError(_message.Message):
    __slots__ = ("status", "message")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    status: str
    message: str
    def __init__(self, status: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class ContinueWatchingRequest(_message.Message):
    __slots__ = ("user_id", "profile_id", "count", "after", "wait_ms")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ID_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    profile_id: str
    count: int
    after: _events_pb2.Position
    wait_ms: int
    def __init__(self, user_id: _Optional[str] = ..., profile_id: _Optional[str] = ..., count: _Optional[int] = ..., after: _Optional[_Union[_events_pb2.Position, _Mapping]] = ..., wait_ms: _Optional[int] = ...) -> None: ...

class ContinueWatchingResponse(_message.Message):
    __slots__ = ("items", "freshness", "degraded")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[RecommendedItem]
    freshness: Freshness
    degraded: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, items: _Optional[_Iterable[_Union[RecommendedItem, _Mapping]]] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ..., degraded: _Optional[_Iterable[str]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("request", "item_id")
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    request: RecommendRequest
    item_id: str
    def __init__(self, request: _Optional[_Union[RecommendRequest, _Mapping]] = ..., item_id: _Optional[str] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("shown", "slot", "removed_by", "sources", "cheap_rank", "rank", "item", "summary")
    SHOWN_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    REMOVED_BY_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    CHEAP_RANK_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    shown: bool
    slot: int
    removed_by: _containers.RepeatedScalarFieldContainer[str]
    sources: _containers.RepeatedScalarFieldContainer[str]
    cheap_rank: int
    rank: int
    item: RecommendedItem
    summary: str
    def __init__(self, shown: _Optional[bool] = ..., slot: _Optional[int] = ..., removed_by: _Optional[_Iterable[str]] = ..., sources: _Optional[_Iterable[str]] = ..., cheap_rank: _Optional[int] = ..., rank: _Optional[int] = ..., item: _Optional[_Union[RecommendedItem, _Mapping]] = ..., summary: _Optional[str] = ...) -> None: ...
