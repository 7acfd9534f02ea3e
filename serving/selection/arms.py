"""Arms: strategies that a slot may be given to, each a set of the candidates.

Within an arm, candidates stand in the order of the score. Its set comes from where a candidate was
found and from what is known of it:

    ranker         every candidate
    als            found by the viewer's factors
    covisitation   found beside what the viewer watched
    trending       on the charts of hours, a day or the week
    content        found by what the viewer's titles are, or of the fifth of the candidates whose
                   genres, decade, language and cast the viewer likes best
    long_tail      a title of few viewers, rated well by those
    serendipity    found far from the viewer's taste, or of the half of the candidates that is
                   farthest from the viewer's genres, rated well
    new            first seen lately
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.ranking import RANKING_COLUMNS
from features.vocabulary import Arm
from serving.retrieval.base import Source
from serving.selection.standing import nth_smallest

CONTENT_SHARE: Final = 0.2
FAR_SHARE: Final = 0.5
GOOD_RATING_LOW: Final = 6.0  # lower bound of the mean; 5.85 for a title without ratings

_FOUND_BY: Final = np.array(  # (bit of the arm, bits of its sources)
    [
        (1 << Arm.ALS, 1 << Source.FOR_YOU),
        (1 << Arm.COVISITATION, 1 << Source.COVISITATION | 1 << Source.SESSION),
        (1 << Arm.TRENDING, 1 << Source.TRENDING | 1 << Source.WEEK | 1 << Source.REGION),
        (1 << Arm.NEW, 1 << Source.NEW | 1 << Source.ARRIVAL),
        (1 << Arm.CONTENT, 1 << Source.CONTENT),
        (1 << Arm.LONG_TAIL, 1 << Source.LONG_TAIL),
        (1 << Arm.SERENDIPITY, 1 << Source.SERENDIPITY),
    ],
    np.int64,
)
_RANKER, _LONG_TAIL = int(Arm.RANKER), int(Arm.LONG_TAIL)
_CONTENT, _SERENDIPITY = int(Arm.CONTENT), int(Arm.SERENDIPITY)
_AFFINITIES: Final = np.array(
    [RANKING_COLUMNS.index(f"{name}_affinity") for name in ("genre", "year", "language", "cast")],
    np.int64,
)
_GENRE_AFFINITY: Final = RANKING_COLUMNS.index("genre_affinity")
_IS_LONG_TAIL: Final = RANKING_COLUMNS.index("is_long_tail")
_RATING_LOW: Final = RANKING_COLUMNS.index("item_rating_low")

Bits = NDArray[np.uint16]


@compiled
def mark_arms(features: NDArray[np.float32], sources: NDArray[np.uint32], bits: Bits) -> None:
    """Fills `bits` for `(n, N_COLUMNS)` features and `(n,)` sources. O(n)."""
    n = len(bits)
    likes = np.zeros(n, np.float32)
    for i in range(n):
        for column in _AFFINITIES:
            likes[i] += features[i, column]
    liked = max(_quantile(likes, 1.0 - CONTENT_SHARE), 0.0)
    far = _quantile(features[:, _GENRE_AFFINITY], FAR_SHARE)
    for i in range(n):
        found = 1 << _RANKER
        for k in range(len(_FOUND_BY)):
            if sources[i] & _FOUND_BY[k, 1]:
                found |= _FOUND_BY[k, 0]
        is_good = features[i, _RATING_LOW] >= GOOD_RATING_LOW
        if is_good and features[i, _IS_LONG_TAIL] > 0:
            found |= 1 << _LONG_TAIL
        if likes[i] > 0 and likes[i] >= liked:
            found |= 1 << _CONTENT
        if is_good and features[i, _GENRE_AFFINITY] <= far:
            found |= 1 << _SERENDIPITY
        bits[i] = found


@compiled
def _quantile(values: NDArray[np.float32], share: float) -> float:
    """The value that `share` of the others do not exceed; zero of none. O(n)."""
    if len(values) == 0:
        return 0.0
    return nth_smallest(values.copy(), min(int(share * len(values)), len(values) - 1))
