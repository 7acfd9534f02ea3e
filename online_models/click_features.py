"""What the click model sees of a served slot: a part of the logged feature vector, and the slot.

Twenty-three of the ranker's columns, at least one of each of its groups. Counts, ranks and ages are
heavy-tailed: of them the logarithm is taken. The arm that chose a title is left out: it would say
what the bandits believed at the time, which is the bandits' own business to learn.

The slot explains clicks that a place in the slate brought and not the title. At serving it has no
value: each title is scored as if in the usual place.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ranking import RANKING_COLUMNS

LOGGED: Final = (
    "item_engaged_24h", "item_engaged_total", "item_trend_1d", "item_days_known",
    "item_impressions_24h", "rank_trending", "title_age", "viewer_events", "viewer_idle_hours",
)  # fmt: skip
PLAIN: Final = (
    "item_click_rate", "item_completion_rate", "item_rating_mean", "viewer_stage",
    "user_completion_habit", "als", "covisitation_cosine", "covisitation_last", "genre_affinity",
    "cast_affinity", "quality_match", "novelty_match", "seen_before", "is_next_episode",
)  # fmt: skip
FEATURES: Final = LOGGED + PLAIN
N_FEATURES: Final = len(FEATURES)
COLUMNS: Final = (*FEATURES, "slot")  # `slot` last: only learning has it

_N_LOGGED = len(LOGGED)
_PLACES = np.array([RANKING_COLUMNS.index(name) for name in FEATURES], np.int64)

Floats = NDArray[np.float64]


def features_of(logged: NDArray[np.float32]) -> Floats:
    """`(n, N_FEATURES)` of `(n, N_COLUMNS)` logged vectors: chosen, and squeezed where heavy."""
    chosen = logged[:, _PLACES].astype(np.float64)
    heavy = chosen[:, :_N_LOGGED]
    heavy[:] = np.copysign(np.log1p(np.abs(heavy)), heavy)
    return chosen


def columns_of(logged: NDArray[np.float32], slots: NDArray[np.int16]) -> Floats:
    """`(n, len(COLUMNS))`: the features, and the logarithm of the slot, `(n,)` from 0 on."""
    places = np.log1p(np.maximum(slots, 0).astype(np.float64))
    return np.column_stack([features_of(logged), places])
