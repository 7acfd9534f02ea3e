"""Arms: strategies that a slot may be given to, each a set of the candidates.

Within an arm, candidates stand in the order of the score. Its set comes from where a candidate was
found and from what is known of it:

    ranker         every candidate
    als            found by the viewer's factors
    covisitation   found beside what the viewer watched
    trending       on the charts of hours, a day or the week
    content        the fifth of the candidates whose genres, decade, language and cast the viewer
                   likes best
    long_tail      a title of few viewers, rated well by those
    serendipity    of the half of the candidates that is farthest from the viewer's genres, rated
                   well
    new            first seen lately
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.ranking import RANKING_COLUMNS
from features.vocabulary import Arm
from serving.retrieval.base import Candidates, Source

CONTENT_SHARE: Final = 0.2
FAR_SHARE: Final = 0.5
GOOD_RATING_LOW: Final = 6.0  # lower bound of the mean; 5.85 for a title without ratings

_FOUND_BY: Final = (
    (Arm.ALS, (Source.FOR_YOU,)),
    (Arm.COVISITATION, (Source.COVISITATION,)),
    (Arm.TRENDING, (Source.TRENDING, Source.WEEK)),
    (Arm.NEW, (Source.NEW,)),
)
_AFFINITIES: Final = [
    RANKING_COLUMNS.index(f"{name}_affinity") for name in ("genre", "year", "language", "cast")
]
_GENRE_AFFINITY: Final = _AFFINITIES[0]
_LONG_TAIL: Final = RANKING_COLUMNS.index("is_long_tail")
_RATING_LOW: Final = RANKING_COLUMNS.index("item_rating_low")

Bits = NDArray[np.uint16]


def arm_bits(found: Candidates) -> Bits:
    """`(n,) uint16`: bit `arm` where a candidate belongs to it. About 30 us for 500."""
    n = found.n
    features, sources = found.features[:n], found.sources[:n]
    bits = np.full(n, 1 << Arm.RANKER, np.uint16)
    for arm, found_by in _FOUND_BY:
        wanted = sum(1 << source for source in found_by)
        _mark(bits, arm, (sources & np.uint16(wanted)) != 0)
    is_good = features[:, _RATING_LOW] >= GOOD_RATING_LOW
    _mark(bits, Arm.LONG_TAIL, (features[:, _LONG_TAIL] > 0) & is_good)
    likes = features[:, _AFFINITIES].sum(axis=1)
    _mark(bits, Arm.CONTENT, (likes > 0) & (likes >= _quantile(likes, 1.0 - CONTENT_SHARE)))
    genres = features[:, _GENRE_AFFINITY]
    _mark(bits, Arm.SERENDIPITY, is_good & (genres <= _quantile(genres, FAR_SHARE)))
    return bits


def _mark(bits: Bits, arm: Arm, members: NDArray[np.bool_]) -> None:
    bits[members] |= np.uint16(1 << arm)


def _quantile(values: NDArray[np.float32], share: float) -> float:
    """The value that `share` of the others do not exceed; zero of none. O(n)."""
    if not len(values):
        return 0.0
    place = min(int(share * len(values)), len(values) - 1)
    return float(np.partition(values, place)[place])
