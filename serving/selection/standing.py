"""In which order candidates stand: the score, and what is added to it or taken from it.

    standing = (score - mean) / deviation                 of the best N_STANDARD scores
               - damping * popularity percentile          what everybody knows anyway
               + boost / (1 + impressions of 24 h / HALF_SHOWN)    what was hardly shown
               + what rules lift it by

A ranker's scores have no scale of their own; divided by the deviation of those that matter, the
weights mean the same for any bundle. The lift for titles that were hardly shown lies within
0..boost, so no title comes far up for that alone.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from features.compiled import compiled
from features.ranking import RANKING_COLUMNS

N_STANDARD: Final = 100
HALF_SHOWN: Final = 100.0  # impressions of a day at which half of the lift is left
_PERCENTILE: Final = RANKING_COLUMNS.index("popularity_percentile")
_IMPRESSIONS: Final = RANKING_COLUMNS.index("item_impressions_24h")

Scores = NDArray[np.float64]
Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@compiled
def stand(
    scores: Scores,
    features: Floats,
    boosts: Floats,
    damping: float,
    coverage: float,
    standings: Floats,
) -> None:
    """Fills `standings`, `(n,) float32`, of `(n,)` scores and `(>= n, N_COLUMNS)` features. O(n).

    `boosts`, `(n,)`, come from rules, or `(0,)` for none.
    """
    mean, deviation = _moments(scores)
    for i in range(len(scores)):
        found = (scores[i] - mean) / deviation
        if damping > 0.0:
            found -= damping * features[i, _PERCENTILE]
        if coverage > 0.0:
            found += coverage / (1.0 + max(features[i, _IMPRESSIONS], 0.0) / HALF_SHOWN)
        if i < len(boosts):
            found += boosts[i]
        standings[i] = found


@compiled
def _moments(scores: Scores) -> tuple[float, float]:
    """Mean and deviation of the best N_STANDARD scores; one where they do not differ."""
    n = min(len(scores), N_STANDARD)
    least = -np.inf
    if n < len(scores):
        least = nth_smallest(scores.copy(), len(scores) - n)
    count, total, squares = 0, 0.0, 0.0
    for score in scores:
        if score >= least:
            count += 1
            total += score
    mean = total / max(count, 1)
    for score in scores:
        if score >= least:
            squares += (score - mean) ** 2
    deviation = math.sqrt(squares / max(count, 1))
    return mean, deviation if deviation > 0.0 else 1.0


@compiled
def nth_smallest(values: NDArray[Any], n: int) -> float:
    """The element at place `n` if `values` were sorted; they change their order. O(len) on average.

    C. A. R. Hoare: Algorithm 65, Find, 1961. `np.partition` takes 7 s longer to compile.
    """
    low, high = 0, len(values) - 1
    while low < high:
        middle, i, j = values[n], low, high
        while i <= j:
            while values[i] < middle:
                i += 1
            while middle < values[j]:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i, j = i + 1, j - 1
        if j < n:
            low = i
        if n < i:
            high = j
    return float(values[n])


@compiled
def in_order(standings: Floats) -> Ints:
    """`(n,)` places, best first, equal ones in their order. O(n log n); 4 us for 150.

    A standing and its place make one whole number, so that numbers are sorted and nothing else: the
    bits of a float32 rise with it, once those of a negative one are turned over.
    """
    bits = standings.view(np.int32)
    keys = np.empty(len(bits), np.int64)
    for i in range(len(bits)):
        rising = np.int64(bits[i])
        if rising < 0:
            rising = np.int64(-(2**31)) - rising
        keys[i] = (-rising << 32) | i
    keys.sort()
    for i in range(len(keys)):
        keys[i] &= 0xFFFFFFFF
    return keys
