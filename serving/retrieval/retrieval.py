"""The retrieval stage: asks the sources in order, those with a cause first.

In order, not side by side: each takes some 10 us, and a thread more to hand over and back (decision
6). What is asked when the time of the request is up stays unasked, and the answer says so.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features import item_row
from features.ranking import ALS
from features.windows import DAY_MS
from serving.guard.overload import FEWER, FULL, REFUSE
from serving.knowledge import Knowledge
from serving.learned import Learned
from serving.request import Request
from serving.retrieval.base import LEADING, Candidates, Quotas, Source
from serving.retrieval.faiss_index import fill_products
from serving.retrieval.personal import (
    favourite_genres,
    in_turn,
    of_genres_first,
    serendipitous,
)
from serving.retrieval.trending import (
    NEW,
    TOTAL,
    TRENDING_1D,
    TRENDING_6H,
    WEEK,
    HotLists,
)
from serving.retrieval.viewing import Begun, begun, from_list, liked, of_session

DEADLINE: Final = "deadline"  # as named in `degraded`
N_CHARTED: Final = 400  # places of the charts for a viewer of whom nothing is known
N_LIKED: Final = 3  # titles, the last ones, whose like is offered
N_OF_SESSION: Final = 3  # titles of the session whose neighbours are offered
FEWEST: Final = 10  # of a source under load
MOST_NEIGHBOURS_KEPT: Final = 8_192
ARRIVED_WITHIN_MS: Final = 14 * DAY_MS

_TOTAL = item_row.NAMES.index("item_engaged_total")

Slots = NDArray[np.int64]
Step = Callable[[Request, Candidates], None]


class Retrieval:
    """Brings candidates of one request at a time, and what their sources say of them."""

    def __init__(self, knowledge: Knowledge, quotas: Quotas, capacity: int) -> None:
        self._knowledge = knowledge
        self._quotas = quotas
        self._charted: HotLists | None = None
        self._in_turn: Slots = np.empty(0, np.int64)
        self._causes = np.zeros(capacity, np.int32)
        self._neighbours: dict[
            int, NDArray[np.int32]
        ] = {}  # of titles of sessions, strongest first
        self._neighbours_of: Learned | None = None
        self._steps: tuple[tuple[Step, int], ...] = (  # and up to what load they are asked
            (self._similar, REFUSE),
            (self._begun, REFUSE),
            (self._list, FEWER),
            (self._session, FEWER),
            (self._covisitation, FEWER),
            (self._content, FEWER),
            (self._factors, FEWER),
            (self._region, REFUSE),
            (self._genres, FULL),
            (self._charts_for_all, REFUSE),
            (self._arrivals, REFUSE),
            (self._gems, FULL),
            (self._different, FULL),
            (self._popular, REFUSE),
        )

    def gather(self, request: Request, found: Candidates) -> None:
        """Offers what the sources have for a viewer of whom something is known."""
        if request.query.candidate_item_ids:
            self.offer_asked(request, found)
            return
        request.liked = liked(request)
        found.genres = favourite_genres(request.row["taste"]["affinity"][0], request.wanted_genres)
        for step, most_load in self._steps:
            if request.load_level > most_load:
                continue
            if time.perf_counter() > request.deadline_s:
                request.degraded.append(DEADLINE)
                return
            step(request, found)

    def gather_charts(self, request: Request, found: Candidates) -> None:
        """Offers the charts, for a viewer of whom nothing is known: the lists take turns.

        What goes with the page comes first, then the viewer's region, then the charts of all.
        """
        if request.query.candidate_item_ids:
            self.offer_asked(request, found)
            return
        found.genres = request.wanted_genres
        self._similar(request, found)
        self._region(request, found)
        if request.wanted_genres:
            self._genres(request, found)
        in_turn_ = self._charts(request.hot)
        found.offer(in_turn_, len(in_turn_), Source.TRENDING)
        self._arrivals(request, found)

    def gather_begun(self, request: Request, found: Candidates) -> list[Begun]:
        """Offers what the viewer can go on with alone; in the order of the offers, all of it."""
        going_on = begun(request, self._knowledge.table)
        self._offer_begun(going_on, found)
        return going_on

    def offer_asked(self, request: Request, found: Candidates) -> None:
        """Offers the titles that the request names, in its order, and nothing else."""
        slot_of = self._knowledge.table.slot_of
        named = (slot_of(id_) for id_ in request.query.candidate_item_ids)
        slots = np.array([slot for slot in named if slot is not None], np.int64)
        found.offer(slots, len(slots), Source.SEARCH)
        request.liked = liked(request)
        self._gather_scores(request)

    def regional(self, request: Request) -> NDArray[np.int32]:
        """Slots of what the request's region watches, if that is known."""
        regions = self._knowledge.regions
        if regions is None or not request.query.region:
            return np.empty(0, np.int32)
        return regions.chart(request.query.region)

    def alike(self, slot: int, count: int) -> list[tuple[int, Source]]:
        """Titles that go with a title: by co-visitation, then by factors, then by what they are."""
        known = self._knowledge
        found: dict[int, Source] = {}
        if known.learned is not None:
            for other in known.learned.covisitation.neighbours_of(slot)[0].tolist():
                found.setdefault(other, Source.COVISITATION)
            if known.learned.has_factors[slot]:
                nearest = known.learned.nearest(known.learned.factors[slot], count + len(found) + 1)
                for other in nearest.tolist():
                    found.setdefault(other, Source.FOR_YOU)
        for other in known.content.of(slot, at_once=True).tolist():
            found.setdefault(other, Source.CONTENT)
        found.pop(slot, None)
        is_removed = known.table.is_removed
        return [pair for pair in found.items() if not is_removed(pair[0])][:count]

    def describe(self, request: Request, found: Candidates, start: int, stop: int) -> None:
        """Writes scores and causes of the candidates from place `start` to before `stop`."""
        learned = self._knowledge.learned
        if learned is None:
            return
        slots, scores = found.slots[start:stop], found.scores[start:stop]
        causes = self._causes[: stop - start]
        learned.covisitation.describe(slots, scores, causes)
        covisited = found.primary[start:stop] == Source.COVISITATION
        np.copyto(found.causes[start:stop], causes, where=covisited)
        if request.factors is not None:
            fill_products(learned.factors, slots, request.factors, scores[:, ALS])

    def end(self) -> None:
        """Leaves nothing of the request behind."""
        if self._knowledge.learned is not None:
            self._knowledge.learned.covisitation.clear()

    # --- the sources, in the order in which they are asked ---

    def _similar(self, request: Request, found: Candidates) -> None:
        """On the page of a title: what goes with it."""
        item_id = request.query.item_id
        slot = self._knowledge.table.slot_of(item_id) if item_id else None
        if slot is None:
            return
        quota = self._quotas.similar
        slots = np.array([other for other, _ in self.alike(slot, quota)], np.int64)
        found.offer(slots, quota, Source.SIMILAR, slot)

    def _begun(self, request: Request, found: Candidates) -> None:
        going_on = begun(request, self._knowledge.table)
        self._offer_begun(going_on[: self._quotas.begun], found)

    def _offer_begun(self, going_on: list[Begun], found: Candidates) -> None:
        for title in going_on:
            source = Source.CONTINUE if title.cause < 0 else Source.NEXT_EPISODE
            found.offer(np.array([title.slot]), 1, source, title.cause)

    def _list(self, request: Request, found: Candidates) -> None:
        added = from_list(request, self._knowledge.table)
        if len(added):
            found.offer(added, self._quotas.list, Source.LIST)

    def _session(self, request: Request, found: Candidates) -> None:
        """Neighbours of the titles of this session, the last one's first."""
        learned = self._knowledge.learned
        if learned is None:
            return
        quota = _fewer(self._quotas.session, request) // N_OF_SESSION
        for slot in of_session(request)[:N_OF_SESSION].tolist():
            found.offer(self._neighbours_in(learned, slot), quota, Source.SESSION, slot)

    def _neighbours_in(self, learned: Learned, slot: int) -> NDArray[np.int32]:
        """A title's neighbours, strongest first; kept, since sessions look at the same titles."""
        if self._neighbours_of is not learned or len(self._neighbours) > MOST_NEIGHBOURS_KEPT:
            self._neighbours_of, self._neighbours = learned, {}
        kept = self._neighbours.get(slot)
        if kept is None:
            kept = self._neighbours[slot] = learned.covisitation.neighbours_of(slot)[0]
        return kept

    def _covisitation(self, request: Request, found: Candidates) -> None:
        self._gather_scores(request)
        learned, quotas = self._knowledge.learned, self._quotas
        if learned is None:
            return
        covisitation = learned.covisitation
        quota = _fewer(quotas.covisitation, request)
        found.offer(covisitation.by_share(quota), quota, Source.COVISITATION)
        quota = _fewer(quotas.covisitation_cosine, request)
        found.offer(covisitation.by_cosine(quota), quota, Source.COVISITATION)

    def _gather_scores(self, request: Request) -> None:
        """What the scores of all candidates come from, whoever brings them."""
        learned = self._knowledge.learned
        if learned is not None:
            learned.covisitation.gather(request.liked)
            request.factors = learned.viewer_factors(request.liked)

    def _content(self, request: Request, found: Candidates) -> None:
        """What is like the viewer's last titles."""
        content, last = self._knowledge.content, request.liked[:N_LIKED].tolist()
        is_any_known = any(content.is_known(slot) for slot in last)
        quota = _fewer(self._quotas.content, request) // N_LIKED
        for slot in last:
            alike = content.of(slot, at_once=not is_any_known)
            is_any_known = True
            found.offer(alike, quota, Source.CONTENT, slot)

    def _factors(self, request: Request, found: Candidates) -> None:
        learned = self._knowledge.learned
        if learned is not None and request.factors is not None:
            quota = _fewer(self._quotas.for_you, request)
            nearest = learned.nearest(request.factors, quota, request.allowed)
            found.offer(nearest, quota, Source.FOR_YOU)

    def _region(self, request: Request, found: Candidates) -> None:
        chart = self.regional(request)
        if len(chart):
            found.offer(chart, _fewer(self._quotas.region, request), Source.REGION)

    def _genres(self, request: Request, found: Candidates) -> None:
        if found.genres:
            quota = _fewer(self._quotas.genre, request)
            found.offer(in_turn(request.hot.by_genre, found.genres, quota), quota, Source.GENRE)

    def _charts_for_all(self, request: Request, found: Candidates) -> None:
        quotas, hot, offer = self._quotas, request.hot.lists, found.offer
        offer(hot[TRENDING_6H], _fewer(quotas.trending_6h, request), Source.TRENDING)
        offer(hot[TRENDING_1D], _fewer(quotas.trending_1d, request), Source.TRENDING)
        offer(hot[WEEK], _fewer(quotas.week, request), Source.WEEK)
        offer(hot[NEW], _fewer(quotas.new, request), Source.NEW)

    def _arrivals(self, request: Request, found: Candidates) -> None:
        """What came to the catalogue last and nobody has touched yet."""
        known = self._knowledge
        arrivals = known.table.arrivals
        if len(arrivals):
            is_recent = request.now_ms - known.table.added_ms[arrivals] <= ARRIVED_WITHIN_MS
            is_untouched = known.mirror.values[arrivals, _TOTAL] == 0
            fresh = arrivals[is_recent & is_untouched]
            found.offer(fresh, self._quotas.arrivals, Source.ARRIVAL)

    def _gems(self, request: Request, found: Candidates) -> None:
        """Titles of few viewers that those rate well, of the viewer's genres first."""
        quota, table = self._quotas.long_tail, self._knowledge.table
        gems = of_genres_first(request.hot.gems, table.genres, found.genres, quota)
        found.offer(gems, quota, Source.LONG_TAIL)

    def _different(self, request: Request, found: Candidates) -> None:
        """Titles that are rated well and least like what the viewer watched last."""
        if len(request.liked):
            quota, contents = self._quotas.serendipity, self._knowledge.table.contents
            far = serendipitous(request.hot, contents, request.liked, quota)
            found.offer(far, quota, Source.SERENDIPITY)

    def _popular(self, request: Request, found: Candidates) -> None:
        """What has been watched most ever, into the room that is left."""
        quota = _fewer(self._quotas.popular, request)
        found.offer(request.hot.lists[TOTAL], quota, Source.POPULAR)

    def _charts(self, hot: HotLists) -> Slots:
        """The head of the lists, taking turns; made once for each version of them."""
        if self._charted is not hot:
            lists = [hot.lists[k] for k in (TRENDING_1D, WEEK, TRENDING_6H, TOTAL)]
            self._charted, self._in_turn = hot, taking_turns(lists)[:N_CHARTED]
        return self._in_turn


def _fewer(quota: int, request: Request) -> int:
    """A quota under load: half of it at each level."""
    return max(quota >> request.load_level, min(quota, FEWEST))


def lead(found: Candidates, scores: NDArray[np.float64]) -> None:
    """Puts what goes with the page's title before all else; within both the order stays."""
    n = found.n
    leading = (found.sources[:n] & LEADING) != 0
    if n and leading.any():
        scores[leading] += np.ptp(scores) + 1.0


def taking_turns(lists: Sequence[NDArray[Any]]) -> Slots:
    """The first of each list, then the second of each, and so on. O(elements).

    >>> taking_turns([np.array([1, 2, 3]), np.array([7])])
    array([1, 7, 2, 3])
    """
    turns = np.concatenate([np.arange(len(found)) for found in lists])
    elements = np.concatenate([np.asarray(found, np.int64) for found in lists])
    return elements[np.argsort(turns, kind="stable")]
