"""The select stage: which candidate stands in which slot."""

import numpy as np

from features.decision_context import context_of
from features.vocabulary import Arm
from serving.knowledge import Knowledge
from serving.ranking.scoring import Scores
from serving.request import Request
from serving.retrieval.base import Candidates
from serving.selection.explorer import Explorer, Plan, certain_plan


class Selection:
    """Chooses a slate of scored candidates; without an explorer, the best of them."""

    def __init__(self, knowledge: Knowledge, explorer: Explorer | None) -> None:
        self._knowledge = knowledge
        self._explorer = explorer

    def choose(self, request: Request, found: Candidates, scores: Scores, base: Arm) -> Plan:
        """What stands in each slot; equal candidates stand in the order of their sources."""
        order = np.argsort(-scores, kind="stable")
        row, now_ms, count = request.row[0], request.now_ms, request.query.count
        overlay = self._knowledge.overlay
        if self._explorer is None or overlay is None or not found.n:
            return certain_plan(order, count, base, context_of(row, now_ms))
        return self._explorer.plan(
            overlay.beliefs, row, now_ms, found, self._knowledge.table.ids, order, count, base
        )
