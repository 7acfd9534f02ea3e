"""Answers requests: retrieve -> hydrate -> filter -> score -> select.

    retrieve   sources offer candidates: neighbours of the viewer's last titles, factors, lists
    hydrate    a row of features for each candidate, the very function that training uses
    filter     not what the viewer has watched, what is excluded, of other genres, not out yet
    score      the bundle's trees
    select     each slot to an arm (serving/selection), the arm's best candidate into it, with its
               source, cause and reason, and with the chances that it had

Everything is computed at the request from the viewer's row and the mirror as they are: the last
event is in it. One thread at a time; arrays are made once and used again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from features import item_row
from features.compiled import Rows
from features.decision_context import CONTEXT_NAMES, context_of
from features.ranking import ALS, RANKING_COLUMNS, assemble
from features.registry import feature_version
from features.store import USERS
from features.viewing_state import REJECTED
from features.vocabulary import ARM_NAMES, Arm, genre_mask
from serving.bundle import Bundle
from serving.catalogue import CatalogueTable
from serving.overlay import Overlay
from serving.retrieval.base import (
    NO_CAUSE,
    WORDS,
    Candidates,
    Quotas,
    Source,
    allow,
    best_allowed,
)
from serving.retrieval.covisitation import Covisitation
from serving.retrieval.faiss_index import FoldIn
from serving.retrieval.trending import (
    NEW,
    TOTAL,
    TRENDING_1D,
    TRENDING_6H,
    WEEK,
    HotLists,
    Trending,
)
from serving.selection.explorer import Explorer, Plan, certain_plan
from serving.slate import MAX_COUNT, Query, Slate, SlateItem, UnknownItemError, Viewer

NO_BUNDLE: Final = "bundle"  # as named in `degraded`

REFRESH_MS: Final = 10_000
N_CHARTED: Final = 400  # places of the charts for a viewer of whom nothing is known
MIN_CANDIDATES: Final = MAX_COUNT  # with fewer left, the whole catalogue is looked through

_TREND_1D = item_row.NAMES.index("item_trend_1d")
_TREND_3D = item_row.NAMES.index("item_trend_3d")
_TOTAL = item_row.NAMES.index("item_engaged_total")
_TREND_COLUMN = RANKING_COLUMNS.index("item_trend_1d")

Floats = NDArray[np.float32]
Slots = NDArray[np.int64]


class Mirror(Protocol):
    """The matrix of titles' features; `serving.mirror.ItemMirror` is one."""

    values: Floats  # (n_items, item_row.N_COLUMNS), in the order of the catalogue table


@dataclass(frozen=True, slots=True)
class Learned:
    """A bundle over a catalogue: its rows mapped to slots, once."""

    bundle: Bundle
    slots: Slots  # (n_rows,) of the bundle's rows, -1 where the catalogue has no such title
    factors: Floats  # (n_items, n_factors), zero where the bundle has no such title
    has_factors: NDArray[np.bool_]  # (n_items,)
    fold_in: FoldIn
    covisitation: Covisitation

    @classmethod
    def of(cls, bundle: Bundle, table: CatalogueTable) -> "Learned":
        """The mapping; O(titles)."""
        models = bundle.models
        slots = table.slots_of(models.ids)
        known = slots >= 0
        factors = np.zeros((len(table), models.factors.shape[1]), np.float32)
        factors[slots[known]] = models.factors[known]
        has_factors = np.zeros(len(table), np.bool_)
        has_factors[slots[known]] = True
        return cls(
            bundle,
            slots,
            factors,
            has_factors,
            FoldIn(models.factors, models.confidence, models.regularisation),
            Covisitation(models, slots, len(table)),
        )


CERTAINLY: Final = (ARM_NAMES[Arm.RANKER], 1.0)


class Told(NamedTuple):
    """What an answer says of the slot at place `k` of a plan, in the order of SlateItem."""

    plan: Plan
    k: int
    features: Floats
    click_probability: float

    def of_arm(self) -> tuple[str, float]:
        """The arm, and its propensity."""
        return ARM_NAMES[self.plan.arms[self.k]], self.plan.propensities[self.k]

    def of_item(self) -> tuple[Floats, float, float, float, float]:
        """Features, propensity of the title, mean and weight of what is believed, clicks."""
        plan, arm = self.plan, self.plan.arms[self.k]
        belief = plan.belief
        mean, weight = (0.0, 0.0) if belief is None else (belief.means[arm], belief.weights[arm])
        chance = plan.item_propensities[self.k]
        return self.features, chance, float(mean), float(weight), self.click_probability


@dataclass(slots=True)
class Request:
    """What the stages know of one request."""

    row: Rows  # (1,) USER_ROW
    now_ms: int
    count: int
    wanted_genres: int  # a mask; 0: any
    history: Slots  # (N_TITLES,) catalogue slots of the viewer's titles, newest first, or -1
    hot: HotLists
    factors: Floats | None = None  # of the viewer; None where no title of theirs has any


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
    ) -> None:
        self._table = table
        self._mirror = mirror
        self._quotas = quotas or Quotas()
        self._learned = None if bundle is None else Learned.of(bundle, table)
        self._explorer = explorer
        self._overlay = overlay
        self._trending = Trending(len(table), refresh_ms)
        self._charted: HotLists | None = None
        self._in_turn: NDArray[np.int64] = np.empty(0, np.int64)
        self._candidates = Candidates(len(table), self._quotas.total + MIN_CANDIDATES)
        self._blocked = np.zeros(len(table), np.bool_)
        self._allowed = np.zeros(self._candidates.capacity, np.bool_)
        self._stages: tuple[Callable[[Request], None], ...] = (
            self._retrieve,
            self._hydrate,
            self._filter,
        )
        self._feature_version = feature_version()

    def use(self, bundle: Bundle | None) -> None:
        """Answers from another bundle from the next request on."""
        self._learned = None if bundle is None else Learned.of(bundle, self._table)

    @property
    def bundle_version(self) -> str:
        """Of the bundle in use; empty without one."""
        return "" if self._learned is None else self._learned.bundle.version

    def trial(self, bundle: Bundle) -> "Recommender":
        """Another one over the same catalogue and mirror, to try a bundle in another thread."""
        return Recommender(self._table, self._mirror, bundle, quotas=self._quotas)

    def adopt(self, trial: "Recommender") -> None:
        """Answers from the bundle of a trial from the next request on. O(1)."""
        self._learned = trial._learned

    def use_overlay(self, overlay: Overlay) -> None:
        """Believes what was learnt from outcomes, from the next request on."""
        self._overlay = overlay

    def recommend(self, query: Query, viewer: Viewer, now_ms: int) -> Slate:
        """A slate of `query.count` titles, fewer only when the catalogue has no more to show."""
        excluded = self._block(query.exclude_item_ids)
        try:
            request = self._request(query, viewer, now_ms)
            if viewer.row is None or self._learned is None:
                return self._fall_back(request, viewer)
            self._find(request)
            return self._select(request, self._score(), Arm.RANKER, viewer.degraded)
        finally:
            self._clear(excluded)

    def candidates(self, viewer: Viewer, now_ms: int) -> tuple[NDArray[np.int32], Floats]:
        """What a request would have to order: `(n,)` slots and `(n, n_columns)` features, copied.

        For training examples.
        """
        try:
            self._find(self._request(Query(""), viewer, now_ms))
            n = self._candidates.n
            return self._candidates.slots[:n].copy(), self._candidates.features[:n].copy()
        finally:
            self._clear([])

    def similar_items(self, item_id: str, count: int) -> tuple[SlateItem, ...]:
        """Titles that go with a title: first by co-visitation, then by factors."""
        slot = self._table.slot_of(item_id)
        if slot is None:
            raise UnknownItemError(item_id)
        if self._learned is None:
            return ()
        neighbours, cosines = self._learned.covisitation.neighbours_of(slot)
        found = {
            int(k): (float(c), Source.COVISITATION)
            for k, c in zip(neighbours, cosines, strict=True)
        }
        for k, product in self._alike(self._learned, slot, count + len(found) + 1):
            found.setdefault(k, (product, Source.FOR_YOU))
        found.pop(slot, None)
        return tuple(
            replace(self._item(k, score, source), arm="similar", reason="")
            for k, (score, source) in list(found.items())[:count]
        )

    def trending(self, count: int, genres: tuple[str, ...]) -> tuple[SlateItem, ...]:
        """What is being watched now, by the one-day trend, of one of `genres` if there are any."""
        trend = np.ascontiguousarray(self._mirror.values[:, _TREND_1D])
        slots = self._best(trend, count, USERS.empty, genre_mask(genres), _ALWAYS_MS)
        shown = [int(slot) for slot in slots if trend[slot] > 0]
        return tuple(self._item(slot, float(trend[slot]), Source.TRENDING) for slot in shown)

    def _request(self, query: Query, viewer: Viewer, now_ms: int) -> Request:
        row = USERS.empty if viewer.row is None else viewer.row
        titles = row["viewing"]["titles"][0]
        history = self._table.slots_of(np.ascontiguousarray(titles["item"]))
        return Request(
            row,
            now_ms,
            query.count,
            genre_mask(query.genres),
            history,
            self._trending.lists(self._mirror.values, now_ms),
        )

    def _find(self, request: Request) -> None:
        """The stages up to the score."""
        for stage in self._stages:
            stage(request)

    def _retrieve(self, request: Request) -> None:
        """Asks the sources; those with a cause first."""
        learned, quotas = self._learned, self._quotas
        offer, hot = self._candidates.offer, request.hot.lists
        if learned is not None:
            liked = self._liked(request)
            learned.covisitation.gather(liked)
            offer(learned.covisitation.by_share(), quotas.covisitation, Source.COVISITATION)
            offer(learned.covisitation.by_cosine(), quotas.covisitation_cosine, Source.COVISITATION)
            request.factors = self._fold_in(learned, liked)
            if request.factors is not None:
                rows = learned.bundle.index.search(request.factors, quotas.for_you)
                slots = learned.slots[rows]
                offer(slots[slots >= 0], quotas.for_you, Source.FOR_YOU)
        offer(hot[TRENDING_6H], quotas.trending_6h, Source.TRENDING)
        offer(hot[TRENDING_1D], quotas.trending_1d, Source.TRENDING)
        offer(hot[WEEK], quotas.week, Source.WEEK)
        offer(hot[NEW], quotas.new, Source.NEW)
        offer(hot[TOTAL], quotas.popular, Source.POPULAR)

    def _liked(self, request: Request) -> Slots:
        """The viewer's titles, newest first, without those that were rejected."""
        states = request.row["viewing"]["titles"]["state"][0]
        liked: Slots = request.history[(request.history >= 0) & (states != REJECTED)]
        return liked

    def _fold_in(self, learned: Learned, liked: Slots) -> Floats | None:
        known = liked[learned.has_factors[liked]]
        return learned.fold_in.viewer(learned.factors[known]) if len(known) else None

    def _hydrate(self, request: Request, start: int = 0, stop: int | None = None) -> None:
        """Features of the candidates from place `start` on, or of those up to `stop`."""
        found, learned = self._candidates, self._learned
        stop = found.n if stop is None else stop
        slots, scores = found.slots[start:stop], found.scores[start:stop]
        if learned is not None:
            learned.covisitation.describe(slots, scores, found.causes[start:stop])
            if request.factors is not None:
                scores[:, ALS] = learned.factors[slots] @ request.factors
        assemble(
            request.row[0],
            request.now_ms,
            request.history,
            slots,
            scores,
            self._mirror.values,
            request.hot.standings,
            self._table.facts,
            0 if learned is None else learned.bundle.models.latest_year,
            found.features[start:stop],
        )

    def _filter(self, request: Request) -> None:
        """Leaves what may be shown; fills up from the whole catalogue where little is left."""
        found = self._candidates
        n = found.n
        allow(
            found.slots[:n],
            request.row["viewing"][0],
            self._table.ids,
            self._table.genres,
            self._table.available_from_ms,
            self._blocked,
            request.wanted_genres,
            request.now_ms,
            self._allowed[:n],
        )
        found.keep(self._allowed[:n])
        wanted = max(request.count, MIN_CANDIDATES)
        if found.n < wanted:
            start = found.n
            popular = self._popularity()
            missing = self._best(
                popular, wanted - start, request.row, request.wanted_genres, request.now_ms
            )
            found.offer(missing, len(missing), Source.POPULAR)
            self._hydrate(request, start)

    def _score(self) -> NDArray[np.float64]:
        """A score for each candidate; by the one-day trend where there is no ranker."""
        features = self._candidates.features[: self._candidates.n]
        ranker = None if self._learned is None else self._learned.bundle.ranker
        if ranker is None or not len(features):
            return features[:, _TREND_COLUMN].astype(np.float64)
        return ranker.score(features)

    def _select(
        self, request: Request, scores: NDArray[np.float64], base: Arm, degraded: tuple[str, ...]
    ) -> Slate:
        """A slate of the candidates; equal ones stand in the order of their sources."""
        found, overlay = self._candidates, self._overlay
        order = np.argsort(-scores, kind="stable")
        plan = self._plan(request, order, base, overlay)
        features = found.features[plan.places]
        clicks = self._click_probabilities(features, overlay)
        items = tuple(
            self._item(
                int(found.slots[place]),
                float(scores[place]),
                Source(int(found.primary[place])),
                int(found.causes[place]),
                Told(plan, k, features[k], clicks[k]),
            )
            for k, place in enumerate(plan.places)
        )
        return Slate(
            items,
            "" if self._learned is None else self._learned.bundle.version,
            self._feature_version,
            found.n,
            degraded,
            RANKING_COLUMNS,
            CONTEXT_NAMES[plan.context],
            "" if overlay is None else overlay.beliefs.policy.name,
            0 if overlay is None else overlay.sequence,
        )

    def _plan(
        self, request: Request, order: NDArray[np.int64], base: Arm, overlay: Overlay | None
    ) -> Plan:
        row, now_ms = request.row[0], request.now_ms
        if self._explorer is None or overlay is None or not self._candidates.n:
            return certain_plan(order, request.count, base, context_of(row, now_ms))
        return self._explorer.plan(
            overlay.beliefs, row, now_ms, self._candidates, self._table.ids, order, request.count,
            base,
        )  # fmt: skip

    @staticmethod
    def _click_probabilities(features: Floats, overlay: Overlay | None) -> list[float]:
        if overlay is None or overlay.clicks is None:
            return [0.0] * len(features)
        probabilities: list[float] = overlay.clicks.click_probabilities(features).tolist()
        return probabilities

    def _fall_back(self, request: Request, viewer: Viewer) -> Slate:
        """What is trending, for viewers of whom nothing is known and for want of a bundle.

        The lists take turns, so that a slate has what is hot now, this week and ever.
        """
        degraded = viewer.degraded if self._learned else (*viewer.degraded, NO_BUNDLE)
        found, in_turn = self._candidates, self._charts(request.hot)
        found.offer(in_turn, len(in_turn), Source.TRENDING)
        self._filter(request)
        self._hydrate(request)
        return self._select(request, -np.arange(found.n, dtype=np.float64), Arm.TRENDING, degraded)

    def _charts(self, hot: HotLists) -> NDArray[np.int64]:
        """The head of the lists, taking turns; made once for each version of them."""
        if self._charted is not hot:
            lists = [hot.lists[k] for k in (TRENDING_1D, WEEK, TRENDING_6H, TOTAL)]
            self._charted, self._in_turn = hot, taking_turns(lists)[:N_CHARTED]
        return self._in_turn

    def _item(
        self,
        slot: int,
        score: float,
        source: Source,
        cause: int = NO_CAUSE,
        told: Told | None = None,
    ) -> SlateItem:
        table, words = self._table, WORDS[source]
        if source != Source.COVISITATION:
            cause = NO_CAUSE
        title = "" if cause == NO_CAUSE else table.titles[cause]
        return SlateItem(
            table.item_ids[slot],
            table.titles[slot],
            score,
            words.name,
            *(CERTAINLY if told is None else told.of_arm()),
            "" if cause == NO_CAUSE else table.item_ids[cause],
            title,
            words.reason.format(cause=title),
            *(() if told is None else told.of_item()),
        )

    def _popularity(self) -> Floats:
        """`(n_items,) float32` order of the whole catalogue: trend, then total, then newness."""
        values = self._mirror.values
        order: Floats = values[:, _TREND_3D] + np.float32(1e-3) * values[:, _TOTAL]
        order += np.float32(1e-8) * self._table.years
        return order

    def _best(
        self, order_by: Floats, wanted: int, row: Rows, wanted_genres: int, now_ms: int
    ) -> NDArray[np.int32]:
        best: NDArray[np.int32] = best_allowed(
            order_by,
            wanted,
            self._candidates.places,
            row["viewing"][0],
            self._table.ids,
            self._table.genres,
            self._table.available_from_ms,
            self._blocked,
            wanted_genres,
            now_ms,
        )
        return best

    def _alike(self, learned: Learned, slot: int, n: int) -> list[tuple[int, float]]:
        """Slots of the titles whose factors go best with those of one, and the products."""
        if not learned.has_factors[slot]:
            return []
        vector = learned.factors[slot]
        slots = learned.slots[learned.bundle.index.search(vector, n)]
        slots = slots[slots >= 0]
        return list(zip(slots.tolist(), (learned.factors[slots] @ vector).tolist(), strict=True))

    def _block(self, item_ids: tuple[str, ...]) -> list[int]:
        """Marks titles as excluded from this request; their slots."""
        slots = [slot for id_ in item_ids if (slot := self._table.slot_of(id_)) is not None]
        self._blocked[slots] = True
        return slots

    def _clear(self, blocked: list[int]) -> None:
        """Leaves nothing of a request behind."""
        self._blocked[blocked] = False
        self._candidates.clear()
        if self._learned is not None:
            self._learned.covisitation.clear()


_ALWAYS_MS: Final[Any] = np.iinfo(np.int64).max


def taking_turns(lists: Sequence[NDArray[Any]]) -> NDArray[np.int64]:
    """The first of each list, then the second of each, and so on. O(elements).

    >>> taking_turns([np.array([1, 2, 3]), np.array([7])])
    array([1, 7, 2, 3])
    """
    turns = np.concatenate([np.arange(len(found)) for found in lists])
    elements = np.concatenate([np.asarray(found, np.int64) for found in lists])
    return elements[np.argsort(turns, kind="stable")]
