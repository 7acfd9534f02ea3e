"""The select stage: which candidate stands in which slot."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.decision_context import context_at
from features.vocabulary import Arm
from online_models.bandits import BanditState
from online_models.item_arms import ItemPolicy
from serving import metrics
from serving.guard.overload import FULL
from serving.knowledge import Knowledge
from serving.ranking.scoring import Scores
from serving.request import Request
from serving.retrieval.base import Candidates
from serving.selection.config import PLAIN, SelectionConfig
from serving.selection.explorer import Explorer, Known, Plan, nothing_known
from serving.selection.slots import (
    ARM,
    DIVERSITY,
    ENTROPY,
    ITEM_PROPENSITY,
    PLACE,
    PROPENSITY,
    SLOT_NAMES,
    fill_slate,
)

_NO_BOOSTS: Final = np.zeros(0, np.float32)
_NO_PINS: Final = np.zeros((0, 2), np.int64)


class Selection:
    """Chooses slates of scored candidates; without an explorer nothing is left to chance.

    Without a config slates are the best by score; the server is given that of its settings. Not for
    several threads at once.
    """

    def __init__(
        self,
        knowledge: Knowledge,
        explorer: Explorer | None,
        config: SelectionConfig | None = None,
    ) -> None:
        self._knowledge = knowledge
        self._is_exploring = explorer is not None
        self._explorer = explorer or Explorer(0.0, np.random.default_rng(0))
        self._config = config or PLAIN
        self._nothing = nothing_known(), ItemPolicy.of(BanditState().arrays()), 0.0
        self._told = np.zeros(2)
        self._slots_of = [metrics.SLATE_SLOTS.labels(name) for name in SLOT_NAMES]

    def choose(self, request: Request, found: Candidates, scores: Scores, base: Arm) -> Plan:
        """What stands in each slot; equal candidates stand in the order of their sources."""
        context = context_at(request.row, request.now_ms)
        if not found.n:
            return Plan(context=context)
        known, items, share = self._beliefs(context, found)
        slate = self._fill(request, found, scores, int(base), known, items, share)
        plan = Plan(
            slate[:, PLACE].astype(np.int64).tolist(),
            slate[:, ARM].astype(np.int64).tolist(),
            slate[:, PROPENSITY].tolist(),
            slate[:, ITEM_PROPENSITY].tolist(),
            context,
            None if known is self._nothing[0] else known.belief,
            float(self._told[DIVERSITY]),
            float(self._told[ENTROPY]),
        )
        self._tell(plan)
        return plan

    def _beliefs(self, context: int, found: Candidates) -> tuple[Known, ItemPolicy, float]:
        """What is believed of arms and titles, and with what probability a slot explores."""
        overlay = self._knowledge.overlay
        if overlay is None or not self._is_exploring:
            return self._nothing
        beliefs = overlay.beliefs
        known = self._explorer.known(beliefs, context, found.features[0])
        return known, beliefs.items, self._explorer.share(context)

    def _fill(
        self,
        request: Request,
        found: Candidates,
        scores: Scores,
        base: int,
        known: Known,
        items: ItemPolicy,
        share: float,
    ) -> NDArray[np.float64]:
        """The slate as `fill_slate` makes it: everything handed over as plain arrays and numbers.

        A tuple of five arrays would cost 5 us on its way into compiled code, the arrays 0.5.
        """
        table, config, query = self._knowledge.table, self._config, request.query
        slate: NDArray[np.float64] = fill_slate(
            scores,
            found.features,
            found.sources,
            found.slots,
            _NO_BOOSTS if request.boosts is None else request.boosts,
            table.genres,
            table.ids,
            table.contents,
            self._places_of_pins(request, found),
            known.draws,
            known.shares,
            known.means,
            *items.tables,
            self._explorer.chances(min(query.count, found.n)),
            share,
            base,
            query.serendipity or 0.0,
            config.diversity if request.load_level == FULL else 0.0,
            config.genre_cap,
            request.wanted_genres,
            config.popularity_damping,
            config.coverage_boost,
            self._told,
        )
        return slate

    @staticmethod
    def _places_of_pins(request: Request, found: Candidates) -> NDArray[np.int64]:
        """`(p, 2)` slots and places of pinned titles; one that is no candidate has no place."""
        if not request.pins:
            return _NO_PINS
        pins = np.array(request.pins, np.int64)
        pins[:, 1] = found.places[pins[:, 1]]
        return pins

    def _tell(self, plan: Plan) -> None:
        metrics.SLATE_DIVERSITY.observe(plan.diversity)
        metrics.SLATE_GENRE_ENTROPY.observe(plan.genre_entropy)
        for arm in set(plan.arms):
            self._slots_of[arm].inc(plan.arms.count(arm))
