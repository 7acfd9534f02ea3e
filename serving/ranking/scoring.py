"""The hydrate and score stages: a row of features for each candidate, and a score."""

import numpy as np
from numpy.typing import NDArray

from features.ranking import RANKING_COLUMNS, assemble
from serving.knowledge import Knowledge
from serving.request import Request
from serving.retrieval.base import Candidates

_TREND_COLUMN = RANKING_COLUMNS.index("item_trend_1d")

Scores = NDArray[np.float64]


class Scoring:
    """Puts candidates in order; their sources have described them."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge

    def hydrate(self, request: Request, found: Candidates) -> None:
        """Fills the features of all candidates, by the very function that training uses."""
        known, n = self._knowledge, found.n
        assemble(
            request.row[0],
            request.now_ms,
            request.history,
            found.slots[:n],
            found.scores[:n],
            known.mirror.values,
            request.hot.standings,
            known.table.facts,
            0 if known.learned is None else known.learned.bundle.models.latest_year,
            found.features[:n],
        )

    def score(self, found: Candidates) -> Scores:
        """`(n,) float64`, larger is better; by the one-day trend where there is no ranker."""
        features, learned = found.features[: found.n], self._knowledge.learned
        ranker = None if learned is None else learned.bundle.ranker
        if ranker is None or not len(features):
            return features[:, _TREND_COLUMN].astype(np.float64)
        return ranker.score(features)

    def click_probabilities(self, features: NDArray[np.float32]) -> list[float]:
        """Of rows of features, as learnt from outcomes; zeros where nothing was."""
        overlay = self._knowledge.overlay
        if overlay is None or overlay.clicks is None:
            return [0.0] * len(features)
        probabilities: list[float] = overlay.clicks.click_probabilities(features).tolist()
        return probabilities
