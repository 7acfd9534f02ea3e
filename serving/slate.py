"""What is asked of the recommender and what it answers, free of any transport.

Values: nobody changes one after it was made. They are not frozen all the same, since Python sets
each field of a frozen one by a call: an item of an answer took 16 us to make, and takes 0.9.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows
from features.position import Position
from features.vocabulary import Device, Page

DEFAULT_COUNT = 20
MAX_COUNT = 100


@dataclass(frozen=True, slots=True)
class Filters:
    """What may be shown; a title must pass all of them, empty ones let everything pass."""

    languages: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    min_rating: float = 0.0  # 0..10, of the title's mean
    max_age: int | None = None  # parental ceiling in years
    include_watched: bool = False
    exclude_in_progress: bool = False


NO_FILTERS = Filters()


@dataclass(slots=True)
class Query:
    """One request for a slate."""

    user_id: str
    profile_id: str = ""
    session_id: str = ""
    request_id: str = ""
    count: int = DEFAULT_COUNT
    device: Device = Device.UNSPECIFIED
    page: Page = Page.UNSPECIFIED
    region: str = ""
    exclude_item_ids: tuple[str, ...] = ()
    genres: tuple[str, ...] = ()
    after: Position | None = None
    wait_ms: int = 100
    debug: bool = False
    filters: Filters = NO_FILTERS
    item_id: str = ""  # page ITEM: the title that is looked at
    candidate_item_ids: tuple[str, ...] = ()  # page SEARCH: only these
    serendipity: float | None = None  # share of the slate, at least
    shown: frozenset[int] = frozenset()  # 64-bit ids of titles on earlier pages
    page_number: int = 0  # of an endless slate, from 0


@dataclass(slots=True)
class SlateItem:
    """One place of a slate."""

    item_id: str
    title: str
    score: float
    source: str  # the candidate source that brought it
    arm: str  # the strategy the slot was given to
    propensity: float  # probability with which the slot went to this arm
    cause_item_id: str = ""
    cause_title: str = ""
    reason: str = ""
    features: NDArray[np.float32] | None = None  # in the order of the bundle's columns
    item_propensity: float = 1.0  # of this title, given the arm
    posterior_mean: float = 0.0  # of the arm's reward in the decision's context
    posterior_weight: float = 0.0  # answers that this rests on, prior included
    click_probability: float = 0.0  # as learnt from outcomes; 0: nothing learnt yet
    reason_kind: str = ""  # of `reason`, for texts of the client's own
    progress: float = 0.0  # 0..1, watched share
    rule_id: str = ""  # the pin or boost that moved it
    contributions: NDArray[np.float32] | None = None  # of `features` to the ranker's score


@dataclass(slots=True)
class Slate:
    """A whole answer of the recommender."""

    items: tuple[SlateItem, ...]
    bundle_version: str
    feature_version: str
    n_candidates: int
    degraded: tuple[str, ...] = ()
    feature_names: tuple[str, ...] = ()  # of `SlateItem.features`, for those who debug
    decision_context: str = ""  # see features.decision_context
    policy: str = ""  # that gave slots to arms
    model_sequence: int = 0  # of the learned state in force; 0: none
    removed: Mapping[str, int] = field(default_factory=dict)  # with debug: by filter
    stage_ms: Mapping[str, float] = field(default_factory=dict)  # where the time went
    rules: tuple[str, ...] = ()  # that took effect
    has_more: bool = False  # whether another page would have titles


@dataclass(slots=True)
class Viewer:
    """What is known of the viewer at this moment: the row, or None for an unknown one."""

    row: Rows | None  # (1,) USER_ROW
    degraded: tuple[str, ...] = ()
    waited_ms: int = 0
    after_included: bool = True


@dataclass(slots=True)
class Decision:
    """A served slate with everything needed to learn from it: what goes to `impressions`."""

    query: Query
    slate: Slate
    served_at_ms: int
    included: tuple[Position, ...] = field(default=())
    body: bytes = b""  # the slate as it is recorded, where that is written already
    is_cached: bool = False  # a slate made earlier; then `slate` says what was missing this time
    shown: NDArray[np.uint64] | None = None  # ids of its titles, where another page may follow


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a title is, or is not, on the slate that a query would get now."""

    item: SlateItem  # with features and contributions, as far as it got
    shown: bool = False
    slot: int = 0  # where it is shown
    removed_by: tuple[str, ...] = ()  # filters that take it out
    sources: tuple[str, ...] = ()  # that bring it
    cheap_rank: int = 0  # place after the first stage, from 1; 0: not a candidate
    rank: int = 0  # place by score, from 1; 0: not ranked
    feature_names: tuple[str, ...] = ()
    summary: str = ""  # a sentence for people


class UnknownItemError(Exception):
    """The catalogue of this server has no such title; the message names it."""

    def __init__(self, item_id: str) -> None:
        super().__init__(f"item_id must name a title of the catalogue; got {item_id!r}")


class Recommends(Protocol):
    """What answers requests. Called on one thread at a time; never waits for anything."""

    def recommend(self, query: Query, viewer: Viewer, now_ms: int) -> Slate:
        """A slate of at most `query.count` titles; a missing dependency is named in `degraded`."""

    def similar_items(self, item_id: str, count: int) -> tuple[SlateItem, ...]:
        """Titles that go with a title. Raises UnknownItemError."""

    def trending(self, query: Query, now_ms: int) -> tuple[SlateItem, ...]:
        """What is being watched now, of one of the query's genres if there are any."""

    def continue_watching(
        self, viewer: Viewer, count: int, now_ms: int, query: Query | None = None
    ) -> tuple[SlateItem, ...]:
        """What the viewer has begun, and next episodes; the newest first."""

    def explain(self, query: Query, viewer: Viewer, item_id: str, now_ms: int) -> Explanation:
        """Why a title is, or is not, on the slate of a query. Raises UnknownItemError."""
