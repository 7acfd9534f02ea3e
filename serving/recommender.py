"""Answers requests: retrieve -> filter -> narrow -> hydrate -> score -> select.

    retrieve   sources offer candidates: neighbours of the viewer's last titles, factors, lists
    filter     not what the viewer has watched, what is excluded, of other genres, not out yet
    narrow     a first look at all of them: the best go on, and some of every source
    hydrate    a row of features for each that is left, the very function that training uses
    score      the bundle's trees, and what is learnt from outcomes as far as the bundle lets it
    select     each slot to an arm, the arm's best candidate into it, with the chances that it had

Everything is computed at the request from the viewer's row and the mirror as they are: the last
event is in it. One thread at a time; arrays are made once and used again.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features import item_row
from features.decision_context import CONTEXT_NAMES
from features.ranking import RANKING_COLUMNS
from features.registry import feature_version
from features.store import USERS
from features.vocabulary import GENRES, Arm
from serving.bundle import Bundle
from serving.catalogue import CatalogueTable
from serving.explaining import Explainer, with_contributions
from serving.filtering.filter import Filter, FilterConfig
from serving.guard.overload import CHARTS, LoadLevel
from serving.knowledge import Knowledge, Mirror
from serving.learned import Learned
from serving.overlay import Overlay
from serving.presentation import Offer, Presentation
from serving.ranking.scoring import Scores, Scoring
from serving.request import Request
from serving.retrieval import regional
from serving.retrieval.base import MOST_CANDIDATES, Candidates, Quotas, Source
from serving.retrieval.regional import RegionCharts
from serving.retrieval.retrieval import Retrieval, lead
from serving.retrieval.trending import Trending
from serving.rules.book import RuleBook
from serving.selection.config import SelectionConfig
from serving.selection.explorer import Explorer, Plan
from serving.selection.selection import Selection
from serving.shelf import Shelf
from serving.slate import (
    MAX_COUNT,
    Explanation,
    Query,
    Slate,
    SlateItem,
    UnknownItemError,
    Viewer,
)

NO_BUNDLE, OVERLOAD = "bundle", "overload"  # as named in `degraded`

REFRESH_MS: Final = 10_000
MIN_CANDIDATES: Final = MAX_COUNT  # with fewer left, the whole catalogue is looked through

_TREND_1D = item_row.NAMES.index("item_trend_1d")

Floats = NDArray[np.float32]


class Recommender:
    """Recommends titles of a catalogue table; `mirror.values` has a row for each of its slots.

    Without a bundle, slates are what is trending, and say so in `degraded`.
    """

    def __init__(
        self,
        table: CatalogueTable,
        mirror: Mirror,
        bundle: Bundle | None,
        *,
        quotas: Quotas | None = None,
        refresh_ms: int = REFRESH_MS,
        explorer: Explorer | None = None,
        overlay: Overlay | None = None,
        regions: RegionCharts | None = None,
        load: LoadLevel | None = None,
        budget_s: float = float("inf"),
        filters: FilterConfig | None = None,
        selection: SelectionConfig | None = None,
    ) -> None:
        """`regions` has charts of regions; a request gives its sources at most `budget_s`.

        `load` says at each request how much is to be left out. Without `selection` slates are the
        best by score.
        """
        quotas = quotas or Quotas()
        learned = None if bundle is None else Learned.of(bundle, table)
        trending = Trending(table, refresh_ms)
        self._knowledge = Knowledge(table, mirror, trending, learned, overlay, regions=regions)
        self._budget_s = budget_s
        self._load = load or LoadLevel()
        self._quotas = quotas
        self._explorer = explorer
        self._filters = filters
        self._selection_config = selection
        self._feature_version = feature_version()
        self._make_stages()
        self.shelf = Shelf(self._knowledge, self._make_stages)

    def _make_stages(self) -> None:
        """The stages, and their arrays by slot: anew for a bigger table."""
        known, quotas = self._knowledge, self._quotas
        capacity = min(quotas.total, MOST_CANDIDATES) + MIN_CANDIDATES
        self._candidates = Candidates(len(known.table), capacity)
        self._retrieval = Retrieval(known, quotas, capacity)
        self._filter = Filter(known, self._filters)
        self._scoring = Scoring(known)
        self._selection = Selection(known, self._explorer, self._selection_config)
        self._presentation = Presentation(known.table)
        self._explainer = Explainer(
            known,
            self._candidates,
            self._retrieval,
            self._filter,
            self._scoring,
            self._presentation,
        )

    def use(self, bundle: Bundle | None) -> None:
        """Answers from another bundle from the next request on."""
        table = self._knowledge.table
        self._knowledge.learned = None if bundle is None else Learned.of(bundle, table)

    @property
    def bundle_version(self) -> str:
        """Of the bundle in use; empty without one."""
        learned = self._knowledge.learned
        return "" if learned is None else learned.bundle.version

    @property
    def bundle_made_ms(self) -> int:
        """When the bundle in use was made; 0 without one."""
        learned = self._knowledge.learned
        manifest = None if learned is None else learned.bundle.manifest
        return 0 if manifest is None else manifest.created_at_ms

    def trial(self, bundle: Bundle) -> "Recommender":
        """Another one over the same catalogue and mirror, to try a bundle in another thread."""
        return Recommender(
            self._knowledge.table, self._knowledge.mirror, bundle, quotas=self._quotas
        )

    def adopt(self, trial: "Recommender") -> None:
        """Answers from the bundle of a trial from the next request on.

        O(1), but for a catalogue that outgrew its room, or got titles of the bundle, meanwhile.
        """
        theirs, own = trial._knowledge, self._knowledge
        learned = theirs.learned
        is_current = theirs.table is own.table
        if learned is None or (is_current and not learned.is_behind(own.table)):
            own.learned = learned
        else:
            self.use(learned.bundle)

    def use_overlay(self, overlay: Overlay) -> None:
        """Believes what was learnt from outcomes, from the next request on."""
        self._knowledge.overlay = overlay

    def use_rules(self, book: RuleBook) -> None:
        """Goes by other rules, from the next request on."""
        self._knowledge.rules = book

    def edge_after_ms(self, at_ms: int) -> int:
        """The next moment at which what may be shown changes by itself, as far as is known."""
        return self._filter.edge_after_ms(at_ms)

    def has_rules_for(self, user_id: str) -> bool:
        """Whether some rule is for this account alone: then its slates are nobody else's."""
        return self._knowledge.rules.speaks_of(user_id)

    def keep(self, now_ms: int) -> None:
        """Makes the charts anew; for a thread that does so again and again.

        From the first call on no request makes them.
        """
        trending = self._knowledge.trending  # before the values, which are swapped before it
        trending.refresh(self._knowledge.mirror.values, now_ms)
        trending.is_kept = True

    def keep_wanted(self, now_ms: int) -> None:
        """Works out what requests asked for and went without; for the same thread."""
        known = self._knowledge
        known.content.work_out_wanted()
        if known.regions is not None:
            known.regions.refresh(known.table, now_ms)

    def wake_by(self, wake: Callable[[], None]) -> None:
        """Who is to be told when there is something for `keep_wanted`."""
        known = self._knowledge
        known.content.wake = wake
        if known.regions is not None:
            known.regions.wake = wake

    def recommend(self, query: Query, viewer: Viewer, now_ms: int) -> Slate:
        """A slate of `query.count` titles, fewer only when the catalogue has no more to show."""
        request = self._begin(query, viewer, now_ms)
        try:
            return self._decide(request, viewer)
        finally:
            self._end()

    def warm_up(self, now_ms: int) -> None:
        """Has compiled what only some calls come to: many candidates, new titles, regions."""
        known, found = self._knowledge, self._candidates
        known.content.warm_up()
        regional.warm_up(now_ms)
        known.table.slot_of("warm-up")
        known.table.slots_of(np.frombuffer(bytes(8), np.uint64))  # of an array that is read only
        query = Query("warm-up", count=1, genres=GENRES[:1])
        self.continue_watching(Viewer(USERS.empty), 1, now_ms, query)
        request = self._begin(query, Viewer(None), now_ms)
        try:
            self._retrieval.gather_charts(request, found)
            self._scoring.narrow(request, found, least=1)
            found.keep(np.ones(found.n, np.bool_))
        finally:
            self._end()

    def explain(self, query: Query, viewer: Viewer, item_id: str, now_ms: int) -> Explanation:
        """Why a title is, or is not, on the slate of a query. Raises UnknownItemError."""
        slot = self._knowledge.table.slot_of(item_id)
        if slot is None:
            raise UnknownItemError(item_id)
        request = self._begin(replace(query, debug=True), viewer, now_ms)
        request.deadline_s = float("inf")  # whoever asks why waits for all sources
        try:
            slate = self._decide(request, viewer)
            return self._explainer.explain(request, slate, slot, is_known=self._is_known(viewer))
        finally:
            self._end()

    def candidates(self, viewer: Viewer, now_ms: int) -> tuple[NDArray[np.int32], Floats]:
        """What a request would have to order: `(n,)` slots and `(n, n_columns)` features, copied.

        For training examples.
        """
        request = self._begin(Query(""), viewer, now_ms)
        try:
            self._find(request)
            n = self._candidates.n
            return self._candidates.slots[:n].copy(), self._candidates.features[:n].copy()
        finally:
            self._end()

    def offers(self, query: Query, viewer: Viewer, now_ms: int) -> list[Offer]:
        """What each source brings for a request, that may be shown; to look into it."""
        request = self._begin(query, viewer, now_ms)
        try:
            found = self._candidates
            if viewer.row is None or self._knowledge.learned is None:
                self._retrieval.gather_charts(request, found)
                self._sift(request)
            else:
                self._find(request)
            return [self._presentation.offer(found, place) for place in range(found.n)]
        finally:
            self._end()

    def similar_items(self, item_id: str, count: int) -> tuple[SlateItem, ...]:
        """Titles that go with a title: by co-visitation, by factors, then by what they are.

        The score is the cosine of what they are.
        """
        table = self._knowledge.table
        slot = table.slot_of(item_id)
        if slot is None:
            raise UnknownItemError(item_id)
        found = self._retrieval.alike(slot, count)
        cosines = table.contents[[other for other, _ in found]] @ table.contents[slot]
        return tuple(
            self._presentation.alike(other, cosine, source)
            for (other, source), cosine in zip(found, cosines.tolist(), strict=True)
        )

    def continue_watching(
        self, viewer: Viewer, count: int, now_ms: int, query: Query | None = None
    ) -> tuple[SlateItem, ...]:
        """What the viewer has begun, and what comes after what was watched; newest first.

        Only what the query lets pass, if there is one.
        """
        request = self._begin(query or Query(""), viewer, now_ms)
        try:
            found = self._candidates
            going_on = {title.slot: title for title in self._retrieval.gather_begun(request, found)}
            self._filter.apply(request, found)
            slots = found.slots[: min(found.n, count)].tolist()
            return tuple(self._presentation.begun(going_on[slot]) for slot in slots)
        finally:
            self._end()

    def trending(self, query: Query, now_ms: int) -> tuple[SlateItem, ...]:
        """What is being watched now, of the genres of a query if any.

        First what its region watches, if that is known, then by the one-day trend.
        """
        trend = np.ascontiguousarray(self._knowledge.mirror.values[:, _TREND_1D])
        request = self._begin(query, Viewer(None), now_ms)
        found = self._candidates
        try:
            found.offer(self._retrieval.regional(request), query.count, Source.REGION)
            self._filter.apply(request, found)
            regional = found.slots[: min(found.n, query.count)].tolist()
            rest = self._filter.best(request, trend, query.count - len(regional), found.places)
        finally:
            self._end()
        return tuple(
            self._presentation.listed(slot, float(trend[slot]), source)
            for slots, source in ((regional, Source.REGION), (rest.tolist(), Source.TRENDING))
            for slot in slots
            if trend[slot] > 0 or source == Source.REGION
        )

    def _is_known(self, viewer: Viewer) -> bool:
        """Whether a slate is ranked for the viewer, rather than taken from the charts."""
        return viewer.row is not None and self._knowledge.learned is not None

    def _decide(self, request: Request, viewer: Viewer) -> Slate:
        """The slate; candidates stay as they are."""
        if not self._is_known(viewer):
            return self._fall_back(request, viewer)
        if request.load_level >= CHARTS:
            request.degraded.append(OVERLOAD)
        found, since_s = self._candidates, time.perf_counter()
        self._filter.admit_pins(request, found)
        self._retrieval.gather(request, found)
        since_s = request.note("retrieve", since_s)
        self._filter_out(request)
        since_s = request.note("filter", since_s)
        self._retrieval.describe(request, found, 0, found.n)
        request.n_candidates = found.n
        self._scoring.narrow(request, found)
        since_s = request.note("narrow", since_s)
        self._scoring.hydrate(request, found)
        since_s = request.note("hydrate", since_s)
        scores = self._scoring.score(found)
        lead(found, scores)
        since_s = request.note("score", since_s)
        slate = self._select(request, scores, Arm.RANKER, viewer.degraded)
        request.note("select", since_s)
        return slate

    def _begin(self, query: Query, viewer: Viewer, now_ms: int) -> Request:
        known = self._knowledge
        request = Request.of(query, viewer, now_ms, known.table, known.hot(now_ms))
        request.deadline_s = time.perf_counter() + self._budget_s
        request.load_level = self._load.level
        self._filter.begin(request)
        return request

    def _end(self) -> None:
        """Leaves nothing of a request behind."""
        self._candidates.clear()
        self._filter.end()
        self._retrieval.end()

    def _find(self, request: Request) -> None:
        """The stages up to the score, for a viewer of whom something is known."""
        self._filter.admit_pins(request, self._candidates)
        self._retrieval.gather(request, self._candidates)
        self._sift(request)

    def _filter_out(self, request: Request) -> None:
        """Leaves what may be shown, and fills up where that is little."""
        found = self._candidates
        self._filter.apply(request, found)
        self._filter.refill(request, found, max(request.query.count + 1, MIN_CANDIDATES))

    def _sift(self, request: Request) -> None:
        """From candidates to hydrated candidates that may be shown, all of them."""
        found = self._candidates
        self._filter_out(request)
        self._retrieval.describe(request, found, 0, found.n)
        request.n_candidates = found.n
        self._scoring.hydrate(request, found)

    def _select(
        self, request: Request, scores: Scores, base: Arm, degraded: tuple[str, ...]
    ) -> Slate:
        """The slate."""
        found = self._candidates
        self._filter.boost(request, found)
        plan = self._selection.choose(request, found, scores, base)
        return self._slate(request, plan, scores, degraded)

    def _slate(
        self, request: Request, plan: Plan, scores: Scores, degraded: tuple[str, ...]
    ) -> Slate:
        found, known = self._candidates, self._knowledge
        places = plan.places
        clicks = self._scoring.click_probabilities(found.features[places], scores[places])
        learned, overlay = known.learned, known.overlay
        items = self._presentation.items(plan, found, scores, clicks, request.rule_of)
        if request.query.debug:
            items = with_contributions(known, items)
        return Slate(
            items,
            "" if learned is None else learned.bundle.version,
            self._feature_version,
            request.n_candidates,
            (*degraded, *request.degraded),
            RANKING_COLUMNS,
            CONTEXT_NAMES[plan.context],
            "" if overlay is None else overlay.beliefs.policy.name,
            0 if overlay is None else overlay.sequence,
            removed=request.removed,
            stage_ms=request.stage_ms,
            rules=request.rules,
            has_more=found.n > len(plan.places),
        )

    def _fall_back(self, request: Request, viewer: Viewer) -> Slate:
        """What is trending, for viewers of whom nothing is known and for want of a bundle.

        The lists take turns, so that a slate has what is hot now, this week and ever.
        """
        has_bundle = self._knowledge.learned is not None
        degraded = viewer.degraded if has_bundle else (*viewer.degraded, NO_BUNDLE)
        found = self._candidates
        self._filter.admit_pins(request, found)
        self._retrieval.gather_charts(request, found)
        self._sift(request)
        return self._select(request, -np.arange(found.n, dtype=np.float64), Arm.TRENDING, degraded)
