from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class InteractionType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    INTERACTION_TYPE_UNSPECIFIED: _ClassVar[InteractionType]
    INTERACTION_TYPE_IMPRESSION: _ClassVar[InteractionType]
    INTERACTION_TYPE_CLICK: _ClassVar[InteractionType]
    INTERACTION_TYPE_PLAY: _ClassVar[InteractionType]
    INTERACTION_TYPE_PROGRESS: _ClassVar[InteractionType]
    INTERACTION_TYPE_COMPLETE: _ClassVar[InteractionType]
    INTERACTION_TYPE_LIKE: _ClassVar[InteractionType]
    INTERACTION_TYPE_DISLIKE: _ClassVar[InteractionType]
    INTERACTION_TYPE_RATE: _ClassVar[InteractionType]
    INTERACTION_TYPE_SKIP: _ClassVar[InteractionType]
    INTERACTION_TYPE_ADD: _ClassVar[InteractionType]
    INTERACTION_TYPE_SHARE: _ClassVar[InteractionType]
    INTERACTION_TYPE_SEARCH: _ClassVar[InteractionType]
    INTERACTION_TYPE_ERASE: _ClassVar[InteractionType]

class Device(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DEVICE_UNSPECIFIED: _ClassVar[Device]
    DEVICE_TV: _ClassVar[Device]
    DEVICE_PHONE: _ClassVar[Device]
    DEVICE_TABLET: _ClassVar[Device]
    DEVICE_WEB: _ClassVar[Device]

class Page(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PAGE_UNSPECIFIED: _ClassVar[Page]
    PAGE_HOME: _ClassVar[Page]
    PAGE_CATEGORY: _ClassVar[Page]
    PAGE_ITEM: _ClassVar[Page]
    PAGE_SEARCH: _ClassVar[Page]

class RuleKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RULE_KIND_UNSPECIFIED: _ClassVar[RuleKind]
    RULE_KIND_PIN: _ClassVar[RuleKind]
    RULE_KIND_BOOST: _ClassVar[RuleKind]
    RULE_KIND_BLOCK: _ClassVar[RuleKind]
    RULE_KIND_CEILING: _ClassVar[RuleKind]
INTERACTION_TYPE_UNSPECIFIED: InteractionType
INTERACTION_TYPE_IMPRESSION: InteractionType
INTERACTION_TYPE_CLICK: InteractionType
INTERACTION_TYPE_PLAY: InteractionType
INTERACTION_TYPE_PROGRESS: InteractionType
INTERACTION_TYPE_COMPLETE: InteractionType
INTERACTION_TYPE_LIKE: InteractionType
INTERACTION_TYPE_DISLIKE: InteractionType
INTERACTION_TYPE_RATE: InteractionType
INTERACTION_TYPE_SKIP: InteractionType
INTERACTION_TYPE_ADD: InteractionType
INTERACTION_TYPE_SHARE: InteractionType
INTERACTION_TYPE_SEARCH: InteractionType
INTERACTION_TYPE_ERASE: InteractionType
DEVICE_UNSPECIFIED: Device
DEVICE_TV: Device
DEVICE_PHONE: Device
DEVICE_TABLET: Device
DEVICE_WEB: Device
PAGE_UNSPECIFIED: Page
PAGE_HOME: Page
PAGE_CATEGORY: Page
PAGE_ITEM: Page
PAGE_SEARCH: Page
RULE_KIND_UNSPECIFIED: RuleKind
RULE_KIND_PIN: RuleKind
RULE_KIND_BOOST: RuleKind
RULE_KIND_BLOCK: RuleKind
RULE_KIND_CEILING: RuleKind

class Position(_message.Message):
    __slots__ = ("topic", "partition", "offset")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    topic: str
    partition: int
    offset: int
    def __init__(self, topic: _Optional[str] = ..., partition: _Optional[int] = ..., offset: _Optional[int] = ...) -> None: ...

class Context(_message.Message):
    __slots__ = ("device", "page", "region")
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    PAGE_FIELD_NUMBER: _ClassVar[int]
    REGION_FIELD_NUMBER: _ClassVar[int]
    device: Device
    page: Page
    region: str
    def __init__(self, device: _Optional[_Union[Device, str]] = ..., page: _Optional[_Union[Page, str]] = ..., region: _Optional[str] = ...) -> None: ...

class Interaction(_message.Message):
    __slots__ = ("event_id", "user_id", "profile_id", "item_id", "session_id", "type", "occurred_at_ms", "request_id", "slot", "watch_position_s", "watch_duration_s", "rating", "context")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OCCURRED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    WATCH_POSITION_S_FIELD_NUMBER: _ClassVar[int]
    WATCH_DURATION_S_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    user_id: str
    profile_id: str
    item_id: str
    session_id: str
    type: InteractionType
    occurred_at_ms: int
    request_id: str
    slot: int
    watch_position_s: float
    watch_duration_s: float
    rating: float
    context: Context
    def __init__(self, event_id: _Optional[str] = ..., user_id: _Optional[str] = ..., profile_id: _Optional[str] = ..., item_id: _Optional[str] = ..., session_id: _Optional[str] = ..., type: _Optional[_Union[InteractionType, str]] = ..., occurred_at_ms: _Optional[int] = ..., request_id: _Optional[str] = ..., slot: _Optional[int] = ..., watch_position_s: _Optional[float] = ..., watch_duration_s: _Optional[float] = ..., rating: _Optional[float] = ..., context: _Optional[_Union[Context, _Mapping]] = ...) -> None: ...

class Erasure(_message.Message):
    __slots__ = ("partition", "offset", "erased_at_ms")
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    ERASED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    partition: int
    offset: int
    erased_at_ms: int
    def __init__(self, partition: _Optional[int] = ..., offset: _Optional[int] = ..., erased_at_ms: _Optional[int] = ...) -> None: ...

class SlateSlot(_message.Message):
    __slots__ = ("item_id", "source", "arm", "propensity", "score", "cause_item_id", "features", "item_propensity", "posterior_mean", "posterior_weight")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    CAUSE_ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    ITEM_PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_MEAN_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_WEIGHT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    source: str
    arm: str
    propensity: float
    score: float
    cause_item_id: str
    features: _containers.RepeatedScalarFieldContainer[float]
    item_propensity: float
    posterior_mean: float
    posterior_weight: float
    def __init__(self, item_id: _Optional[str] = ..., source: _Optional[str] = ..., arm: _Optional[str] = ..., propensity: _Optional[float] = ..., score: _Optional[float] = ..., cause_item_id: _Optional[str] = ..., features: _Optional[_Iterable[float]] = ..., item_propensity: _Optional[float] = ..., posterior_mean: _Optional[float] = ..., posterior_weight: _Optional[float] = ...) -> None: ...

class Impression(_message.Message):
    __slots__ = ("request_id", "user_id", "profile_id", "session_id", "served_at_ms", "context", "slots", "bundle_version", "feature_version", "included", "degraded", "n_candidates", "decision_context", "policy", "model_sequence", "cached", "rules")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SERVED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURE_VERSION_FIELD_NUMBER: _ClassVar[int]
    INCLUDED_FIELD_NUMBER: _ClassVar[int]
    DEGRADED_FIELD_NUMBER: _ClassVar[int]
    N_CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    DECISION_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MODEL_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    user_id: str
    profile_id: str
    session_id: str
    served_at_ms: int
    context: Context
    slots: _containers.RepeatedCompositeFieldContainer[SlateSlot]
    bundle_version: str
    feature_version: str
    included: _containers.RepeatedCompositeFieldContainer[Position]
    degraded: _containers.RepeatedScalarFieldContainer[str]
    n_candidates: int
    decision_context: str
    policy: str
    model_sequence: int
    cached: bool
    rules: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, request_id: _Optional[str] = ..., user_id: _Optional[str] = ..., profile_id: _Optional[str] = ..., session_id: _Optional[str] = ..., served_at_ms: _Optional[int] = ..., context: _Optional[_Union[Context, _Mapping]] = ..., slots: _Optional[_Iterable[_Union[SlateSlot, _Mapping]]] = ..., bundle_version: _Optional[str] = ..., feature_version: _Optional[str] = ..., included: _Optional[_Iterable[_Union[Position, _Mapping]]] = ..., degraded: _Optional[_Iterable[str]] = ..., n_candidates: _Optional[int] = ..., decision_context: _Optional[str] = ..., policy: _Optional[str] = ..., model_sequence: _Optional[int] = ..., cached: _Optional[bool] = ..., rules: _Optional[_Iterable[str]] = ...) -> None: ...

class Outcome(_message.Message):
    __slots__ = ("request_id", "slot", "user_id", "profile_id", "item_id", "label", "reward", "watch_share", "delay_ms", "revision", "previous_label", "previous_reward", "source", "arm", "propensity", "item_propensity", "decision_context", "served_at_ms", "decided_at_ms", "model_sequence", "feature_version", "bundle_version", "features")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    WATCH_SHARE_FIELD_NUMBER: _ClassVar[int]
    DELAY_MS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_LABEL_FIELD_NUMBER: _ClassVar[int]
    PREVIOUS_REWARD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    ITEM_PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    DECISION_CONTEXT_FIELD_NUMBER: _ClassVar[int]
    SERVED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    DECIDED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    MODEL_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_VERSION_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_VERSION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    slot: int
    user_id: str
    profile_id: str
    item_id: str
    label: bool
    reward: float
    watch_share: float
    delay_ms: int
    revision: int
    previous_label: bool
    previous_reward: float
    source: str
    arm: str
    propensity: float
    item_propensity: float
    decision_context: str
    served_at_ms: int
    decided_at_ms: int
    model_sequence: int
    feature_version: str
    bundle_version: str
    features: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, request_id: _Optional[str] = ..., slot: _Optional[int] = ..., user_id: _Optional[str] = ..., profile_id: _Optional[str] = ..., item_id: _Optional[str] = ..., label: _Optional[bool] = ..., reward: _Optional[float] = ..., watch_share: _Optional[float] = ..., delay_ms: _Optional[int] = ..., revision: _Optional[int] = ..., previous_label: _Optional[bool] = ..., previous_reward: _Optional[float] = ..., source: _Optional[str] = ..., arm: _Optional[str] = ..., propensity: _Optional[float] = ..., item_propensity: _Optional[float] = ..., decision_context: _Optional[str] = ..., served_at_ms: _Optional[int] = ..., decided_at_ms: _Optional[int] = ..., model_sequence: _Optional[int] = ..., feature_version: _Optional[str] = ..., bundle_version: _Optional[str] = ..., features: _Optional[_Iterable[float]] = ...) -> None: ...

class Rollback(_message.Message):
    __slots__ = ("to_sequence", "reason", "ordered_at_ms")
    TO_SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ORDERED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    to_sequence: int
    reason: str
    ordered_at_ms: int
    def __init__(self, to_sequence: _Optional[int] = ..., reason: _Optional[str] = ..., ordered_at_ms: _Optional[int] = ...) -> None: ...

class LearningRecord(_message.Message):
    __slots__ = ("outcome", "rollback")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    outcome: Outcome
    rollback: Rollback
    def __init__(self, outcome: _Optional[_Union[Outcome, _Mapping]] = ..., rollback: _Optional[_Union[Rollback, _Mapping]] = ...) -> None: ...

class ModelSnapshot(_message.Message):
    __slots__ = ("name", "sequence", "feature_version", "created_at_ms", "restored_from", "payload", "sha256")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_VERSION_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    RESTORED_FROM_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    name: str
    sequence: int
    feature_version: str
    created_at_ms: int
    restored_from: int
    payload: bytes
    sha256: bytes
    def __init__(self, name: _Optional[str] = ..., sequence: _Optional[int] = ..., feature_version: _Optional[str] = ..., created_at_ms: _Optional[int] = ..., restored_from: _Optional[int] = ..., payload: _Optional[bytes] = ..., sha256: _Optional[bytes] = ...) -> None: ...

class CatalogItem(_message.Message):
    __slots__ = ("item_id", "title", "year", "genres", "overview", "director", "cast", "runtime_min", "language", "certification", "available_from_ms", "removed", "series_id", "season", "episode", "available_until_ms", "regions", "category")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    YEAR_FIELD_NUMBER: _ClassVar[int]
    GENRES_FIELD_NUMBER: _ClassVar[int]
    OVERVIEW_FIELD_NUMBER: _ClassVar[int]
    DIRECTOR_FIELD_NUMBER: _ClassVar[int]
    CAST_FIELD_NUMBER: _ClassVar[int]
    RUNTIME_MIN_FIELD_NUMBER: _ClassVar[int]
    LANGUAGE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATION_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FROM_MS_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    SERIES_ID_FIELD_NUMBER: _ClassVar[int]
    SEASON_FIELD_NUMBER: _ClassVar[int]
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    title: str
    year: int
    genres: _containers.RepeatedScalarFieldContainer[str]
    overview: str
    director: str
    cast: _containers.RepeatedScalarFieldContainer[str]
    runtime_min: int
    language: str
    certification: str
    available_from_ms: int
    removed: bool
    series_id: str
    season: int
    episode: int
    available_until_ms: int
    regions: _containers.RepeatedScalarFieldContainer[str]
    category: str
    def __init__(self, item_id: _Optional[str] = ..., title: _Optional[str] = ..., year: _Optional[int] = ..., genres: _Optional[_Iterable[str]] = ..., overview: _Optional[str] = ..., director: _Optional[str] = ..., cast: _Optional[_Iterable[str]] = ..., runtime_min: _Optional[int] = ..., language: _Optional[str] = ..., certification: _Optional[str] = ..., available_from_ms: _Optional[int] = ..., removed: _Optional[bool] = ..., series_id: _Optional[str] = ..., season: _Optional[int] = ..., episode: _Optional[int] = ..., available_until_ms: _Optional[int] = ..., regions: _Optional[_Iterable[str]] = ..., category: _Optional[str] = ...) -> None: ...

class RuleScope(_message.Message):
    __slots__ = ("pages", "devices", "regions", "user_id", "profile_id")
    PAGES_FIELD_NUMBER: _ClassVar[int]
    DEVICES_FIELD_NUMBER: _ClassVar[int]
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    PROFILE_ID_FIELD_NUMBER: _ClassVar[int]
    pages: _containers.RepeatedScalarFieldContainer[Page]
    devices: _containers.RepeatedScalarFieldContainer[Device]
    regions: _containers.RepeatedScalarFieldContainer[str]
    user_id: str
    profile_id: str
    def __init__(self, pages: _Optional[_Iterable[_Union[Page, str]]] = ..., devices: _Optional[_Iterable[_Union[Device, str]]] = ..., regions: _Optional[_Iterable[str]] = ..., user_id: _Optional[str] = ..., profile_id: _Optional[str] = ...) -> None: ...

class Rule(_message.Message):
    __slots__ = ("rule_id", "kind", "item_ids", "genres", "scope", "from_ms", "until_ms", "slot", "boost", "max_age", "reason", "author", "changed_at_ms")
    RULE_ID_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    GENRES_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    FROM_MS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_MS_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    BOOST_FIELD_NUMBER: _ClassVar[int]
    MAX_AGE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    CHANGED_AT_MS_FIELD_NUMBER: _ClassVar[int]
    rule_id: str
    kind: RuleKind
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    genres: _containers.RepeatedScalarFieldContainer[str]
    scope: RuleScope
    from_ms: int
    until_ms: int
    slot: int
    boost: float
    max_age: int
    reason: str
    author: str
    changed_at_ms: int
    def __init__(self, rule_id: _Optional[str] = ..., kind: _Optional[_Union[RuleKind, str]] = ..., item_ids: _Optional[_Iterable[str]] = ..., genres: _Optional[_Iterable[str]] = ..., scope: _Optional[_Union[RuleScope, _Mapping]] = ..., from_ms: _Optional[int] = ..., until_ms: _Optional[int] = ..., slot: _Optional[int] = ..., boost: _Optional[float] = ..., max_age: _Optional[int] = ..., reason: _Optional[str] = ..., author: _Optional[str] = ..., changed_at_ms: _Optional[int] = ...) -> None: ...

class Drift(_message.Message):
    __slots__ = ("what", "segment", "offset", "before", "after")
    WHAT_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    what: str
    segment: str
    offset: int
    before: float
    after: float
    def __init__(self, what: _Optional[str] = ..., segment: _Optional[str] = ..., offset: _Optional[int] = ..., before: _Optional[float] = ..., after: _Optional[float] = ...) -> None: ...
