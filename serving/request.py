"""What the stages know of one request."""

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from features.compiled import Rows
from features.store import USERS
from features.vocabulary import genre_mask
from serving import metrics
from serving.catalogue import CatalogueTable
from serving.retrieval.trending import HotLists
from serving.slate import Query, Viewer

Floats = NDArray[np.float32]
Slots = NDArray[np.int64]

NOTHING: Slots = np.zeros(0, np.int64)


@dataclass(slots=True)
class Request:
    """One request on its way through the stages."""

    query: Query
    row: Rows  # (1,) USER_ROW; the empty one of an unknown viewer
    now_ms: int
    wanted_genres: int  # a mask; 0: any
    history: Slots  # (N_TITLES,) catalogue slots of the viewer's titles, newest first, or -1
    hot: HotLists
    load_level: int = 0  # 0..3: how much is to be left out; see serving.guard
    liked: Slots = field(default_factory=lambda: NOTHING)  # of these, without rejected ones
    deadline_s: float = float("inf")  # by time.perf_counter: sources that come later are left out
    degraded: list[str] = field(default_factory=list)  # what this request did without
    allowed: NDArray[np.bool_] | None = None  # (n_items,) set where less than half may be shown
    pins: tuple[tuple[int, int], ...] = ()  # (slot of the slate, catalogue slot), by rules
    boosts: Floats | None = None  # (n,) by candidate, in deviations of the score; None: no rule
    rules: tuple[str, ...] = ()  # ids of those that took effect
    rule_of: dict[int, str] = field(default_factory=dict)  # pin or boost by catalogue slot
    factors: Floats | None = None  # of the viewer; None where no title of theirs has any
    removed: dict[str, int] = field(default_factory=dict)  # candidates taken out, by filter
    stage_ms: dict[str, float] = field(default_factory=dict)
    n_candidates: int = 0  # that may be shown, before the first look

    @classmethod
    def of(
        cls, query: Query, viewer: Viewer, now_ms: int, table: CatalogueTable, hot: HotLists
    ) -> "Request":
        """What is known before the first stage."""
        row = USERS.empty if viewer.row is None else viewer.row
        titles = np.ascontiguousarray(row["viewing"]["titles"][0]["item"])
        return cls(query, row, now_ms, genre_mask(query.genres), table.slots_of(titles), hot)

    def note(self, stage: str, since_s: float) -> float:
        """Notes what a stage took since a moment of `time.perf_counter`; returns that of now."""
        now_s = time.perf_counter()
        self.stage_ms[stage] = 1_000 * (now_s - since_s)
        metrics.STAGES[stage].observe(now_s - since_s)
        return now_s
