"""The retrieval stage: asks the sources, those with a cause first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.ranking import ALS
from features.viewing_state import REJECTED
from serving.knowledge import Knowledge
from serving.request import Request
from serving.retrieval.base import Candidates, Quotas, Source
from serving.retrieval.trending import (
    NEW,
    TOTAL,
    TRENDING_1D,
    TRENDING_6H,
    WEEK,
    HotLists,
)

N_CHARTED = 400  # places of the charts for a viewer of whom nothing is known

Slots = NDArray[np.int64]


class Retrieval:
    """Brings candidates of one request at a time, and what their sources say of them."""

    def __init__(self, knowledge: Knowledge, quotas: Quotas) -> None:
        self._knowledge = knowledge
        self._quotas = quotas
        self._charted: HotLists | None = None
        self._in_turn: Slots = np.empty(0, np.int64)

    def gather(self, request: Request, found: Candidates) -> None:
        """Offers what the sources have for a viewer of whom something is known."""
        learned, quotas = self._knowledge.learned, self._quotas
        offer, hot = found.offer, request.hot.lists
        if learned is not None:
            liked = _liked(request)
            learned.covisitation.gather(liked)
            offer(learned.covisitation.by_share(), quotas.covisitation, Source.COVISITATION)
            offer(learned.covisitation.by_cosine(), quotas.covisitation_cosine, Source.COVISITATION)
            request.factors = learned.viewer_factors(liked)
            if request.factors is not None:
                nearest = learned.nearest(request.factors, quotas.for_you)
                offer(nearest, quotas.for_you, Source.FOR_YOU)
        offer(hot[TRENDING_6H], quotas.trending_6h, Source.TRENDING)
        offer(hot[TRENDING_1D], quotas.trending_1d, Source.TRENDING)
        offer(hot[WEEK], quotas.week, Source.WEEK)
        offer(hot[NEW], quotas.new, Source.NEW)
        offer(hot[TOTAL], quotas.popular, Source.POPULAR)

    def gather_charts(self, request: Request, found: Candidates) -> None:
        """Offers the charts, for a viewer of whom nothing is known: the lists take turns."""
        in_turn = self._charts(request.hot)
        found.offer(in_turn, len(in_turn), Source.TRENDING)

    def describe(self, request: Request, found: Candidates, start: int, stop: int) -> None:
        """Writes scores and causes of the candidates from place `start` to before `stop`."""
        learned = self._knowledge.learned
        if learned is None:
            return
        slots, scores = found.slots[start:stop], found.scores[start:stop]
        learned.covisitation.describe(slots, scores, found.causes[start:stop])
        if request.factors is not None:
            scores[:, ALS] = learned.factors[slots] @ request.factors

    def end(self) -> None:
        """Leaves nothing of the request behind."""
        if self._knowledge.learned is not None:
            self._knowledge.learned.covisitation.clear()

    def _charts(self, hot: HotLists) -> Slots:
        """The head of the lists, taking turns; made once for each version of them."""
        if self._charted is not hot:
            lists = [hot.lists[k] for k in (TRENDING_1D, WEEK, TRENDING_6H, TOTAL)]
            self._charted, self._in_turn = hot, taking_turns(lists)[:N_CHARTED]
        return self._in_turn


def _liked(request: Request) -> Slots:
    """The viewer's titles, newest first, without those that were rejected."""
    states = request.row["viewing"]["titles"]["state"][0]
    liked: Slots = request.history[(request.history >= 0) & (states != REJECTED)]
    return liked


def taking_turns(lists: Sequence[NDArray[Any]]) -> Slots:
    """The first of each list, then the second of each, and so on. O(elements).

    >>> taking_turns([np.array([1, 2, 3]), np.array([7])])
    array([1, 7, 2, 3])
    """
    turns = np.concatenate([np.arange(len(found)) for found in lists])
    elements = np.concatenate([np.asarray(found, np.int64) for found in lists])
    return elements[np.argsort(turns, kind="stable")]
