"""Events: plain dataclasses at the edges, one structured array on the way through.

`Interaction` and `CatalogItem` exist for people (API, command line, tests). A batch of events is
an array of `EVENT` records: ids are 64-bit hashes, times are milliseconds, and nothing in it is a
Python object.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from features.position import Position
from features.vocabulary import N_TYPES, Device, EventType, Page

MAX_ID_BYTES: Final = 128
MAX_REGION_BYTES: Final = 16
MAX_RATING: Final = 10.0
MAX_WATCH_S: Final = 1e6
MAX_SLOT: Final = 10_000
MAX_KIND: Final = 80  # characters of a reason's kind

N_CAST: Final = 3  # members of a title's cast that events carry

NO_RATING: Final = -1.0
NO_SLOT: Final = -1

# Flags of an event.
CLAMPED: Final = 1  # its own time was absurd or too far in the future
DUPLICATE: Final = 2  # its id has been seen: positions move, nothing else
ERASED: Final = 4  # of a viewer who was erased later: titles alone learn from it

EVENT = np.dtype(
    [
        ("user", "u8"),  # the viewer: account and profile
        ("item", "u8"),
        ("event", "u8"),  # idempotency key
        ("session", "u8"),
        ("request", "u8"),
        ("at_ms", "i8"),  # when it happened, after clamping
        ("logged_at_ms", "i8"),  # when the log received it
        ("offset", "i8"),
        ("genres", "u4"),  # from here to runtime_min: of the item, from the catalogue; 0: unknown
        ("language", "u4"),  # hash
        ("cast", "u4", (N_CAST,)),  # hashes of those named first
        ("series", "u4"),  # hash; 0: a film
        ("episode", "u4"),  # season * 1000 + episode
        ("year", "i2"),
        ("runtime_min", "u2"),
        ("region", "u4"),
        ("key_hash", "u4"),  # of the account: which partition it belongs to
        ("watch_position_s", "f4"),
        ("watch_duration_s", "f4"),
        ("rating", "f4"),  # 0..10, or NO_RATING
        ("partition", "i2"),
        ("slot", "i2"),  # place in the slate, or NO_SLOT
        ("type", "u1"),
        ("device", "u1"),
        ("page", "u1"),
        ("flags", "u1"),
    ],
    align=True,
)


@dataclass(frozen=True, slots=True)
class Interaction:
    """One thing a viewer did, as a producer tells it. Times in milliseconds since 1970 UTC."""

    event_id: str
    user_id: str
    item_id: str
    type: EventType
    occurred_at_ms: int = 0  # 0: when the broker received it
    profile_id: str = ""
    session_id: str = ""
    request_id: str = ""
    slot: int | None = None
    watch_position_s: float = 0.0
    watch_duration_s: float = 0.0
    rating: float | None = None
    device: Device = Device.UNSPECIFIED
    page: Page = Page.UNSPECIFIED
    region: str = ""


@dataclass(frozen=True, slots=True)
class CatalogItem:
    """A title as the catalogue describes it."""

    item_id: str
    title: str = ""
    year: int = 0
    genres: tuple[str, ...] = ()
    overview: str = ""
    director: str = ""
    cast: tuple[str, ...] = ()
    runtime_min: int = 0
    language: str = ""
    certification: str = ""
    available_from_ms: int = 0
    removed: bool = False
    series_id: str = ""  # empty: a film
    season: int = 0
    episode: int = 0
    available_until_ms: int = 0  # 0: for good
    regions: tuple[str, ...] = ()  # where it may be shown; empty: everywhere
    category: str = ""


@dataclass(frozen=True, slots=True)
class ImpressionSlot:
    """One place of a served slate, and why the title stood there."""

    item_id: str
    source: str
    arm: str
    propensity: float
    score: float
    cause_item_id: str
    features: tuple[float, ...]  # in the order of the impression's feature version
    item_propensity: float = 0.0  # of this title, given the arm; 0: not told
    posterior_mean: float = 0.0  # of the arm's reward in the decision's context, as then believed
    posterior_weight: float = 0.0  # answers that this rested on, prior included


@dataclass(frozen=True, slots=True)
class Impression:
    """A whole served decision, as the topic `impressions` has it."""

    request_id: str
    user_id: str
    profile_id: str
    session_id: str
    served_at_ms: int
    slots: tuple[ImpressionSlot, ...]
    bundle_version: str
    feature_version: str
    included: tuple[Position, ...]  # of the log, that the viewer's state contained
    degraded: tuple[str, ...]
    n_candidates: int
    device: Device
    page: Page
    region: str
    decision_context: str = ""
    policy: str = ""
    model_sequence: int = 0
    rules: tuple[str, ...] = ()  # of editors, that took effect


@dataclass(frozen=True, slots=True)
class Exposure:
    """What a served decision showed of an experiment, without who saw it."""

    policy: str
    bundle_version: str
    arms: tuple[str, ...]  # of the slots
    cached: bool  # a slate made earlier was shown again


@dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that is not an event: what was wrong, where it lay, and its bytes."""

    reason: str
    topic: str
    partition: int
    offset: int
    key: bytes | None = field(repr=False)
    value: bytes | None = field(repr=False)


def kind_of(reason: str) -> str:
    """The part of a bad record's reason that no record has a say in: as many as there are rules.

    It is a part of the reason as it stands, so it finds the records of its kind again.

    >>> kind_of("interaction.rating must be within 0..10; got 42.0")
    'interaction.rating must be within 0..10'
    >>> kind_of("record is not a Interaction as protobuf: Error parsing message")
    'record is not a Interaction as protobuf'
    """
    return re.split("[;:]", reason, maxsplit=1)[0][:MAX_KIND]


def problem_with(interaction: Interaction) -> str | None:
    """What makes this interaction unusable: field, expectation and value; None when nothing does.

    >>> problem_with(Interaction("e1", "ann", "tt1", EventType.RATE, rating=42.0))
    'interaction.rating must be within 0..10; got 42.0'
    >>> problem_with(Interaction("e1", "ann", "tt1", EventType.CLICK)) is None
    True
    """
    return (
        _problem_with_ids(interaction)
        or _problem_with_type(interaction)
        or _problem_with_numbers(interaction)
    )


def _problem_with_ids(interaction: Interaction) -> str | None:
    is_of_no_item = interaction.type == EventType.ERASE
    for name in ("event_id", "user_id") if is_of_no_item else ("event_id", "user_id", "item_id"):
        if not getattr(interaction, name):
            return f"interaction.{name} is required; got an empty string"
    for name in ("event_id", "user_id", "item_id", "profile_id", "session_id", "request_id"):
        value: str = getattr(interaction, name)
        if len(value.encode()) > MAX_ID_BYTES:
            return (
                f"interaction.{name} must be at most {MAX_ID_BYTES} bytes; got "
                f"{len(value.encode())} bytes starting {value[:16]!r}"
            )
    if len(interaction.region.encode()) > MAX_REGION_BYTES:
        return (
            f"interaction.context.region must be at most {MAX_REGION_BYTES} bytes; "
            f"got {interaction.region[:24]!r}"
        )
    return None


def _problem_with_type(interaction: Interaction) -> str | None:
    if interaction.type not in set(EventType) or interaction.type == EventType.UNSPECIFIED:
        known = ", ".join(t.name.lower() for t in list(EventType)[1 : N_TYPES + 1])
        return f"interaction.type must be one of {known}; got {int(interaction.type)}"
    if interaction.type == EventType.RATE and interaction.rating is None:
        return "interaction.rating is required for the type rate; got none"
    if interaction.device not in set(Device):
        return f"interaction.context.device must be within 0..4; got {int(interaction.device)}"
    if interaction.page not in set(Page):
        return f"interaction.context.page must be within 0..4; got {int(interaction.page)}"
    return None


def _problem_with_numbers(interaction: Interaction) -> str | None:
    rating = interaction.rating
    if rating is not None and not (math.isfinite(rating) and 0 <= rating <= MAX_RATING):
        return f"interaction.rating must be within 0..10; got {rating}"
    for name in ("watch_position_s", "watch_duration_s"):
        value: float = getattr(interaction, name)
        if not (math.isfinite(value) and 0 <= value <= MAX_WATCH_S):
            return f"interaction.{name} must be within 0..1000000 seconds; got {value}"
    if interaction.slot is not None and not 0 <= interaction.slot <= MAX_SLOT:
        return f"interaction.slot must be within 0..{MAX_SLOT}; got {interaction.slot}"
    return None
