"""The narrow, hydrate and score stages: fewer candidates, a row of features for each, a score."""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.cheap_columns import N_CHEAP, assemble_cheap
from features.ranking import RANKING_COLUMNS, assemble
from serving.bundle import Bundle
from serving.guard.overload import FEWER
from serving.knowledge import Knowledge
from serving.ranking.calibration import Calibration
from serving.ranking.cheap import keep_best
from serving.request import Request
from serving.retrieval.base import LEADING, Candidates

N_RANKED: Final = 150  # candidates that go on to the ranker, at least
N_RANKED_BUSY: Final = 60  # while the server has more to do than it can
MIN_OF_SOURCE: Final = 8  # of each source, whatever they score: an arm never stands empty-handed

_TREND_COLUMN = RANKING_COLUMNS.index("item_trend_1d")

Scores = NDArray[np.float64]
Floats = NDArray[np.float32]
Slots = NDArray[Any]


class Scoring:
    """Puts candidates in order; their sources have described them. One request at a time."""

    def __init__(self, knowledge: Knowledge) -> None:
        self._knowledge = knowledge
        self._seen: tuple[NDArray[np.int32], Scores] | None = None  # slots and first scores

    @property
    def _bundle(self) -> Bundle | None:
        learned = self._knowledge.learned
        return None if learned is None else learned.bundle

    def narrow(self, request: Request, found: Candidates, least: int = N_RANKED) -> None:
        """Leaves the best by a first look, `least` or more, and some of every source.

        O(candidates).
        """
        self._seen = None
        bundle, n = self._bundle, found.n
        wanted = least if request.load_level < FEWER else min(least, N_RANKED_BUSY)
        wanted = max(wanted, 2 * request.query.count)
        if bundle is None or bundle.cheap is None or n <= wanted:
            return
        known = self._knowledge
        columns = np.empty((N_CHEAP, n), np.float32)
        assemble_cheap(
            request.row,
            request.history,
            found.slots[:n],
            found.scores[:n],
            known.mirror.values,
            request.hot.standings,
            known.table.facts,
            bundle.models.latest_year,
            columns,
        )
        scores = bundle.cheap.score(columns)
        self._seen = found.slots[:n].copy(), scores
        scores[: len(request.pins)] = np.inf  # they were offered first
        scores[(found.sources[:n] & LEADING) != 0] = np.inf
        kept = np.zeros(n, np.bool_)
        kept[keep_best(scores, found.sources[:n], wanted, MIN_OF_SOURCE)] = True
        found.keep(kept)

    def first_rank(self, slot: int) -> int:
        """Place of a title by the first look at this request, from 1; 0: there was none."""
        if self._seen is None:
            return 0
        slots, scores = self._seen
        places = np.flatnonzero(slots == slot)
        return 1 + int((scores > scores[places[0]]).sum()) if len(places) else 0

    def hydrate(self, request: Request, found: Candidates) -> None:
        """Fills the features of all candidates, by the very function that training uses."""
        known, bundle, n = self._knowledge, self._bundle, found.n
        assemble(
            request.row,
            request.now_ms,
            request.history,
            found.slots[:n],
            found.scores[:n],
            known.mirror.values,
            request.hot.standings,
            known.table.facts,
            0 if bundle is None else bundle.models.latest_year,
            found.features[:n],
        )

    def score(self, found: Candidates) -> Scores:
        """`(n,) float64`, larger is better; by the one-day trend where there is no ranker.

        What the models learn from outcomes has the say that the bundle gives it.
        """
        features, bundle = found.features[: found.n], self._bundle
        if bundle is None or bundle.ranker is None or not len(features):
            return features[:, _TREND_COLUMN].astype(np.float64)
        scores = bundle.ranker.score(features)
        overlay = self._knowledge.overlay
        clicks = None if overlay is None else overlay.clicks
        if clicks is None or not bundle.fusion.asks_models:
            return bundle.fusion.scores(scores)
        return bundle.fusion.scores(
            scores, clicks.click_probabilities(features), clicks.watch_shares(features)
        )

    def click_probabilities(self, features: Floats, scores: Scores) -> list[float]:
        """Of rows of features and their final scores: by the bundle's table, else as learnt.

        Zeros where there is neither.
        """
        calibration: Calibration | None = None if self._bundle is None else self._bundle.calibration
        overlay = self._knowledge.overlay
        if calibration is not None:
            return list(calibration.probabilities(scores).tolist())
        if overlay is None or overlay.clicks is None:
            return [0.0] * len(features)
        return list(overlay.clicks.click_probabilities(features).tolist())
